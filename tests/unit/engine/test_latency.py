"""How long backends take, as workers measure it: what counts as connect, first byte and session, and for how long."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest

from l4lb._native import snapshots, times
from l4lb.engine.native import NativeForwarder
from l4lb.model.snapshot import BackendSpec, ListenerSpec, PoolSpec, Selection, Snapshot
from l4lb.model.states import CloseReason, Protocol
from l4lb.model.stats import BackendLatency, BackendTimes, Histogram, Latency
from tests.support.datagrams import UdpClient, UdpServer, address_pair, serving_udp, silent
from tests.support.peers import connect, echo, hold, read_exactly, read_until_end, reset, serving, wait_until_sent
from tests.support.programs import free_port
from tests.support.waiting import wait_until
from tests.unit.engine.test_migration import asked, local, two

DELAY_S = 0.2
MARKS = 5


@contextlib.contextmanager
def forwarding(
    ports: Sequence[int], protocol: Protocol = Protocol.TCP, **listener: object
) -> Iterator[tuple[NativeForwarder, str]]:
    """A pool whose backends, called by their number, are tried in turn."""
    backends = tuple(BackendSpec(str(number), local(port)) for number, port in enumerate(ports))
    usable = tuple(range(len(backends)))
    pool = PoolSpec("p", Selection.CURSOR, backends, usable, usable)
    spec = ListenerSpec("l", (local(0),), "p", protocol=protocol, **listener)  # type: ignore[arg-type]
    forwarder = NativeForwarder(2)
    forwarder.start()
    try:
        forwarder.publish(Snapshot(1, (pool,), (spec,)))
        yield forwarder, forwarder.addresses("l")[0]
    finally:
        forwarder.close()
    assert not any(forwarder.leaks().values())


def counts(forwarder: NativeForwarder, backend: str = "0") -> tuple[int, int, int]:
    """Of connects, first bytes and sessions."""
    found = forwarder.times("p")[backend]
    return found.connect.count, found.first_byte.count, found.session.count


def slowly(answer: Callable[[socket.socket], object]) -> Callable[[socket.socket], None]:
    def handle(sock: socket.socket) -> None:
        while sock.recv(100):
            time.sleep(DELAY_S)
            answer(sock)

    return handle


def test_a_first_byte_counts_from_what_was_asked_and_once() -> None:
    with serving(slowly(lambda sock: sock.sendall(b"x"))) as server, forwarding([server.port]) as (forwarder, address):
        with connect(address) as client:
            assert wait_until(lambda: counts(forwarder) == (1, 0, 0))
            time.sleep(DELAY_S)  # the client's own time: nobody waits for the backend
            began = time.monotonic()
            client.sendall(b"?")
            assert client.recv(1) == b"x"
            took_s = time.monotonic() - began
            assert wait_until(lambda: counts(forwarder) == (1, 1, 0))
            client.sendall(b"?")
            assert client.recv(1) == b"x"
        assert wait_until(lambda: counts(forwarder) == (1, 1, 1))
        found = forwarder.times("p")["0"]
        assert DELAY_S * 0.9 < found.first_byte.sum_s < took_s + 0.001
        assert found.session.sum_s > 3 * DELAY_S * 0.9
        assert found.connect.sum_s < found.session.sum_s


def test_where_the_backend_speaks_first_it_counts_from_the_connect() -> None:
    def greet(sock: socket.socket) -> None:
        time.sleep(DELAY_S)
        sock.sendall(b"220 ready")
        hold(sock)

    with serving(greet) as server, forwarding([server.port]) as (forwarder, address), connect(address) as client:
        assert read_exactly(client, 9) == b"220 ready"
        client.sendall(b"HELO")
        assert wait_until(lambda: counts(forwarder) == (1, 1, 0))
        assert forwarder.times("p")["0"].first_byte.sum_s > DELAY_S * 0.9


def test_an_answer_with_a_reset_behind_it_is_one() -> None:
    def cut(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(b"sorry")
        wait_until_sent(sock)
        reset(sock)

    with serving(cut) as server, forwarding([server.port]) as (forwarder, address):
        for number in range(1, 21):
            with connect(address) as client:
                client.sendall(b"?")
                assert read_until_end(client) == (b"sorry", True)
            assert wait_until(lambda number=number: counts(forwarder) == (number, number, number))


def test_a_session_without_an_answer_has_no_first_byte() -> None:
    with serving(hold) as server, forwarding([server.port]) as (forwarder, address):
        with connect(address) as client:
            client.sendall(b"?")
            assert wait_until(lambda: forwarder.stats().pools["p"].bytes_up == 1)
        assert wait_until(lambda: counts(forwarder) == (1, 0, 1))


def test_only_the_backend_that_accepted_has_a_session() -> None:
    with serving(echo) as server, forwarding([free_port(), server.port]) as (forwarder, address):
        for _ in range(4):
            with connect(address) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
        assert wait_until(lambda: counts(forwarder, "1") == (4, 4, 4))
        assert counts(forwarder, "0") == (0, 0, 0)
        assert forwarder.stats().pools["p"].backends["0"].connect_failures > 0


def test_udp_counts_from_the_first_datagram_to_the_first_answer() -> None:
    def late(data: bytes) -> list[bytes]:
        time.sleep(DELAY_S)
        return [data]

    with serving_udp(late) as server, forwarding([server.port], Protocol.UDP) as (forwarder, address):
        with UdpClient(address_pair(address)) as client:
            assert client.ask(b"1") == b"1"
            assert client.ask(b"2") == b"2"
            assert counts(forwarder) == (0, 1, 0)
        forwarder.end_sessions("p", ["0"], CloseReason.ADMIN)
        assert wait_until(lambda: counts(forwarder) == (0, 1, 1))
        found = forwarder.times("p")["0"]
        assert found.first_byte.sum_s > DELAY_S * 0.9
        assert found.session.sum_s > 2 * DELAY_S * 0.9


def test_udp_that_is_not_answered_has_no_first_byte() -> None:
    once = {"udp_requests": 1, "udp_one_way": True}
    with serving_udp(silent) as server, forwarding([server.port], Protocol.UDP, **once) as (forwarder, address):
        with UdpClient(address_pair(address)) as client:
            for _ in range(3):
                client.send(b"x")
            assert wait_until(lambda: counts(forwarder) == (0, 0, 3))


# ---- the latest minute ----


def twin(histogram: Histogram, part: float) -> float:
    """As Prometheus' histogram_quantile, but with a value for what is above the last bound."""
    rank, below = part * histogram.count, 0
    for (lower, upper), count in zip(pairwise((0.0, *histogram.bounds_s)), histogram.counts, strict=False):
        if count and below + count >= rank:
            return lower + (upper - lower) * (rank - below) / count
        below += count
    return histogram.bounds_s[-1]


