"""Sockets to UDP backends between two sessions: when they may serve again, and what they may not bring along."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from l4lb.model.address import SocketAddress
from l4lb.net.listen.sockets import sockaddr_bytes

probe = pytest.importorskip("_l4lb_probe_worker", reason="the probe modules are not built (L4LB_PROBE=1)")
PAUSE_MS, REST_MS, KEEP_MS, LATE_MAX = 4, 5000, 10_000, 1024  # base/enums.pxd
NOW = 100_000


@pytest.fixture
def backend() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        yield sock


@pytest.fixture
def plane() -> Iterator[object]:
    made = probe.Plane()
    made.set_now(NOW)
    yield made
    made.close()


def name_of(backend: socket.socket) -> bytes:
    return sockaddr_bytes(SocketAddress(socket.AF_INET, "127.0.0.1", backend.getsockname()[1]))


def answer(backend: socket.socket, fd: int, count: int = 1) -> None:
    """From the backend to the link, and there already: loopback delivers within sendto(2)."""
    os.write(fd, b"question")
    _, peer = backend.recvfrom(100)
    for _ in range(count):
        backend.sendto(b"answer", peer)


def test_after_the_last_answer_a_short_pause_is_enough(plane: probe.Plane, backend: socket.socket) -> None:
    index, _ = plane.link(5, name_of(backend))
    plane.give_link(index, True, NOW)
    plane.set_now(NOW + PAUSE_MS - 1)
    assert plane.reuse_link(5) is None
    plane.set_now(NOW + PAUSE_MS)
    assert plane.reuse_link(6) is None, "it is connected to another place"
    assert plane.reuse_link(5) == index
    assert plane.reuse_link(5) is None, "it serves"


def test_where_answers_may_come_it_rests_since_its_last_use(plane: probe.Plane, backend: socket.socket) -> None:
    index, _ = plane.link(5, name_of(backend))
    plane.give_link(index, False, NOW - 1000)
    plane.set_now(NOW - 1000 + REST_MS - 1)
    assert plane.reuse_link(5) is None
    plane.set_now(NOW - 1000 + REST_MS)
    assert plane.reuse_link(5) == index


def test_what_is_unread_is_thrown_away_when_it_is_given_back(plane: probe.Plane, backend: socket.socket) -> None:
    index, fd = plane.link(5, name_of(backend))
    answer(backend, fd, 3)
    plane.unread(index)
    plane.give_link(index, True, NOW)
    assert plane.late_answers() == 3
    plane.set_now(NOW + REST_MS)
    assert plane.reuse_link(5) == index
    with pytest.raises(BlockingIOError):
        os.read(fd, 100)


def test_what_comes_while_it_rests_is_thrown_away(plane: probe.Plane, backend: socket.socket) -> None:
    index, fd = plane.link(5, name_of(backend))
    plane.give_link(index, False, NOW)
    answer(backend, fd, 2)
    plane.drain_link(index)
    assert plane.late_answers() == 2
    assert plane.links() == (1, 1)


def test_one_that_has_more_than_can_be_thrown_away_is_closed(plane: probe.Plane, backend: socket.socket) -> None:
    index, fd = plane.link(5, name_of(backend))
    plane.give_link(index, False, NOW)
    answer(backend, fd, LATE_MAX)
    plane.drain_link(index)
    assert plane.links() == (0, 0)


def test_one_whose_backend_is_gone_is_closed(plane: probe.Plane, backend: socket.socket) -> None:
    index, fd = plane.link(5, name_of(backend))
    plane.give_link(index, False, NOW)
    backend.close()
    os.write(fd, b"to nobody")
    plane.drain_link(index)
    assert plane.links() == (0, 0)


def test_what_nobody_needs_for_long_is_closed(plane: probe.Plane, backend: socket.socket) -> None:
    old, _ = plane.link(5, name_of(backend))
    serving, _ = plane.link(5, name_of(backend))
    plane.give_link(old, True, NOW)
    plane.set_now(NOW + KEEP_MS - 1)
    plane.sweep_links()
    assert plane.links() == (2, 1)
    plane.set_now(NOW + KEEP_MS + 1000)
    plane.sweep_links()
    assert plane.links() == (1, 0)
    plane.give_link(serving, True, NOW, False)
    assert plane.links() == (0, 0), "one that may not serve again is closed at once"


def test_a_spare_gives_its_descriptor_up_that_of_a_resting_one_last(plane: probe.Plane, backend: socket.socket) -> None:
    resting, _ = plane.link(5, name_of(backend))
    ready, _ = plane.link(6, name_of(backend))
    plane.give_link(resting, False, NOW)
    plane.give_link(ready, True, NOW)
    assert plane.close_one_spare()
    plane.set_now(NOW + REST_MS)
    assert plane.reuse_link(6) is None
    assert plane.reuse_link(5) == resting
    assert not plane.close_one_spare()
