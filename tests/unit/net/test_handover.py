"""Messages and descriptors between two processes."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from l4lb.net.handover import Channel, receive_ahead


def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair()
    return Channel(one), Channel(other)


def test_messages_come_whole_with_their_descriptors() -> None:
    here, there = pair()
    read, write = os.pipe()
    large = {"kind": "start", "overlay": "x" * 3_000_000}
    sender = threading.Thread(target=lambda: (here.send({"kind": "a"}, [read, write]), here.send(large)))
    sender.start()
    message, fds = there.receive(20)
    assert message == {"kind": "a"}
    assert not any(os.get_inheritable(fd) for fd in fds)
    os.write(fds[1], b"through the copy")
    assert os.read(read, 100) == b"through the copy"
    assert there.receive(20) == (large, [])
    sender.join()
    for fd in (read, write, *fds):
        os.close(fd)
    here.close()
    with pytest.raises(ConnectionError):
        there.receive(20)
    there.close()


def test_silence_and_nonsense_are_errors_that_leave_no_descriptor() -> None:
    here, there = pair()
    with pytest.raises(TimeoutError):
        there.receive(0.05)
    read, write = os.pipe()
    socket.send_fds(here.sock, [bytes(8)], [read, write])
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConnectionError, match="no message of ours"):
        there.receive(20)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(read)
    os.close(write)
    here.close()
    there.close()


def test_no_program_inherits_what_comes_in_bulk_or_ahead() -> None:
    here, there = pair()
    read, write = os.pipe()
    here.send_bulk(b"data", [read, write], 20)
    data, fds = there.receive_bulk(4, 2, 20)
    assert data == b"data"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    socket.send_fds(ours, [b"12345678"], [read, write])
    ours.close()
    ahead: list[int] = []
    receive_ahead(theirs, lambda _, fds: ahead.extend(fds), 20)
    assert len(fds) == len(ahead) == 2
    assert not any(map(os.get_inheritable, [*fds, *ahead]))
    for fd in (read, write, *fds, *ahead):
        os.close(fd)
    for one in (here, there, theirs):
        one.close()
