"""Sessions of UDP that move: between two forwarders that stand for two processes, or back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
from collections.abc import Iterator

import pytest

from l4lb.engine.native import NativeForwarder
from l4lb.model.address import SocketAddress
from l4lb.model.forwarder import ExportedSession, ExportedSockets
from l4lb.model.snapshot import BackendSpec, ListenerSpec, PoolSpec, Selection, Snapshot
from l4lb.model.states import CloseReason, Protocol
from l4lb.model.stats import SessionRecord
from tests.support.datagrams import UdpClient, UdpServer, serving_udp
from tests.support.programs import free_port
from tests.support.waiting import wait_until


class Process:
    """A forwarder with one UDP listener and one pool, whose access log is kept."""

    def __init__(self, port: int, servers: dict[str, UdpServer], workers: int, listener: dict[str, object]) -> None:
        backends = tuple(BackendSpec(name, local(one.port)) for name, one in servers.items())
        usable = tuple(range(len(backends)))
        self._pool = PoolSpec("p", Selection.CURSOR, backends, usable, usable)
        self._listener = ListenerSpec("l", (local(port),), "p", protocol=Protocol.UDP, **listener)  # type: ignore[arg-type]
        self.forwarder = NativeForwarder(workers)
        self.wake_fd = os.eventfd(0)
        self.forwarder.keep_records(self.wake_fd)

    def start(self) -> None:
        self.forwarder.start()
        self.forwarder.publish(Snapshot(1, (self._pool,), (self._listener,)))

    def move(self) -> list[ExportedSession]:
        self.forwarder.begin_export()
        found: list[ExportedSession] = []

        def moved() -> bool:
            taken = self.forwarder.exported_sessions()
            found.extend(taken or [])
            return taken is not None

        assert wait_until(moved)
        return found

    def records(self) -> list[SessionRecord]:
        return self.forwarder.take_records(1000)

    @property
    def active(self) -> int:
        return self.forwarder.stats().listeners["l"].sessions_active

    @property
    def begun(self) -> int:
        """A count of sessions, since a new one's port may by chance be that of one that has ended."""
        return self.forwarder.stats().listeners["l"].sessions_total

    def close(self) -> None:
        self.forwarder.close()
        os.close(self.wake_fd)
        assert not any(self.forwarder.leaks().values())


def local(port: int) -> SocketAddress:
    return SocketAddress(socket.AF_INET, "127.0.0.1", port)


def dup(handed: list[ExportedSockets]) -> list[ExportedSockets]:
    return [dataclasses.replace(one, fds=[os.dup(fd) for fd in one.fds]) for one in handed]


@contextlib.contextmanager
def two(
    servers: dict[str, UdpServer], *, workers: tuple[int, int] = (2, 3), **listener: object
) -> Iterator[tuple[Process, Process, int]]:
    """The second has the first one's sockets."""
    port = free_port()
    first = Process(port, servers, workers[0], listener)
    first.start()
    second = Process(port, servers, workers[1], listener)
    second.forwarder.import_sockets(dup(first.forwarder.export_sockets()))
    second.start()
    try:
        yield first, second, port
    finally:
        first.close()
        second.close()


@pytest.fixture
def servers() -> Iterator[dict[str, UdpServer]]:
    with serving_udp() as one, serving_udp() as two:
        yield {"one": one, "two": two}


def asked(port: int, count: int, stack: contextlib.ExitStack) -> list[UdpClient]:
    clients = [stack.enter_context(UdpClient(("127.0.0.1", port))) for _ in range(count)]
    for client in clients:
        assert client.ask(b"first") == b"first"
    return clients


def peers(servers: dict[str, UdpServer]) -> dict[str, set[tuple[str, int]]]:
    return {name: set(one.clients) for name, one in servers.items()}


@pytest.mark.parametrize("workers", [(1, 1), (2, 3), (3, 1)])
def test_all_that_a_session_is_arrives(servers: dict[str, UdpServer], workers: tuple[int, int]) -> None:
    with two(servers, workers=workers) as (first, second, port), contextlib.ExitStack() as stack:
        clients = asked(port, 20, stack)
        before = peers(servers)
        moving = first.move()
        assert (len(moving), first.active) == (20, 0)
        assert first.records() == [], "they have not ended"
        for client in clients:
            client.send(b"meanwhile")
        again = [dataclasses.replace(one, about=json.loads(json.dumps(one.about))) for one in moving]
        assert second.forwarder.import_sessions(again) == 20
        for client in clients:
            assert client.receive() == b"meanwhile"
            assert client.ask(b"later") == b"later"
        assert peers(servers) == before
        assert second.active == 20
        second.forwarder.end_sessions("p", ["one", "two"], CloseReason.ADMIN)
        assert wait_until(lambda: second.active == 0)
        records = second.records()
        size = len(b"first" + b"meanwhile" + b"later")
        assert [(one.bytes_up, one.bytes_down) for one in records] == [(size, size)] * 20
        assert {one.client_port for one in records} == {client.port for client in clients}
        assert {(one.listener, one.pool, one.local) for one in records} == {("l", "p", f"127.0.0.1:{port}")}
        assert {one.backend: 10 for one in records} == {"one": 10, "two": 10}
        assert first.records() == []


