"""UDP: every datagram whole, to the right backend and the right client, and what is lost is counted."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l4lb import Config, Listener, LoadBalancer, Pool
from l4lb.config import AdminConfig, GlobalConfig, PassiveConfig
from l4lb.model.address import SocketAddress
from l4lb.model.states import CloseReason, DropReason
from l4lb.net.listen.sockets import ListeningSockets
from l4lb.proxy_protocol import Command, Header, Transport, build, parse
from tests.support.balancing import NO_CHECKS, address_of, balancing, closed, wait_closed
from tests.support.datagrams import UDP_GRO, UDP_SEGMENT, UdpClient, UdpServer, serving_udp, silent
from tests.support.peers import Server, connect, echo, running
from tests.support.programs import l4lb
from tests.support.waiting import wait_until


@contextlib.contextmanager
def balancing_udp(
    backends: list[Any], *, listener: dict[str, Any] | None = None, **options: Any
) -> Iterator[LoadBalancer]:
    with balancing(backends, listener={"protocol": "udp", **(listener or {})}, **options) as balancer:
        yield balancer


PLAIN = """
[listeners.web]
bind = "127.0.0.1:0"
protocol = "udp"
pool = "web"

[pools.web]
backends = ["{backend}"]
"""


def dropped(balancer: LoadBalancer) -> dict[DropReason, int]:
    return balancer.stats().listeners["web"].dropped


def wait_dropped(balancer: LoadBalancer, reason: DropReason, count: int = 1) -> None:
    assert wait_until(lambda: dropped(balancer).get(reason, 0) >= count), dropped(balancer)
    assert dropped(balancer) == {reason: count}


def active(balancer: LoadBalancer) -> int:
    return balancer.stats().listeners["web"].sessions_active


def named(name: str) -> UdpServer:
    """Answers with its name."""
    return UdpServer(lambda data: [name.encode()])


@contextlib.contextmanager
def servers(*names: str) -> Iterator[dict[str, UdpServer]]:
    made = {name: named(name) for name in names}
    try:
        yield made
    finally:
        for server in made.values():
            with contextlib.suppress(OSError):
                server.stop()


# ---- datagrams ----


@pytest.mark.parametrize("size", [0, 1, 512, 1472, 1473, 9000, 65506, 65507])
def test_a_datagram_of_any_size_arrives_whole_both_ways(size: int) -> None:
    data = random.Random(size).randbytes(size)
    with serving_udp() as server, balancing_udp([server.address]) as balancer:
        with UdpClient(address_of(balancer)) as client:
            assert client.ask(data) == data
        assert server.received == [data]
        backend = balancer.stats().pools["web"].backends[server.address]
        assert (backend.datagrams_up, backend.datagrams_down) == (1, 1)
        assert (backend.bytes_up, backend.bytes_down) == (size, size)
        assert not dropped(balancer)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(st.integers(0, 2000), st.integers(0, 65507)), min_size=1, max_size=40))
def test_a_burst_of_any_sizes_keeps_its_order(sizes: list[int]) -> None:
    sent = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    with serving_udp() as server, balancing_udp([server.address]) as balancer:
        with UdpClient(address_of(balancer)) as client:
            for data in sent:
                client.send(data)
            assert [client.receive() for _ in sent] == sent
        assert not dropped(balancer)


def test_bursts_of_answers_of_any_number_arrive_whole() -> None:
    """How many the next read takes is guessed from the last one, and never more than there is room for."""
    draw = random.Random(4)
    with serving_udp(silent) as server, balancing_udp([server.address], listener={"udp_gro": False}) as balancer:
        server.sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 10)
        with UdpClient(address_of(balancer)) as client:
            client.send(b"?")
            assert wait_until(lambda: server.clients)
            peer = next(iter(server.clients))
            for count in [48, 60, 60, *(draw.randint(1, 60) for _ in range(200))]:
                burst = draw.randbytes(10 * count)
                server.sock.sendto(burst, peer)
                assert b"".join(client.receive() for _ in range(count)) == burst
        assert not dropped(balancer)


@pytest.mark.parametrize("segment", [1, 100, 1200, 1448])
@pytest.mark.parametrize("gro", [True, False])
def test_a_train_arrives_as_the_datagrams_that_it_is(segment: int, gro: bool) -> None:
    data = random.Random(segment).randbytes(segment * 40 + segment // 2)
    datagrams = [data[at : at + segment] for at in range(0, len(data), segment)]
    with serving_udp() as server, balancing_udp([server.address], listener={"udp_gro": gro}) as balancer:
        with UdpClient(address_of(balancer)) as client:
            client.sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, segment)
            client.send(data)
            assert [client.receive() for _ in datagrams] == datagrams
        assert server.received == datagrams
        backend = balancer.stats().pools["web"].backends[server.address]
        assert (backend.datagrams_up, backend.datagrams_down) == (len(datagrams), len(datagrams))


def test_equal_datagrams_of_a_backend_reach_a_client_that_takes_trains_as_trains() -> None:
    answers = [random.Random(number).randbytes(1200) for number in range(48)]
    with serving_udp(lambda data: answers) as server, balancing_udp([server.address]) as balancer:
        with UdpClient(address_of(balancer)) as client:
            client.sock.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
            client.send(b"?")
            received = b""
            while len(received) < 48 * 1200:
                received += client.receive()
            assert received == b"".join(answers)


@pytest.mark.parametrize("tos", [0, 1, 2, 3, 0xB8, 0xBB])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_type_of_service_and_ecn_are_passed_on(host: str, tos: int) -> None:
    v6 = ":" in host
    level, receive, send = (
        (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, socket.IPV6_TCLASS)
        if v6
        else (socket.IPPROTO_IP, socket.IP_RECVTOS, socket.IP_TOS)
    )
    with serving_udp(host=host) as server:
        server.sock.setsockopt(level, send, tos)
        with balancing_udp([server.address], listener={"bind": f"[{host}]:0" if v6 else f"{host}:0"}) as balancer:
            with UdpClient(address_of(balancer)) as client:
                client.sock.setsockopt(level, receive, 1)
                client.sock.setsockopt(level, send, tos)
                client.send(b"?")
                _, told, _, _ = client.sock.recvmsg(100, 100)
                seen = [int.from_bytes(value[:4], "little") for _, kind, value in told if kind in (socket.IP_TOS, send)]
                assert seen == [tos]


def test_the_type_of_service_reaches_the_backend() -> None:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        server.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        with balancing_udp([f"127.0.0.1:{server.getsockname()[1]}"]) as balancer:
            with UdpClient(address_of(balancer)) as client:
                client.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x2E)
                client.send(b"?")
                _, told, _, _ = server.recvmsg(100, 100)
                assert [value[0] for _, kind, value in told if kind == socket.IP_TOS] == [0x2E]


@pytest.mark.parametrize(
    ("bind", "ask"),
    [("0.0.0.0:0", "127.0.0.7"), ("[::]:0", "127.0.0.7"), ("[::]:0", "::1"), (":0", "127.0.0.9"), (":0", "::1")],
)
def test_a_listener_on_all_addresses_answers_from_the_one_that_was_asked(bind: str, ask: str) -> None:
    with serving_udp() as server, balancing_udp([server.address], listener={"bind": bind}) as balancer:
        port = int(address_of(balancer).rpartition(":")[2])
        with UdpClient((ask, port)) as client:  # a connected socket hears that address alone
            assert client.ask(b"who?") == b"who?"


def test_one_client_has_a_session_for_each_address_that_it_asks() -> None:
    with serving_udp() as server, balancing_udp([server.address], listener={"bind": "0.0.0.0:0"}) as balancer:
        port = int(address_of(balancer).rpartition(":")[2])
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
            client.settimeout(10)
            for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
                client.sendto(host.encode(), (host, port))
                assert client.recvfrom(100) == (host.encode(), (host, port))
        assert balancer.stats().listeners["web"].sessions_total == 2


def test_ipv6_and_ipv4_backends_serve_either_client() -> None:
    with serving_udp(host="::1") as six, serving_udp() as four:
        with balancing_udp([six.address, four.address], listener={"bind": ["127.0.0.1:0", "[::1]:0"]}) as balancer:
            for address in balancer.listeners["web"].addresses:
                for _ in range(2):
                    with UdpClient(address) as client:
                        assert client.ask(b"hello") == b"hello"
        assert six.received
        assert four.received


# ---- sessions ----


def test_a_client_stays_with_its_backend_and_others_go_to_the_next() -> None:
    with servers("a", "b") as made, balancing_udp([one.address for one in made.values()]) as balancer:
        with UdpClient(address_of(balancer)) as first, UdpClient(address_of(balancer)) as second:
            mine, other = first.ask(b"?"), second.ask(b"?")
            assert {mine, other} == {b"a", b"b"}
            assert [first.ask(b"?") for _ in range(5)] == [mine] * 5
        assert balancer.stats().listeners["web"].sessions_total == 2
        assert all(len(one.clients) == 1 for one in made.values())


def test_a_session_ends_when_neither_side_has_sent_for_idle_timeout() -> None:
    with serving_udp() as server, balancing_udp([server.address], listener={"idle_timeout": 0.2}) as balancer:
        with UdpClient(address_of(balancer)) as client:
            for _ in range(5):
                client.ask(b"?")
                time.sleep(0.1)  # half of it: the session must outlive this
            assert balancer.stats().listeners["web"].sessions_total == 1
            wait_closed(balancer, CloseReason.IDLE_TIMEOUT)
            assert client.ask(b"again") == b"again"
        assert balancer.stats().listeners["web"].sessions_total == 2


def test_a_backend_that_goes_on_sending_keeps_the_session() -> None:
    with serving_udp(silent) as server, balancing_udp([server.address], listener={"idle_timeout": 1.5}) as balancer:
        with UdpClient(address_of(balancer)) as client:
            client.send(b"subscribe")
            assert wait_until(lambda: server.clients)
            peer = next(iter(server.clients))
            for number in range(6):
                server.sock.sendto(b"%d" % number, peer)
                assert client.receive() == b"%d" % number
                time.sleep(0.3)
            assert active(balancer) == 1
            assert not closed(balancer)


def test_max_session_duration_ends_a_busy_session() -> None:
    listener = {"max_session_duration": 0.3, "idle_timeout": "off"}
    with serving_udp() as server, balancing_udp([server.address], listener=listener) as balancer:
        with UdpClient(address_of(balancer)) as client:
            assert wait_until(lambda: client.send(b"?") or closed(balancer).get(CloseReason.MAX_DURATION))


def test_udp_responses_end_the_session_and_its_socket_serves_the_next() -> None:
    with serving_udp() as server, balancing_udp([server.address], listener={"udp_responses": 1}, workers=1) as balancer:
        for number in range(300):
            with UdpClient(address_of(balancer)) as client:
                assert client.ask(b"%d" % number) == b"%d" % number
        wait_closed(balancer, CloseReason.NORMAL, 300)
        assert active(balancer) == 0
        assert len(server.clients) < 150  # each pauses for some milliseconds before it serves again


def test_an_answer_beyond_udp_responses_reaches_nobody() -> None:
    with serving_udp(lambda data: [data, b"too much"]) as server:
        with balancing_udp([server.address], listener={"udp_responses": 1}, workers=1) as balancer:
            for number in range(20):
                with UdpClient(address_of(balancer)) as client:
                    assert client.ask(b"%d" % number) == b"%d" % number
                    assert client.hears_nothing(0.02)
            stats = balancer.stats()
            assert stats.listeners["web"].dropped.get(DropReason.LATE, 0) + stats.workers[0].late_answers == 20


def test_udp_responses_wait_for_the_answer_to_each_datagram() -> None:
    with serving_udp(silent) as server:
        with balancing_udp([server.address], listener={"udp_responses": 1}, workers=1) as balancer:
            with UdpClient(address_of(balancer)) as client:
                for data in (b"a", b"b", b"c"):
                    client.send(data)
                assert wait_until(lambda: len(server.received) == 3)
                peer = next(iter(server.clients))
                for data in (b"c", b"a", b"b"):
                    assert not closed(balancer)
                    server.sock.sendto(data, peer)
                    assert client.receive() == data
                wait_closed(balancer, CloseReason.NORMAL)
                assert balancer.stats().listeners["web"].sessions_total == 1


def test_udp_requests_begin_a_new_session_and_the_old_one_still_gets_its_answers() -> None:
    held: list[tuple[bytes, Any]] = []
    with servers("a", "b") as made:
        for server in made.values():
            server._answer = lambda data: []
        listener = {"udp_requests": 2}
        with balancing_udp([one.address for one in made.values()], listener=listener) as balancer:
            with UdpClient(address_of(balancer)) as client:
                for number in range(4):
                    client.send(b"%d" % number)
                assert wait_until(lambda: sum(len(one.received) for one in made.values()) == 4)
                assert sorted(one.received for one in made.values()) == [[b"0", b"1"], [b"2", b"3"]]
                for name, server in made.items():
                    server.sock.sendto(name.encode(), next(iter(server.clients)))
                    held.append((name.encode(), None))
                assert {client.receive(), client.receive()} == {b"a", b"b"}
                assert active(balancer) == 2


def test_a_late_answer_never_reaches_another_client() -> None:
    """The backend answers the first client only after its session has ended and others have begun."""
    with serving_udp(silent) as server:
        with balancing_udp([server.address], listener={"idle_timeout": 0.1}, workers=1) as balancer:
            with UdpClient(address_of(balancer)) as early:
                early.send(b"early")
                wait_closed(balancer, CloseReason.IDLE_TIMEOUT)
                late_to = next(iter(server.clients))
                clients = [UdpClient(address_of(balancer)) for _ in range(20)]
                try:
                    for client in clients:
                        client.send(b"x")
                    assert wait_until(lambda: len(server.received) == 21)
                    server.sock.sendto(b"for early alone", late_to)
                    assert wait_until(lambda: balancer.stats().workers[0].late_answers == 1)
                    assert all(client.hears_nothing(0.02) for client in [early, *clients])
                finally:
                    for client in clients:
                        client.close()
            assert len(server.clients) == 21


def test_an_answer_that_is_still_out_reaches_no_other_client_however_many_came_before() -> None:
    """The first question gets two answers, the second none for now: as many answers as questions, and one is out."""
    with serving_udp(lambda data: [data, data] if data == b"twice" else []) as server:
        with balancing_udp([server.address], listener={"idle_timeout": 0.1}, workers=1) as balancer:
            with UdpClient(address_of(balancer)) as early, UdpClient(address_of(balancer)) as other:
                early.send(b"twice")
                assert [early.receive(), early.receive()] == [b"twice", b"twice"]
                early.send(b"slow")
                wait_closed(balancer, CloseReason.IDLE_TIMEOUT)
                late_to = next(iter(server.clients))
                other.send(b"x")
                assert wait_until(lambda: server.received[-1:] == [b"x"])
                server.sock.sendto(b"for early alone", late_to)
                assert wait_until(lambda: balancer.stats().workers[0].late_answers == 1)
                assert other.hears_nothing(0.02)
                assert early.hears_nothing(0.02)


# ---- answers that are counted, and traffic that has none ----


def test_each_of_many_questions_gets_its_number_of_answers() -> None:
    with serving_udp(silent) as server:
        with balancing_udp([server.address], listener={"udp_responses": 2}, workers=1) as balancer:
            with UdpClient(address_of(balancer)) as client:
                for number in range(3):
                    client.send(b"%d" % number)
                assert wait_until(lambda: len(server.received) == 3)
                for number in range(6):
                    server.sock.sendto(b"%d" % number, server.last_peer)
                    assert client.receive() == b"%d" % number
                    assert number == 5 or active(balancer) == 1
                wait_closed(balancer, CloseReason.NORMAL)
                server.sock.sendto(b"one too many", server.last_peer)
                assert wait_until(lambda: balancer.stats().workers[0].late_answers == 1)
                assert client.hears_nothing(0.02)
            assert not dropped(balancer)


def test_one_way_traffic_waits_for_no_answer() -> None:
    """The sockets rest at once, so few serve many; and what is answered all the same reaches nobody."""
    with serving_udp() as server, balancing_udp([server.address], listener={"udp_responses": "none"}) as balancer:
        clients = [UdpClient(address_of(balancer)) for _ in range(30)]
        try:
            for number, client in enumerate(clients * 3):
                client.send(b"%d" % number)
                assert wait_until(lambda number=number: len(server.received) == number + 1)
            assert wait_until(lambda: active(balancer) == 0)
            assert closed(balancer) == {CloseReason.NORMAL: 90}
            assert len(server.clients) <= 4  # of two workers, one or two each
            assert all(client.hears_nothing(0.001) for client in clients)
        finally:
            for client in clients:
                client.close()


def test_answers_to_one_way_traffic_never_reach_who_waits_for_one() -> None:
    """Two listeners have one pool, and so the same backends, but not the same sockets to them."""
    with serving_udp(silent) as server:
        config = Config(
            global_=GlobalConfig(workers=1),
            admin=AdminConfig(bind="off"),
            listeners={
                "web": Listener(bind="127.0.0.1:0", protocol="udp", pool="web", udp_responses="none"),
                "ask": Listener(bind="127.0.0.1:0", protocol="udp", pool="web", udp_responses=1),
            },
            pools={"web": Pool(backends=[server.address], health=NO_CHECKS)},
        )
        with LoadBalancer(config) as balancer:
            with UdpClient(address_of(balancer)) as tells, UdpClient(balancer.listeners["ask"].addresses[0]) as asks:
                for number in range(10):
                    tells.send(b"told")
                    assert wait_until(lambda number=number: len(server.received) == 2 * number + 1)
                    late_to = server.last_peer
                    asks.send(b"asked")
                    assert wait_until(lambda number=number: len(server.received) == 2 * number + 2)
                    server.sock.sendto(b"late", late_to)
                    server.sock.sendto(b"answer", server.last_peer)
                    assert asks.receive() == b"answer"
                assert tells.hears_nothing(0.02)
                assert wait_until(lambda: balancer.stats().workers[0].late_answers == 10)


def test_one_way_sessions_of_several_datagrams_stay_together() -> None:
    listener = {"udp_responses": "none", "udp_requests": 3}
    with servers("a", "b") as made:
        with balancing_udp([one.address for one in made.values()], listener=listener, workers=1) as balancer:
            with UdpClient(address_of(balancer)) as client:
                told = lambda: sum(len(one.received) for one in made.values())  # noqa: E731
                for number in range(6):
                    client.send(b"%d" % number)
                    assert wait_until(lambda number=number: told() == number + 1)
                assert sorted(one.received for one in made.values()) == [[b"0", b"1", b"2"], [b"3", b"4", b"5"]]
                assert client.hears_nothing(0.02)
            wait_closed(balancer, CloseReason.NORMAL, 2)


def test_one_way_traffic_leaves_a_backend_that_refuses() -> None:
    dead = UdpServer()
    dead.stop()
    with serving_udp(silent) as alive:
        listener = {"udp_responses": "none"}
        with balancing_udp([dead.address, alive.address], listener=listener, workers=1) as balancer:
            with UdpClient(address_of(balancer)) as client:
                backends = lambda: balancer.stats().pools["web"].backends  # noqa: E731
                for number in range(2):  # round robin: one of them is lost there
                    client.send(b"%d" % number)
                    assert wait_until(
                        lambda number=number: sum(one.sessions_total for one in backends().values()) == number + 1
                    )
                assert backends()[dead.address].sessions_total == 1
                for number in range(20):
                    client.send(b"more %d" % number)
                    assert wait_until(lambda number=number: alive.received[-1:] == [b"more %d" % number])


# ---- limits ----


def test_at_max_sessions_the_idlest_makes_room() -> None:
    with serving_udp() as server:
        with balancing_udp([server.address], listener={"max_sessions": 3}, workers=1) as balancer:
            clients = [UdpClient(address_of(balancer)) for _ in range(4)]
            try:
                for client in clients[:3]:
                    client.ask(b"?")
                    time.sleep(0.005)  # the clock of sessions counts milliseconds
                clients[0].ask(b"still here")
                clients[3].ask(b"new")  # in place of clients[1], now the idlest
                assert active(balancer) == 3
                assert closed(balancer) == {CloseReason.RESOURCE_LIMIT: 1}
                total = balancer.stats().listeners["web"].sessions_total
                clients[0].ask(b"?")
                clients[2].ask(b"?")
                assert balancer.stats().listeners["web"].sessions_total == total
                clients[1].ask(b"?")
                assert balancer.stats().listeners["web"].sessions_total == total + 1
            finally:
                for client in clients:
                    client.close()


def test_session_rate_drops_the_datagrams_of_new_clients_only() -> None:
    listener = {"session_rate": "1/s", "session_burst": 2}
    with serving_udp() as server, balancing_udp([server.address], listener=listener) as balancer:
        clients = [UdpClient(address_of(balancer)) for _ in range(6)]
        try:
            for client in clients:
                client.send(b"?")
            assert wait_until(lambda: dropped(balancer).get(DropReason.RATE_LIMITED, 0) >= 3)
            heard = [client for client in clients if not client.hears_nothing()]
            assert 1 <= len(heard) <= 3
            assert [client.ask(b"again") for client in heard] == [b"again"] * len(heard)
        finally:
            for client in clients:
                client.close()


def test_bandwidth_drops_what_is_above_it() -> None:
    listener = {"bandwidth_up": "100KB/s"}
    with serving_udp(silent) as server, balancing_udp([server.address], listener=listener) as balancer:
        with UdpClient(address_of(balancer)) as client:
            for _ in range(200):
                client.send(bytes(1000))
            assert wait_until(lambda: len(server.received) + dropped(balancer).get(DropReason.BANDWIDTH, 0) == 200)
            assert len(server.received) < 100


def test_a_backend_at_its_max_sessions_gets_no_more() -> None:
    with servers("a", "b") as made:
        backends = [{"address": made["a"].address, "max_sessions": 1}, made["b"].address]
        with balancing_udp(backends) as balancer:
            clients = [UdpClient(address_of(balancer)) for _ in range(5)]
            try:
                assert sorted(client.ask(b"?") for client in clients) == [b"a", b"b", b"b", b"b", b"b"]
            finally:
                for client in clients:
                    client.close()


def test_without_a_backend_datagrams_are_dropped_and_counted() -> None:
    with balancing_udp([{"address": "127.0.0.1:9", "admin_state": "maint"}]) as balancer:
        with UdpClient(address_of(balancer)) as client:
            for _ in range(3):
                client.send(b"?")
            wait_dropped(balancer, DropReason.NO_BACKEND, 3)
        assert balancer.stats().listeners["web"].sessions_total == 0


# ---- failure ----


def test_a_backend_that_refuses_ends_the_session_and_the_next_datagram_goes_elsewhere() -> None:
    with servers("a", "b") as made, balancing_udp([one.address for one in made.values()], workers=1) as balancer:
        with UdpClient(address_of(balancer)) as client:
            mine = client.ask(b"?")
            other = b"b" if mine == b"a" else b"a"
            made[mine.decode()].stop()
            client.send(b"lost: this one meets the closed port")
            wait_closed(balancer, CloseReason.BACKEND_ABORT)
            assert [client.ask(b"?") for _ in range(4)] == [other] * 4
        for _ in range(4):  # round robin would give half of them to the dead one
            with UdpClient(address_of(balancer)) as another:
                assert another.ask(b"?") == other


def test_answers_before_the_refusal_still_arrive() -> None:
    with serving_udp(lambda data: [b"%d" % number for number in range(200)]) as server:
        with balancing_udp([server.address], workers=1) as balancer:
            with UdpClient(address_of(balancer)) as client:
                client.send(b"?")
                assert wait_until(lambda: server.received)
                server.stop()
                client.send(b"refused")
                assert [client.receive() for _ in range(200)] == [b"%d" % number for number in range(200)]


def test_bursts_of_answers_that_grow_are_read_whole(tmp_path: Path) -> None:
    """How many are asked for at once follows what came before, and has an end. The balancer is stopped while they
    come, so that they are all there when it looks."""
    file = tmp_path / "lb.toml"
    with serving_udp(silent) as server:
        file.write_text(PLAIN.format(backend=server.address))
        with l4lb("serve", "-c", str(file), "--workers", "1") as process, UdpClient(process.address("web")) as client:
            client.send(b"?")
            assert wait_until(lambda: server.clients)
            peer = next(iter(server.clients))
            for count in (16 + 32 + 40, 40 + 64 + 64, 16 + 32 + 33, 400):
                process.hang()
                for number in range(count):
                    server.sock.sendto(b"%d" % number, peer)
                process.signal(signal.SIGCONT)
                assert [client.receive() for _ in range(count)] == [b"%d" % number for number in range(count)]


def test_refusals_are_seen_by_passive_and_eject() -> None:
    with serving_udp() as alive:
        dead = UdpServer()
        dead.stop()
        options = {"passive": PassiveConfig(failures=2, eject_for=30)}
        with balancing_udp([alive.address, dead.address], workers=1, **options) as balancer:

            def try_again() -> bool:
                with UdpClient(address_of(balancer)) as client:
                    client.send(b"?")
                    client.hears_nothing(0.02)
                states = balancer.status()["pools"][0]["backends"]
                return any(one["ejected"] for one in states if one["id"] == dead.address)

            assert wait_until(try_again, 20), balancer.stats()


def test_a_listener_that_drains_serves_the_sessions_that_it_has() -> None:
    with serving_udp() as server, balancing_udp([server.address], workers=2) as balancer:
        with UdpClient(address_of(balancer)) as old, UdpClient(address_of(balancer)) as new:
            old.ask(b"?")
            draining = threading.Thread(target=balancer.drain, args=(20,))
            draining.start()
            try:
                assert wait_until(lambda: balancer.status()["state"] == "draining")
                new.send(b"?")
                assert wait_until(lambda: dropped(balancer).get(DropReason.DRAINING, 0) >= 1)
                assert [old.ask(b"%d" % number) for number in range(5)] == [b"%d" % number for number in range(5)]
            finally:
                balancer.close()
                draining.join()


@contextlib.contextmanager
def echo_of_both() -> Iterator[Server]:
    """Echo servers of TCP and UDP on one port, which must be free for both."""
    for _ in range(50):
        with running(Server(echo)) as tcp, contextlib.ExitStack() as stack:
            try:
                stack.enter_context(serving_udp(port=tcp.port))
            except OSError:
                continue
            yield tcp
            return
    raise AssertionError("no port is free for both")


def test_udp_and_tcp_share_a_port_and_a_pool() -> None:
    with echo_of_both() as backend:
        with echo_of_both() as other:
            address = other.address  # free for both, once it is gone
        config = Config(
            admin=AdminConfig(bind="off"),
            listeners={
                "tcp": Listener(bind=address, pool="dns"),
                "udp": Listener(bind=address, protocol="udp", pool="dns"),
            },
            pools={"dns": Pool(backends=[backend.address], health=NO_CHECKS)},
        )
        with LoadBalancer(config), UdpClient(address) as client, connect(address) as stream:
            assert client.ask(b"datagram") == b"datagram"
            stream.sendall(b"stream")
            assert stream.recv(100) == b"stream"


def test_kernel_drops_are_counted() -> None:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind(("127.0.0.1", 0))
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            for number in range(100):
                sender.sendto(struct.pack("I", number) * 250, sock.getsockname())
        sock.setblocking(False)
        received = 0
        with contextlib.suppress(BlockingIOError):
            while sock.recv(2000):
                received += 1
        assert 0 < received < 100
        assert ListeningSockets([sock], "").kernel_drops() == 100 - received


# ---- PROXY protocol ----


def header_of(client: tuple[str, int], server: tuple[str, int], tlvs: tuple[tuple[int, bytes], ...] = ()) -> Header:
    family = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
    source, destination = SocketAddress(family, *client), SocketAddress(family, *server)
    return Header(source=source, destination=destination, transport=Transport.DGRAM, tlvs=tlvs)


ACCEPTING = {"accept_proxy": "v2", "proxy_trusted": ["127.0.0.0/8"]}


def test_every_datagram_to_the_backend_begins_with_its_client() -> None:
    """PROXY 2 (revision of 2026): "header and payload in the same datagram", in each."""
    with serving_udp(lambda data: [data[parse(data).length :]]) as server:
        with balancing_udp([server.address], send_proxy="v2", send_proxy_tlvs=["crc32c", "unique_id"]) as balancer:
            with UdpClient(address_of(balancer)) as client:
                assert [client.ask(b"%d" % number) for number in range(3)] == [b"0", b"1", b"2"]
                headers = [parse(data) for data in server.received]
                assert {(one.source.host, one.source.port) for one in headers if one.source} == {
                    ("127.0.0.1", client.port)
                }
                assert {str(one.destination) for one in headers} == {address_of(balancer)}
                assert all(one.transport is Transport.DGRAM and one.crc32c for one in headers)
                assert len({one.tlvs for one in headers}) == 1
            backend = balancer.stats().pools["web"].backends[server.address]
            assert (backend.datagrams_up, backend.bytes_up) == (3, 3)


def test_each_datagram_of_a_train_has_its_header() -> None:
    data = random.Random(5).randbytes(1200 * 30 + 7)
    with serving_udp(lambda data: []) as server, balancing_udp([server.address], send_proxy="v2") as balancer:
        with UdpClient(address_of(balancer)) as client:
            client.sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1200)
            client.send(data)
            assert wait_until(lambda: len(server.received) == 31)
            assert b"".join(one[parse(one).length :] for one in server.received) == data
        assert balancer.stats().pools["web"].backends[server.address].bytes_up == len(data)


def test_a_datagram_that_leaves_no_room_for_the_header_is_dropped_whole() -> None:
    with serving_udp() as server, balancing_udp([server.address], send_proxy="v2") as balancer:
        with UdpClient(address_of(balancer)) as client:
            client.send(bytes(65507 - 27))
            wait_dropped(balancer, DropReason.TOO_LARGE)
            client.send(bytes(65507 - 28))
            assert wait_until(lambda: [len(data) for data in server.received] == [65507])


def test_one_proxy_speaks_for_many_clients() -> None:
    with servers("a", "b") as made:
        options = {"listener": ACCEPTING, "send_proxy": "v2"}
        with balancing_udp([one.address for one in made.values()], **options) as balancer:
            with UdpClient(address_of(balancer)) as proxy:
                there = ("198.51.100.1", 53)
                first, second = (build(header_of((f"192.0.2.{n}", 4000), there)) for n in (1, 2))
                answers = [proxy.ask(first + b"?"), proxy.ask(second + b"?"), proxy.ask(first + b"?")]
                assert answers[0] == answers[2] != answers[1]
            assert balancer.stats().listeners["web"].sessions_total == 2
            told = {str(parse(data).source) for one in made.values() for data in one.received}
            assert told == {"192.0.2.1:4000", "192.0.2.2:4000"}
            assert {str(parse(data).destination) for one in made.values() for data in one.received} == {
                "198.51.100.1:53"
            }


def test_received_tlvs_are_passed_on() -> None:
    with serving_udp(silent) as server:
        options = {"listener": ACCEPTING, "send_proxy": "v2", "send_proxy_tlvs": ["received"]}
        with balancing_udp([server.address], **options) as balancer, UdpClient(address_of(balancer)) as proxy:
            for number in range(3):
                tlvs = ((0xE0, b"%d" % number),)
                proxy.send(build(header_of(("2001:db8::1", 9), ("2001:db8::2", 53), tlvs)) + b"?")
            assert wait_until(lambda: len(server.received) == 3)
            assert [parse(data).tlvs for data in server.received] == [((0xE0, b"%d" % number),) for number in range(3)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no header", "bad_signature"),
        (build(header_of(("192.0.2.1", 1), ("192.0.2.2", 2)))[:-1], "truncated"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x02ab", "too_short"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nx", "bad_signature"),
    ],
)
def test_a_datagram_without_a_sound_header_is_dropped(data: bytes, reason: str) -> None:
    with serving_udp() as server, balancing_udp([server.address], listener=ACCEPTING) as balancer:
        with UdpClient(address_of(balancer)) as proxy:
            proxy.send(data)
            wait_dropped(balancer, DropReason.PROXY_HEADER)
            assert balancer.stats().listeners["web"].proxy_refused == {reason: 1}
            local = build(Header(command=Command.LOCAL))
            assert proxy.ask(local + b"mine") == b"mine"  # of the proxy itself
        assert server.received == [b"mine"]


def test_headers_of_others_than_the_trusted_are_dropped() -> None:
    listener = {"accept_proxy": "any", "proxy_trusted": ["127.0.0.8/32"]}
    with serving_udp() as server, balancing_udp([server.address], listener=listener) as balancer:
        data = build(header_of(("192.0.2.1", 1), ("192.0.2.2", 2))) + b"x"
        with UdpClient(address_of(balancer)) as stranger, UdpClient(address_of(balancer), bind="127.0.0.8") as proxy:
            stranger.send(data)
            wait_dropped(balancer, DropReason.PROXY_HEADER)
            assert balancer.stats().listeners["web"].proxy_refused == {"untrusted": 1}
            assert proxy.ask(data) == b"x"
