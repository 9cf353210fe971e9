"""A new process that takes no session, or dies or hangs at any point: all sessions go on here, and lose nothing."""

from __future__ import annotations

import socket
import sys
import threading
from array import array

import psutil
import pytest

from l4lb import LoadBalancer
from l4lb.control.process import tcp_handover
from l4lb.control.state.tags import SessionTags
from l4lb.errors import UpgradeError
from l4lb.model.forwarder import ExportedTcp
from tests.support.balancing import address_of, balancing
from tests.support.peers import connect, echo, read_exactly, read_until_end, serving

SUCCESSOR = """
import os, signal, socket, sys, time
from l4lb._native.tcp_migration import FORMAT
from l4lb.net.handover import Channel, receive_ahead
where = sys.argv[1]
channel = Channel.of_fd(int(os.environ["L4LB_TAKEOVER_FD"]))
def reach(point):
    if point == where:
        os.kill(os.getpid(), signal.SIGKILL)
    if where == point + " hangs":
        time.sleep(100)
while channel.receive(20)[0]["kind"] != "start":
    pass
channel.send({"kind": "ready", "tcp_format": FORMAT})
reach("ready")
while channel.receive(20)[0]["kind"] != "moved":
    pass
reach("moved")
said, fds = channel.receive(20)
assert said["kind"] == "tcp_names"
reach("names")
ahead = []
with socket.socket(fileno=fds[0]) as sock:
    receive_ahead(sock, lambda ids, fds: ahead.extend(fds), 20)
reach("ahead")
channel.send({"kind": "prepared"} if where != "no" else {"kind": "not_taken", "reason": "no room"})
if where == "no":
    time.sleep(100)
said, _ = channel.receive(20)
assert said["kind"] == "tcp"
reach("frozen")
state, fds = channel.receive_bulk(said["bytes"], said["fds"], 20)
reach("received")
assert len(ahead) + len(fds) == 2 * said["count"], (len(ahead), len(fds), said)
if where == "taken":
    channel.send({"kind": "taken"})
    reach("taken")
channel.send({"kind": "not_taken", "reason": "no room"})
time.sleep(100)
"""
DIES = ["ready", "moved", "names", "ahead", "frozen", "received", "no", "ahead hangs", "frozen hangs"]


def clients(balancer: LoadBalancer, count: int) -> list[socket.socket]:
    found = [connect(address_of(balancer)) for _ in range(count)]
    for number, sock in enumerate(found):
        sock.sendall(b"hello %3d" % number)
    return found


def answered(socks: list[socket.socket]) -> bool:
    return [read_exactly(sock, 9) for sock in socks] == [b"hello %3d" % number for number in range(len(socks))]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Waits are short where one is to end, and long elsewhere, for a busy machine."""
    waits_s = 3.0 if "hangs" in request.node.name else 30.0
    monkeypatch.setattr(tcp_handover, "_FROZEN_WITHIN_S", 30.0)
    for name in ("_SOON_S", "_TAKEN_WITHIN_S"):
        monkeypatch.setattr(tcp_handover, name, waits_s)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("where", DIES)
def test_a_new_process_that_takes_nothing(where: str) -> None:
    with serving(echo) as server, balancing([server.address]) as balancer:
        balancer.plane.upgrading.successor.command = [sys.executable, "-c", SUCCESSOR, where]
        socks = clients(balancer, 70)
        assert answered(socks)
        stop = threading.Event()
        upgrading = threading.Thread(target=lambda: (upgrade(balancer), stop.set()))
        upgrading.start()
        rounds = 0
        while not stop.is_set():
            for number, sock in enumerate(socks):
                sock.sendall(b"hello %3d" % number)
            assert answered(socks)
            rounds += 1
        upgrading.join()
        assert rounds > 0
        for _ in range(2):
            socks[0].close()
            socks = [*socks[1:], *clients(balancer, 1)][: len(socks)]
            for sock in socks[-1:]:
                read_exactly(sock, 9)
        for number, sock in enumerate(socks):
            sock.sendall(b"hello %3d" % number)
        assert answered(socks)
        for sock in socks:  # who had gone ahead sees its end
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
            sock.close()


def upgrade(balancer: LoadBalancer) -> None:
    with pytest.raises(UpgradeError):
        balancer.upgrade()


@pytest.mark.usefixtures("fast")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the Popen of one that goes on
def test_one_that_says_no_takes_the_clients_to_come() -> None:
    heard: list[tuple[str, object]] = []
    with serving(echo) as server, balancing([server.address]) as balancer:
        balancer.plane.events.subscribe(lambda event: heard.append((event.kind, event.fields.get("reason"))))
        balancer.plane.upgrading.successor.command = [sys.executable, "-c", SUCCESSOR, "to the end"]
        socks = clients(balancer, 5)
        assert answered(socks)
        before = set(psutil.Process().children())
        balancer.upgrade()
        assert ("sessions_stay", "no room") in heard
        for number, sock in enumerate(socks):
            sock.sendall(b"hello %3d" % number)
        assert answered(socks)
        for sock in socks:
            sock.close()
        for child in set(psutil.Process().children()) - before:
            child.kill()
            child.wait()


@pytest.mark.usefixtures("fast")
def test_one_that_ends_when_it_has_taken_them() -> None:
    """This process still has them, and resets them: some bytes may be lost, and nobody is to take that for an end."""
    with serving(echo) as server, balancing([server.address]) as balancer:
        balancer.plane.upgrading.successor.command = [sys.executable, "-c", SUCCESSOR, "taken"]
        socks = clients(balancer, 20)
        assert answered(socks)
        with pytest.raises(UpgradeError, match="20 are reset"):
            balancer.upgrade()
        assert [read_until_end(sock) for sock in socks] == [(b"", True)] * len(socks)
        for sock in socks:
            sock.close()
        again = clients(balancer, 5)
        assert answered(again)
        for sock in again:
            sock.close()


def test_tags_that_came_since_they_were_sent_go_with_the_sessions() -> None:
    tags = SessionTags()
    ours, theirs = map(tcp_handover.Channel, socket.socketpair())
    with ours.sock, theirs.sock, balancing(["127.0.0.1:1"]) as balancer:
        tags.keep(1, {"k": "ahead"})
        assert tags.all().keys() == {1}
        tags.keep(2, {"k": "later"})
        leaving = tcp_handover.Leaving(balancer.plane.forwarder.tcp, 0, {}, tags)
        tcp_handover._describe(ours, leaving, ExportedTcp(2, b"state", array("i")), 7)
        described = tcp_handover._receive(theirs)
        assert described is not None
        assert described.tags == {2: {"k": "later"}}
        assert (described.exported.count, described.exported.state, described.began_ns) == (2, b"state", 7)
        assert ours.receive(1)[0] == {"kind": "prepared"}