def test_they_can_come_back(servers: dict[str, UdpServer]) -> None:
    with two(servers) as (first, _, port), contextlib.ExitStack() as stack:
        clients = asked(port, 20, stack)
        before = peers(servers)
        for number in range(3):
            moving = first.move()
            assert first.forwarder.import_sessions(moving) == 20
            for client in clients:
                assert client.ask(b"%d" % number) == b"%d" % number
        assert peers(servers) == before


def test_what_is_left_of_its_limits_goes_along(servers: dict[str, UdpServer]) -> None:
    """The third of three requests is the last of the session; the fourth begins another."""
    with two(servers, udp_requests=3) as (first, second, port), contextlib.ExitStack() as stack:
        (client,) = asked(port, 1, stack)
        client.ask(b"second")
        second.forwarder.import_sessions(first.move())
        client.ask(b"third")
        assert len(peers(servers)["one"] | peers(servers)["two"]) == 1
        begun = second.begun
        client.ask(b"fourth")
        assert second.begun == begun + 1


def test_the_time_that_a_session_has_lived_counts(servers: dict[str, UdpServer]) -> None:
    with two(servers, max_session_duration_s=5.0) as (first, second, port), contextlib.ExitStack() as stack:
        asked(port, 1, stack)
        (moving,) = first.move()
        old = dataclasses.replace(moving, about={**moving.about, "age_ms": 4900})
        assert second.forwarder.import_sessions([old]) == 1
        found: list[SessionRecord] = []
        assert wait_until(lambda: found.extend(second.records()) or found, 3)
        (record,) = found
        assert (record.close_reason, record.bytes_up) == (CloseReason.MAX_DURATION, 5)
        assert 4.9 <= record.duration_s < 8


def test_what_does_not_belong_anywhere_is_closed(servers: dict[str, UdpServer]) -> None:
    """Or is told of in a way that is not known here, as a process of another version might."""
    with two(servers) as (first, second, port), contextlib.ExitStack() as stack:
        clients = asked(port, 7, stack)
        moving = first.move()
        about = dict(moving[6].about)
        del about["peer"]
        wrong = [
            dataclasses.replace(moving[0], pool="other"),
            dataclasses.replace(moving[1], backend="three"),
            dataclasses.replace(moving[2], position=99),
            dataclasses.replace(moving[3], about={**moving[3].about, "peer": "7f"}),
            dataclasses.replace(moving[4], about={**moving[4].about, "age_ms": -1}),
            dataclasses.replace(moving[5], about={**moving[5].about, "peer": 5}),
            dataclasses.replace(moving[6], about=about),
        ]
        assert second.forwarder.import_sessions(wrong) == 0
        for client in clients:
            assert client.ask(b"again") == b"again"
        assert (second.active, second.begun) == (7, 7), "of its own: each client began another"
        assert {one.pool for one in second.records()} == set()


def test_the_message_from_process_to_process_keeps_its_names(servers: dict[str, UdpServer]) -> None:
    """A process of the version before reads it, and one of the next may say more than is known here."""
    names = (
        "age_ms idle_ms bytes_up bytes_down datagrams_up datagrams_down requests_left responses one_way source "
        "source_port peer peer_port scope_id local local_port interface destination destination_port named wide "
        "link_wide no_trains quic quic_given quic_given_length id"
    )
    with two(servers) as (first, second, port), contextlib.ExitStack() as stack:
        (client,) = asked(port, 1, stack)
        (moving,) = first.move()
        assert list(moving.about) == names.split()
        assert (moving.about["source"], moving.about["one_way"]) == ("7f000001", False)
        before = {name: value for name, value in moving.about.items() if name != "id"}  # which was added
        more = dataclasses.replace(moving, about={**before, "colour": "green"})
        assert second.forwarder.import_sessions([more]) == 1
        assert client.ask(b"later") == b"later"
        assert sum(map(len, peers(servers).values())) == 1


def test_what_nobody_takes_is_closed(servers: dict[str, UdpServer]) -> None:
    """No file descriptor is left, which the fixture for all tests sees."""
    with two(servers) as (first, second, port), contextlib.ExitStack() as stack:
        asked(port, 5, stack)
        first.forwarder.begin_export()
        assert wait_until(lambda: first.active == 0)
        assert second.active == 0