def latency_of(histogram: Histogram) -> Latency:
    if not histogram.count:
        return Latency()
    parts = (histogram.sum_s / histogram.count, *(twin(histogram, part) for part in (0.5, 0.9, 0.99)))
    return Latency(histogram.count, *(round(one, 6) for one in parts))


def close_to(found: Latency, expected: Latency) -> bool:
    if found.p50_s is None:
        return found == expected
    pairs = zip(dataclasses.astuple(found), dataclasses.astuple(expected), strict=True)
    return all(abs(one - other) < 2e-6 for one, other in pairs)


def test_quantiles_are_those_of_the_histogram() -> None:
    delays = [0, 0.001, 0.003, 0.02, 0.02, 0.05, 0.1]

    def answer(sock: socket.socket) -> None:
        time.sleep(delays[sock.recv(1)[0]])
        sock.sendall(b"x")

    with serving(answer) as server, forwarding([server.port]) as (forwarder, address):
        for number in range(len(delays)):
            with connect(address) as client:
                client.sendall(bytes([number]))
                assert client.recv(1) == b"x"
        assert wait_until(lambda: counts(forwarder)[2] == len(delays))
        found, counted = forwarder.latency("p")["0"], forwarder.times("p")["0"]
        assert all(close_to(*pair) for pair in zip(found, map(latency_of, counted), strict=True)), (found, counted)
        assert found.first_byte.p99_s is not None
        assert found.first_byte.p99_s > 0.06


