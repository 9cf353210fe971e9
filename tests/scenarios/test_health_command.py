"""``l4lb health`` against `l4lb serve` as a process, in every state that it can be in."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import forking
from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, l4lb
from tests.support.waiting import wait_until

FILE = """
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[listeners.side]
bind = "127.0.0.1:0"
pool = "two words"
[pools.web]
backends = ["{backend}"]
health = {{ type = "none" }}
[pools."two words"]
backends = [{{ address = "{backend}", admin_state = "maint" }}]
health = {{ type = "none" }}
"""
NONE = 'l4lb: pool "two words" has no usable backend\n'


class Checked:
    def __init__(self, process: L4lb, admin: str) -> None:
        self.process, self.admin = process, admin

    def health(self, *arguments: str, timeout: str = "60s") -> tuple[int, str]:
        """Exit code and stderr; nothing is ever printed."""
        done = forking.run("health", "--timeout", timeout, *arguments, environment={"L4LB_ADMIN": self.admin})
        assert done.stdout == ""
        return done.returncode, done.stderr

    def command(self, *arguments: str) -> None:
        done = forking.run(*arguments, environment={"L4LB_ADMIN": self.admin})
        assert done.returncode == 0, done.stderr


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Checked]:
    with serving(echo) as server:
        file = tmp_path / "lb.toml"
        file.write_text(FILE.format(backend=server.address))
        admin = f"unix:{tmp_path}/admin.sock"
        with l4lb("serve", "-c", str(file), "--admin", admin) as process:
            process.wait_for("admin listening")
            yield Checked(process, admin)


def test_what_counts_can_be_chosen(served: Checked) -> None:
    assert served.health() == (1, NONE)
    assert served.health("--listener", "web") == (0, "")
    assert served.health("--pool", "web", "--min-backends", "1") == (0, "")
    assert served.health("--pool", "two words") == (1, NONE)
    assert served.health("--listener", "side") == (1, NONE)
    assert served.health("--listener", "side", "--pool", "web") == (0, "")
    assert served.health("--pool", "web", "--min-backends", "2") == (
        1,
        'l4lb: pool "web" has 1 usable backend, 2 are wanted\n',
    )
    code, said = served.health("--listener", "wbe", "--pool", "none", "--pool", "two words")
    assert (code, said.splitlines()) == (
        1,
        ['l4lb: there is no listener "wbe"', 'l4lb: there is no pool "none"', NONE.strip()],
    )


def test_it_follows_what_happens(served: Checked) -> None:
    served.command("backend", "ready", "two words", served_backend(served))
    assert served.health() == (0, "")
    served.command("drain", "--listener", "side")
    assert served.health() == (1, 'l4lb: listener "side" drains\n')
    assert served.health("--listener", "web") == (0, "")
    with connect(served.process.address("web")):  # a session that keeps it alive
        served.command("drain", "--timeout", "60s")
        assert served.health("--listener", "web") == (1, "l4lb: the process is draining\n")
    assert served.process.wait() == 0
    code, said = served.health()
    assert code == 1
    assert said.startswith("l4lb: no answer from the instance: ")


def served_backend(served: Checked) -> str:
    done = forking.run("backend", "list", "two words", environment={"L4LB_ADMIN": served.admin})
    return next(word for word in done.stdout.split() if word.startswith("127.0.0.1:"))


def test_one_that_hangs_is_not_healthy(served: Checked) -> None:
    served.process.hang()
    try:
        expected = (1, "l4lb: no answer from the instance: it does not answer in time\n")
        assert served.health("--listener", "web", timeout="200ms") == expected
    finally:
        served.process.signal(signal.SIGCONT)
    assert wait_until(lambda: served.health("--listener", "web") == (0, ""))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--timeout", "0"),
        ("--timeout", "soon"),
        ("--min-backends", "0"),
        ("--min-backends", "x"),
        ("--admin", "lb.example:9900"),
        ("--admin", "nonsense"),
        ("--nothing",),
        ("surplus",),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = forking.run("health", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("l4lb: ")
