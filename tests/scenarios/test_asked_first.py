"""Commands that take something from clients: what they ask in a terminal, and that scripts are not asked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Commands
from tests.support.peers import connect, echo, serving
from tests.support.programs import free_port, l4lb
from tests.support.typed import Typed
from tests.support.waiting import wait_until

FILE = """
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
[pools.web]
backends = [{{ address = "{backend}", id = "one" }}, {{ address = "{backend}", id = "two" }}]
health = {{ type = "none" }}
"""


class Instance(Commands):
    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(f"unix:{directory}/admin.sock")
        self.address = f"127.0.0.1:{port}"

    def type(self, answer: str, *arguments: str) -> tuple[int, str]:
        """Of a command that asks: its exit code, and what it shows."""
        with Typed(*arguments, columns=250, environment=self.environment) as terminal:
            terminal.wait_for("Go on? [y/N]")
            terminal.type(answer)
            return terminal.end()

    def unasked(self, *arguments: str) -> str:
        """What a command shows in a terminal that does not ask."""
        with Typed(*arguments, columns=250, environment=self.environment) as terminal:
            code, shown = terminal.end()
        assert (code, "Go on?" in shown) == (0, False), shown
        return shown

    @property
    def sessions(self) -> int:
        return len(json.loads(self.ok("session", "list", "--json")))

    @property
    def states(self) -> list[str]:
        return [one["admin_state"] for one in json.loads(self.ok("backend", "list", "web", "--json"))]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    port = free_port()
    with serving(echo) as server:
        (tmp_path / "lb.toml").write_text(FILE.format(port=port, backend=server.address))
        arguments = ("-c", str(tmp_path / "lb.toml"), "--workers", "1", "--admin", f"unix:{tmp_path}/admin.sock")
        with l4lb("serve", *arguments) as process:
            process.wait_for("admin listening")
            yield Instance(tmp_path, port)


@contextlib.contextmanager
def clients(instance: Instance, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connect(instance.address))
        assert wait_until(lambda: instance.sessions == count)
        yield


def test_many_sessions_are_ended_after_a_yes(instance: Instance) -> None:
    with clients(instance, 3):
        said = instance.ok("session", "kill", "--pool", "web", "--dry-run")
        assert said == "dry run: 3 sessions of clients at 1 address would be reset\n"
        code, shown = instance.type("n\n", "session", "kill", "--pool", "web")
        assert code == 1
        assert "3 sessions of clients at 1 address would be reset" in shown
        assert "l4lb: nothing was done" in shown
        assert instance.sessions == 3
        code, shown = instance.type("y\n", "session", "kill", "--source", "127.0.0.0/8")
        assert (code, shown.splitlines()[-1]) == (0, "ended 3 sessions")


def test_one_session_is_ended_at_once_as_are_many_with_yes_or_in_a_script(instance: Instance) -> None:
    with clients(instance, 1):
        first = json.loads(instance.ok("session", "list", "--json"))[0]["id"]
        assert instance.unasked("session", "kill", first) == "ended 1 session\n"
    with clients(instance, 2):
        assert instance.unasked("session", "kill", "--pool", "web", "--yes") == "ended 2 sessions\n"
    with clients(instance, 2):
        assert instance.ok("session", "kill", "--pool", "web") == "ended 2 sessions\n"


def test_the_last_usable_backend_goes_after_a_yes(instance: Instance) -> None:
    assert instance.unasked("backend", "maint", "web", "one").endswith("admin state maint\n")
    for arguments in (("maint", "web", "two"), ("drain", "web", "two"), ("weight", "web", "two", "0"),
                      ("remove", "web", "two")):  # fmt: skip
        code, shown = instance.type("\n", "backend", *arguments)
        assert (code, "usable backends of pool web: 1 now, 0 then" in shown) == (1, True), shown
    assert instance.states == ["maint", "ready"]
    said = instance.ok("backend", "remove", "web", "two", "--dry-run")
    assert said == "dry run: two, with 0 sessions, would be removed; usable backends of pool web: 1 now, 0 then\n"
    assert instance.ok("backend", "ready", "web", "one", "--dry-run").startswith("dry run: one, with 0 sessions")
    assert instance.states == ["maint", "ready"]
    assert instance.type("y\n", "backend", "drain", "web", "two")[0] == 0
    assert instance.states == ["maint", "drain"]
    assert instance.unasked("backend", "remove", "web", "two").endswith("removed\n"), "it served nobody"


def test_the_whole_instance_drains_after_a_yes(instance: Instance) -> None:
    said = instance.ok("drain", "--dry-run")
    assert "stop accepting (web); its sessions may go on for 30s, then they are reset, and it exits" in said
    code, shown = instance.type("\x04", "drain")
    assert (code, "interrupted" in shown) == (130, True), shown
    assert instance.type("n\n", "drain", "--timeout", "5s")[0] == 1
    assert "drains, at most" not in instance.ok("status")
    code, shown = instance.type("y\n", "drain", "--wait")
    assert (code, shown.splitlines()[-1]) == (0, "the instance: drained, no session was left")


def test_a_dry_run_finds_what_is_wrong(instance: Instance) -> None:
    for arguments, said in (
        (("drain", "--listener", "none", "--dry-run"), 'no listener "none"'),
        (("backend", "maint", "web", "three", "--dry-run"), 'no backend "three"'),
        (("drain", "--listener", "web", "--undo", "--dry-run"), "--undo goes with --listener alone"),
    ):
        code, _, err = instance.run(*arguments)
        assert code in (1, 2)
        assert said in err
