"""The end of a session: what its peers see, and that it gives everything back."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from tests.support.waiting import wait_until

probe = pytest.importorskip("_l4lb_probe_worker", reason="the probe modules are not built (L4LB_PROBE=1)")
NORMAL, CLIENT_ABORT, HALF_CLOSE_TIMEOUT, SHUTDOWN = 0, 1, 6, 17  # close_reason_t


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname(), timeout=20)
        other, _ = server.accept()
    other.settimeout(20)
    return one, other


def fill(sock: socket.socket) -> int:
    """Send until nothing goes any more: how many bytes that were."""
    sock.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(b"x" * 65536)
    return sent


def test_a_reset_reaches_the_peer() -> None:
    one, other = pair()
    with one, other:
        probe.reset(one.detach())
        with pytest.raises(ConnectionResetError):
            other.recv(1)


def test_unsent_bytes_are_those_that_the_peer_has_not_taken() -> None:
    one, other = pair()
    with one, other:
        assert probe.unsent(one.fileno()) == 0
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # what waits goes by a few bytes at a time
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sent = fill(one)
        assert 0 < probe.unsent(one.fileno()) <= sent
        assert probe.has_unsent(one.fileno())
        while sent:
            sent -= len(other.recv(65536))
        assert wait_until(lambda: probe.unsent(one.fileno()) == 0)
        one.shutdown(socket.SHUT_WR)
        assert other.recv(1) == b""
        assert wait_until(lambda: not probe.has_unsent(one.fileno())), "the FIN counts until it is acknowledged"
    assert probe.unsent(-1) == 0


def test_after_a_reset_nothing_is_to_be_taken_any_more() -> None:
    one, other = pair()
    with one:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        fill(one)
        probe.reset(other.detach())
        assert wait_until(lambda: not probe.has_unsent(one.fileno()))


@pytest.mark.parametrize("reason", [NORMAL, CLIENT_ABORT, SHUTDOWN])
def test_a_session_gives_back_all_that_it_holds(reason: int) -> None:
    plane = probe.Plane()
    client, peer_of_client = pair()
    backend, peer_of_backend = pair()
    with peer_of_client, peer_of_backend:
        index = plane.session(0)
        fds = client.detach(), backend.detach()
        plane.load(0, index, *fds, b"for the backend")
        assert plane.leftovers(0) == (1, 1, 1, 1, 1)
        plane.end(0, index, reason)
        assert plane.leftovers(0) == (0, 0, 0, 0, 0)
        assert plane.counts() == (0, 0, 0, 0, 0, [0])
        assert plane.closed(0, reason) == 1
        for fd in fds:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        for peer in (peer_of_client, peer_of_backend):
            if reason == NORMAL:
                assert peer.recv(1) == b""
            else:
                with pytest.raises(ConnectionResetError):
                    peer.recv(1)
