"""What the forwarder does to sessions of a backend, and what it says of failing ones."""

from __future__ import annotations

import contextlib
import select
import socket
from dataclasses import replace

import pytest

from l4lb.engine.native import NativeForwarder
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import BackendSpec, ListenerSpec, PoolSpec, Selection, Snapshot
from l4lb.model.states import CloseReason
from l4lb.model.stats import Failing
from tests.support.peers import TCP_CLOSE, Server, connect, echo, hold, read_until_end, reset, serving, tcp_state
from tests.support.programs import free_port
from tests.support.waiting import wait_until


def local(port: int) -> SocketAddress:
    return SocketAddress(socket.AF_INET, "127.0.0.1", port)


@contextlib.contextmanager
def forwarding(ports: dict[str, int], *, passive_failures: int = 0, workers: int = 2):
    """A forwarder with one pool whose backends are tried in the order given, and its address."""
    backends = tuple(BackendSpec(name, local(port)) for name, port in ports.items())
    usable = tuple(range(len(backends)))
    pool = PoolSpec("p", Selection.CURSOR, backends, usable, usable, passive_failures=passive_failures)
    forwarder = NativeForwarder(workers)
    forwarder.start()
    try:
        forwarder.publish(Snapshot(1, (pool,), (ListenerSpec("l", (local(0),), "p"),)))
        yield forwarder, forwarder.addresses("l")[0]
    finally:
        forwarder.close()
    assert not any(forwarder.leaks().values())


def closed(forwarder: NativeForwarder) -> dict[CloseReason, int]:
    return forwarder.stats().listeners["l"].closed


def test_the_sessions_of_one_backend_end_and_no_others() -> None:
    """700 sessions: more than a worker ends in one turn."""
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(serving(hold)) for name in "ab"}
        forwarder, address = stack.enter_context(forwarding({name: one.port for name, one in servers.items()}))
        clients = [stack.enter_context(connect(address)) for _ in range(700)]
        assert wait_until(lambda: forwarder.stats().pools["p"].sessions_active == 700)
        counts = {name: one.sessions_active for name, one in forwarder.stats().pools["p"].backends.items()}
        forwarder.end_sessions("p", ["a", "unknown"], CloseReason.BACKEND_DOWN)
        assert wait_until(lambda: closed(forwarder).get(CloseReason.BACKEND_DOWN, 0) == counts["a"])
        assert forwarder.stats().pools["p"].backends["b"].sessions_active == counts["b"]
        assert wait_until(lambda: sum(tcp_state(one) == TCP_CLOSE for one in clients) == counts["a"])
        again = [stack.enter_context(connect(address)) for _ in range(4)]  # what begins later is left alone
        assert wait_until(lambda: forwarder.stats().pools["p"].backends["a"].sessions_active == 2)
        assert all(tcp_state(one) != TCP_CLOSE for one in again)


def test_a_backend_that_fails_so_often_in_a_row_is_told() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(echo))
        refusing = free_port()
        forwarder, address = stack.enter_context(forwarding({"a": refusing, "b": server.port}, passive_failures=3))
        for count in range(1, 9):
            with connect(address) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
            told = bool(select.select([forwarder.notice_fd], [], [], 0)[0])
            failures = forwarder.stats().pools["p"].backends["a"].connect_failures
            assert told == (failures >= 3), (count, failures)
        assert forwarder.failing() == [Failing("p", "a", failures)]
        assert forwarder.failing() == []
        assert not select.select([forwarder.notice_fd], [], [], 0)[0]
        forwarder.forgive("p", "a")
        forwarder.forgive("p", "nobody")
        with connect(address) as one, connect(address) as other:
            for client in (one, other):
                client.sendall(b"x")
                assert client.recv(1) == b"x"
        assert forwarder.failing() == []


@pytest.mark.parametrize("spoken", [False, True])
def test_a_reset_counts_before_the_first_byte_only(spoken: bool) -> None:
    def cut(sock: socket.socket) -> None:
        sock.recv(100)
        if spoken:
            sock.sendall(b"y")
            sock.recv(1)
        reset(sock)

    with contextlib.ExitStack() as stack:
        server: Server = stack.enter_context(serving(cut))
        forwarder, address = stack.enter_context(forwarding({"a": server.port}, passive_failures=2))
        for _ in range(3):
            with connect(address) as client:
                client.sendall(b"x")
                if spoken:
                    assert client.recv(1) == b"y"
                    client.sendall(b"z")
                assert read_until_end(client)[1]
        assert wait_until(lambda: closed(forwarder).get(CloseReason.BACKEND_ABORT, 0) == 3)
        assert forwarder.stats().pools["p"].backends["a"].early_resets == (0 if spoken else 3)
        assert forwarder.failing() == ([] if spoken else [Failing("p", "a", 3)])


def test_an_answer_ends_the_row() -> None:
    """Two failures, an answer, two failures: never three in a row."""
    cuts = iter([True, True, False, True, True, False])

    def maybe(sock: socket.socket) -> None:
        sock.recv(100)
        if next(cuts):
            reset(sock)
        else:
            sock.sendall(b"y")

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(maybe))
        forwarder, address = stack.enter_context(forwarding({"a": server.port}, passive_failures=3, workers=1))
        for _ in range(6):
            with connect(address) as client:
                client.sendall(b"x")
                read_until_end(client)
        assert forwarder.stats().pools["p"].backends["a"].early_resets == 4
        assert forwarder.failing() == []


def test_pools_are_left_out_of_the_counters_where_nobody_reads_them() -> None:
    with serving(echo) as server, forwarding({"a": server.port}) as (forwarder, address):
        with connect(address) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            without = forwarder.stats(pools=False)
            assert (without.pools, without.sessions_active, without.sessions_left) == ({}, 1, 1)
            assert forwarder.stats().pools["p"].sessions_active == 1


def test_backends_keep_their_counters_when_another_one_changes() -> None:
    """Of those whose spec is the same object nothing is made anew."""
    with serving(echo) as server, forwarding({"a": server.port, "b": free_port()}) as (forwarder, address):
        with connect(address) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        assert wait_until(lambda: closed(forwarder).get(CloseReason.NORMAL, 0) == 1)
        pool = forwarder._pools.owned["p"]
        assert pool.spec is not None
        before, (one, other) = dict(pool.fields), pool.spec.backends
        changed = replace(pool.spec, backends=(one, replace(other, weight=2.0)))
        forwarder.publish(Snapshot(2, (changed,), (ListenerSpec("l", (local(0),), "p"),)))
        assert pool.fields["a"] is before["a"]
        assert pool.fields["b"][1].weight == 2.0
        assert pool.fields["b"][1].live is before["b"][1].live
        assert forwarder.stats().pools["p"].backends["a"].sessions_total == 1
