"""Forwarding in the kernel goes on while processes come and go: upgrades, one that fails, a process that is killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from tests.scenarios.test_kernel_listener import World, both, world
from tests.scenarios.test_upgrade import gone, upgraded
from tests.support import forking
from tests.support.forking import Forked
from tests.support.forwarding import said
from tests.support.namespaces import BACKEND, FRONT, Host, Hosts
from tests.support.slow import first_and_slow
from tests.support.users import OTHER_USER, directory_of_all
from tests.support.waiting import wait_until

# Short sessions, one after the other, until its input ends; then how many, and what went wrong.
BUSY = """
import json, select, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
done, failed = 0, []
print("up", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        with socket.create_connection((host, port), timeout=5) as sock:
            sock.sendall(b"?")
            assert sock.recv(100).endswith(b"?")
        done += 1
    except (OSError, AssertionError) as error:
        failed.append(repr(error))
print(json.dumps([done, failed[:5]]), flush=True)
"""


class Busy:
    """A client with short sessions."""

    def __init__(self, process: Forked) -> None:
        self._process = process

    def end(self) -> int:
        """How many sessions it has had: none failed."""
        self._process.stdin.close()
        done, failed = json.loads(said(self._process))
        assert not failed
        return int(done)


@contextlib.contextmanager
def busy(client: Host, family: int = 4) -> Iterator[Busy]:
    with client.python(BUSY, FRONT[family], "80") as process:
        assert said(process) == "up"
        yield Busy(process)


def sixty(made: World) -> dict[str, str]:
    """Connections that stay, and who answers them."""
    return both(made, count=40) | both(made, 6, count=20)


def expect_all(made: World, found: dict[str, str]) -> None:
    assert {name: made.ask(name, int(name[0])) for name in found} == found


@pytest.mark.parametrize("user", first_and_slow(OTHER_USER, ""))
def test_upgrades_take_nothing_from_flows(user: str, hosts: Hosts) -> None:
    """Without a right, too: then the programs stay those that are there."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(directory_of_all())
        if user:
            shutil.chown(directory, user)
        made = stack.enter_context(world(hosts, directory, user=user))
        running = stack.enter_context(busy(hosts.client))
        found, pid = sixty(made), made.process.process.pid
        asked = {f"q{number}": made.query(f"q{number}") for number in range(10)}
        for _ in range(3):
            before, pid = pid, upgraded(made.process, pid, made.admin)
            assert wait_until(lambda before=before: gone(before))
            expect_all(made, found)
            assert {name: made.query(name) for name in asked} == asked
        sessions = running.end()
        assert sessions > 20
        assert made.listener("web")["sessions_total"] == 40 + sessions
        assert [made.listener(name)["sessions_total"] for name in ("web6", "dns")] == [20, 10]
        assert wait_until(lambda: made.listener("web6")["sessions_active"] == 20)
        made.command("backend", "drain", "web", f"{BACKEND[4]}:8002")
        assert {made.ask(f"new-{number}") for number in range(20)} == {"8001"}
        expect_all(made, found)
        made.command("ban", "add", "10.81.1.2")
        assert made.ask("banned", within_s=1) == "TimeoutError"


def test_an_upgrade_that_fails_changes_nothing(hosts: Hosts, tmp_path: Path) -> None:
    with world(hosts, tmp_path) as made, busy(hosts.client) as running:
        found, text = sixty(made), made.file.read_text()
        made.file.write_text(text.replace('policy = "maglev"', 'policy = "nosuch"'))
        done = forking.run("upgrade", "--admin", made.admin)
        assert done.returncode == 1, done.stderr
        expect_all(made, found)
        made.command("backend", "drain", "web", f"{BACKEND[4]}:8002")
        assert {made.ask(f"new-{number}") for number in range(20)} == {"8001"}
        expect_all(made, found)
        assert running.end() > 20


def test_a_file_that_leaves_a_listener_out_keeps_its_flows(hosts: Hosts, tmp_path: Path) -> None:
    with world(hosts, tmp_path) as made:
        found, text = sixty(made), made.file.read_text()
        start, end = text.index("[listeners.web6]"), text.index("[listeners.dns]")
        made.file.write_text(text[:start] + text[end:])
        upgraded(made.process, made.process.process.pid, made.admin)
        names = (f"6-new-{number}" for number in itertools.count())
        assert wait_until(lambda: made.ask(next(names), 6) == "ConnectionRefusedError")
        expect_all(made, found)