def test_what_was_measured_leaves_the_latest_minute_and_stays_in_the_total() -> None:
    with serving(echo) as server, forwarding([server.port]) as (forwarder, address):

        def ask(times_: int) -> None:
            before = counts(forwarder)[2]
            for _ in range(times_):
                with connect(address) as client:
                    client.sendall(b"x")
                    assert client.recv(1) == b"x"
            assert wait_until(lambda: counts(forwarder)[2] == before + times_)

        ask(7)
        for _ in range(MARKS - 1):
            forwarder.mark_times()
            assert forwarder.latency("p")["0"].session.count == 7
        ask(2)
        forwarder.mark_times()  # the first mark, from which it counts from now on, came after the seven
        assert forwarder.latency("p")["0"].session.count == 2
        for _ in range(MARKS):
            forwarder.mark_times()
        assert forwarder.latency("p")["0"] == BackendLatency()
        assert counts(forwarder) == (9, 9, 9)


def test_there_is_nothing_of_what_is_not_there() -> None:
    with forwarding([free_port()]) as (forwarder, _):
        assert forwarder.latency("p") == {"0": BackendLatency()}
        assert forwarder.latency("other") == forwarder.times("other") == {}


# ---- from one process to the next ----


def live() -> snapshots.BackendLive:
    return snapshots.BackendLive(2, 1)


def test_what_another_process_counted_is_in_the_total_alone() -> None:
    with serving(echo) as server, forwarding([server.port]) as (forwarder, address):
        with connect(address) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        assert wait_until(lambda: counts(forwarder) == (1, 1, 1))
        exported = forwarder.tcp.counted().times["p", "0"]
        counted = forwarder.times("p")["0"]
    here = live()
    assert times.export_times(here) == b"", "there is nothing to say of idle ones"
    times.import_times(here, exported)
    times.import_times(here, exported)
    report = times.counted(here)
    assert report.first_byte == [2 * count for count in counted.first_byte.counts]
    assert report.session_sum_us == 2 * round(counted.session.sum_s * 1e6)
    assert times.latency_since(here, None).connect == times.NOTHING
    with pytest.raises(ValueError, match="no counters"):
        times.import_times(here, exported[:-1])


def test_marks_of_an_idle_backend_are_one() -> None:
    here = live()
    first = times.mark(here, None)
    assert times.mark(here, first) is first


@pytest.fixture
def servers() -> Iterator[dict[str, UdpServer]]:
    with serving_udp() as one:
        yield {"one": one}


def test_udp_sessions_keep_their_start_when_they_move(servers: dict[str, UdpServer]) -> None:
    def of(forwarder: NativeForwarder) -> BackendTimes:
        return forwarder.times("p")["one"]

    with two(servers) as (first, second, port), contextlib.ExitStack() as stack:
        clients = asked(port, 5, stack)
        began = time.monotonic()
        time.sleep(DELAY_S)
        assert second.forwarder.import_sessions(first.move()) == 5
        for client in clients:
            assert client.ask(b"later") == b"later"
        second.forwarder.end_sessions("p", ["one"], CloseReason.ADMIN)
        assert wait_until(lambda: of(second.forwarder).session.count == 5)
        assert of(second.forwarder).session.sum_s > 5 * DELAY_S * 0.9
        assert of(second.forwarder).session.sum_s < 5 * (time.monotonic() - began + 5)
        assert of(first.forwarder).first_byte.count == 5
        assert of(second.forwarder).first_byte.count == 0, "they were answered before"
        assert of(first.forwarder).session.count == 0, "they have not ended there"
