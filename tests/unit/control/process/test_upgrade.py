"""A new process that is none, says nothing, or ends: this one goes on and says why."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import psutil
import pytest

from l4lb.errors import UpgradeError
from tests.support.balancing import address_of, balancing
from tests.support.peers import connect, one_answer, serving
from tests.support.waiting import wait_until

CASES = {
    "missing": (["/no/such/program"], r"/no/such/program: cannot be started: No such file"),
    "silent": (["sleep", "100"], r"was not ready within 0\.3 s"),
    "ended": (["false"], r"ended with exit code 1"),
}


@pytest.mark.parametrize("case", CASES)
def test_this_one_goes_on(case: str) -> None:
    command, reason = CASES[case]
    with serving(one_answer(b"still here")) as server, balancing([server.address]) as balancer:
        successor = balancer.plane.upgrading.successor
        successor.command, successor.ready_within_s = command, 0.3
        for _ in range(2):
            with pytest.raises(UpgradeError, match=reason):
                balancer.upgrade()
            with connect(address_of(balancer)) as sock:
                sock.sendall(b"?")
                assert sock.recv(100) == b"still here"
        balancer.pools["web"].add("127.0.0.1:1")


def test_a_change_meanwhile_waits_and_is_not_lost() -> None:
    with serving(one_answer(b"here")) as server, balancing([server.address]) as balancer:
        successor, heard = balancer.plane.upgrading.successor, list[str]()
        successor.command, successor.ready_within_s = ["sleep", "100"], 0.5
        balancer.plane.events.subscribe(lambda event: heard.append(event.kind))
        started = threading.Event()

        def environment() -> dict[str, str]:
            started.set()
            return dict(os.environ)

        successor.environment = environment

        def upgrade() -> None:
            with pytest.raises(UpgradeError):
                balancer.upgrade()

        upgrading = threading.Thread(target=upgrade)
        upgrading.start()
        assert started.wait(20)
        balancer.pools["web"].add("127.0.0.1:1")
        upgrading.join()
        assert heard == ["upgrade_failed", "backend_set"]
        assert len(balancer.config.pools["web"].backends) == 2


LATE = """
import os, sys, time
from l4lb.net.handover import Channel
channel = Channel.of_fd(int(os.environ["L4LB_TAKEOVER_FD"]))
while channel.receive(20)[0]["kind"] != "start":
    pass
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
channel.send({"kind": "ready"})
time.sleep(100)
"""


def test_one_that_is_told_to_end_meanwhile_has_no_successor(tmp_path: Path) -> None:
    with balancing(["127.0.0.1:1"]) as balancer:
        go = tmp_path / "go"
        balancer.plane.upgrading.successor.command = [sys.executable, "-c", LATE, str(go)]
        failed: list[UpgradeError] = []

        def upgrade() -> None:
            with pytest.raises(UpgradeError) as caught:
                balancer.upgrade()
            failed.append(caught.value)

        before = children()
        upgrading = threading.Thread(target=upgrade)
        upgrading.start()
        assert wait_until(lambda: children() - before, 20)
        (child,) = children() - before
        assert balancer.drain()
        go.touch()
        upgrading.join()
        assert "the process is draining: it was told to end meanwhile" in str(failed[0])
        assert child not in children()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_an_embedded_one_has_no_command() -> None:
    with balancing(["127.0.0.1:1"]) as balancer, pytest.raises(UpgradeError, match="only a process of `l4lb serve`"):
        balancer.upgrade()
