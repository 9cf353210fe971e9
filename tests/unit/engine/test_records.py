"""What is kept of ended sessions and refused clients, over real sockets."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import LoadBalancer
from l4lb.model.forwarder import Forwarder
from l4lb.model.states import CloseReason, ConnectFailure
from l4lb.model.stats import SessionRecord
from tests.support.balancing import address_of, balancing, closed, wait_closed, wait_idle
from tests.support.datagrams import UdpClient, serving_udp
from tests.support.hellos import real
from tests.support.peers import connect, echo, one_answer, serving
from tests.support.programs import free_port
from tests.support.waiting import wait_until


@contextlib.contextmanager
def recording(backends: list[Any], **options: Any) -> Iterator[tuple[LoadBalancer, Forwarder, int]]:
    """The balancer, its forwarder and the eventfd that says that there are records."""
    wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        with balancing(backends, **options) as balancer:
            balancer.plane.forwarder.keep_records(wake_fd)
            yield balancer, balancer.plane.forwarder, wake_fd
    finally:
        os.close(wake_fd)


def ask(address: str) -> bytes:
    with connect(address) as sock:
        sock.sendall(b"hi")
        return sock.recv(10)


def come(address: str) -> None:
    with contextlib.suppress(ConnectionResetError):
        connect(address).close()


def only(forwarder: Forwarder) -> SessionRecord:
    (record,) = forwarder.take_records(10)
    return record


def woken(wake_fd: int) -> bool:
    return bool(select.select([wake_fd], [], [], 0)[0])


@pytest.mark.parametrize(("bind", "host"), [("127.0.0.1:0", "127.0.0.1"), (":0", "::1"), ("0.0.0.0:0", "127.0.0.2")])
def test_local_is_the_address_that_the_client_came_to(bind: str, host: str) -> None:
    with serving(one_answer(b"hello")) as server:
        with recording([server.address], listener={"bind": bind}) as (balancer, forwarder, _):
            port = int(address_of(balancer).rpartition(":")[2])
            place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            with connect((host, port)) as sock:
                sock.sendall(b"hi")
                assert sock.recv(10) == b"hello"
                client = sock.getsockname()
            wait_closed(balancer, CloseReason.NORMAL)
            record = only(forwarder)
    assert record.local == place
    assert (record.client, record.client_port) == client[:2]


def test_local_of_a_unix_listener_is_its_path(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/web.sock"
    with serving(one_answer(b"hello")) as server:
        with recording([server.address], listener={"bind": place}) as (balancer, forwarder, _):
            assert ask(place) == b"hello"
            wait_closed(balancer, CloseReason.NORMAL)
            record = only(forwarder)
    assert (record.local, record.client, record.client_port) == (place, "unix:", 0)


def test_clients_that_are_refused_are_recorded_too() -> None:
    with serving(echo) as server:
        options: dict[str, Any] = {"listener": {"max_sessions": 1}, "workers": 1}
        with recording([server.address], **options) as (balancer, forwarder, _):
            with connect(address_of(balancer)) as first:
                first.sendall(b"x")
                assert first.recv(1) == b"x"
                for _ in range(3):
                    come(address_of(balancer))
                wait_closed(balancer, CloseReason.RESOURCE_LIMIT, 3)
                records = forwarder.take_records(10)
                stats = balancer.stats().listeners["web"]
            wait_idle(balancer)
            last = only(forwarder)
    assert stats.sessions_total == 4
    assert stats.session_time.count == 0  # the first one has not ended, the others were none
    assert [(one.close_reason, one.backend, one.attempts) for one in records] == [("resource_limit", "", 0)] * 3
    assert len({one.session_id for one in [*records, last]}) == 4
    assert {one.local for one in records} == {last.local}
    assert {(one.listener, one.pool) for one in records} == {("web", "web")}


def test_those_above_the_rate_are_recorded_as_such() -> None:
    with serving(echo) as server:
        listener = {"session_rate": "1/s", "session_burst": 1}
        with recording([server.address], listener=listener) as (balancer, forwarder, _):
            for _ in range(5):
                come(address_of(balancer))
            assert wait_until(lambda: sum(closed(balancer).values()) == 5), closed(balancer)
            wait_idle(balancer)
            records = forwarder.take_records(10)
            assert len(records) == balancer.stats().sessions_total == 5
            limited = balancer.stats().listeners["web"].closed[CloseReason.RATE_LIMITED]
    assert sum(one.close_reason is CloseReason.RATE_LIMITED for one in records) == limited


def test_a_session_that_no_backend_took_names_the_last_and_why() -> None:
    first, second = sorted(f"127.0.0.1:{free_port()}" for _ in range(2))
    with recording([first, second], connect_attempts=2) as (balancer, forwarder, _):
        come(address_of(balancer))
        wait_closed(balancer, CloseReason.CONNECT_FAILED)
        record = only(forwarder)
        failed = [balancer.stats().pools["web"].backends[one].failed for one in (first, second)]
    assert (record.backend, record.attempts, record.connect_s) == (second, 2, 0)
    assert failed == [{ConnectFailure.REFUSED: 1}] * 2


FAILURES = {
    ConnectFailure.TIMEOUT: {"connect_timeout": 0.05},
    ConnectFailure.REFUSED: {},
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failed_connects_are_counted_by_what_they_failed_of(failure: ConnectFailure, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        backend = f"unix:{tmp_path}/nobody.sock"
        if failure is not ConnectFailure.REFUSED:  # a queue that is full: no answer to a SYN
            full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            backend = f"127.0.0.1:{full.getsockname()[1]}"
            waiting = stack.enter_context(socket.socket())
            waiting.connect(full.getsockname())
        balancer, forwarder, _ = stack.enter_context(recording([backend], connect_attempts=1, **FAILURES[failure]))
        come(address_of(balancer))
        reason = CloseReason.CONNECT_TIMEOUT if failure is ConnectFailure.TIMEOUT else CloseReason.CONNECT_FAILED
        wait_closed(balancer, reason)
        assert balancer.stats().pools["web"].backends[backend].failed == {failure: 1}
        assert only(forwarder).close_reason is reason


def test_the_reader_is_woken_when_there_is_something_again() -> None:
    with serving(one_answer(b"hello")) as server:
        with recording([server.address], workers=1) as (balancer, forwarder, wake_fd):
            for count in range(3):
                assert not woken(wake_fd), count
                for _ in range(2):
                    ask(address_of(balancer))
                wait_closed(balancer, CloseReason.NORMAL, 2 * count + 2)
                assert wait_until(lambda: woken(wake_fd))
                assert os.eventfd_read(wake_fd) == 1  # not for each of them
                assert len(forwarder.take_records(1)) == 1
                assert len(forwarder.take_records(1)) == 1
                assert forwarder.take_records(1) == []
            forwarder.stop_records()
            ask(address_of(balancer))
            wait_closed(balancer, CloseReason.NORMAL, 7)
            assert not woken(wake_fd)
            assert forwarder.take_records(10) == []


def test_a_ring_that_nobody_empties_drops_and_counts() -> None:
    """4,096 slots: the first are kept, and none is lost without being counted."""
    with recording([f"127.0.0.1:{free_port()}"], listener={"session_rate": "1/s"}, workers=1) as (
        balancer,
        forwarder,
        _,
    ):
        address = address_of(balancer)
        for _ in range(4200):
            come(address)
        assert wait_until(lambda: sum(closed(balancer).values()) == 4200), closed(balancer)
        wait_idle(balancer)
        assert len(forwarder.take_records(10_000)) == 4096
        assert forwarder.records_dropped() == 4200 - 4096


def test_what_is_cut_at_the_end_can_still_be_taken() -> None:
    with serving(echo) as server:
        with recording([server.address]) as (balancer, forwarder, _):
            with connect(address_of(balancer)) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                balancer.close()
                record = only(forwarder)
    assert (record.close_reason, record.backend, record.bytes_up) == (CloseReason.SHUTDOWN, server.address, 1)


def test_the_client_and_the_name_that_it_asks_for_are_what_its_first_bytes_say() -> None:
    header = b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n"
    listener = {"accept_proxy": "v1", "proxy_trusted": ["127.0.0.0/8"]}
    options = {"listener": listener, "send_proxy": "v2", "send_proxy_tlvs": ["authority"]}
    with serving(one_answer(b"hello")) as server, recording([server.address], **options) as (balancer, forwarder, _):
        with connect(address_of(balancer)) as sock:
            sock.sendall(header + real("a.example", ["h2"]))
            assert sock.recv(10) == b"hello"
        assert wait_until(lambda: balancer.stats().sessions_left == 0)
        record = only(forwarder)
    assert (record.client, record.client_port, record.sni) == ("192.0.2.7", 4000, "a.example")


@pytest.mark.parametrize(("bind", "host"), [("127.0.0.1:0", "127.0.0.1"), (":0", "127.0.0.2"), ("[::]:0", "::1")])
def test_a_session_of_udp_is_recorded_too(bind: str, host: str) -> None:
    listener = {"bind": bind, "protocol": "udp", "udp_responses": 1}
    with serving_udp() as server, recording([server.address], listener=listener) as (balancer, forwarder, _):
        port = int(address_of(balancer).rpartition(":")[2])
        with UdpClient((host, port)) as client:
            assert client.ask(b"hello") == b"hello"
            wait_closed(balancer, CloseReason.NORMAL)
            record = only(forwarder)
            assert (record.client, record.client_port) == (client.sock.getsockname()[0], client.port)
    assert record.local == (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    assert (record.backend, record.bytes_up, record.bytes_down) == (server.address, 5, 5)
