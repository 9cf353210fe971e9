"""Routes over UDP: QUIC by the server name in its first packets, whole or in parts, and everything by source."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from l4lb import Config, Listener, LoadBalancer, Pool, Route, _fastpath
from l4lb.config import AdminConfig, GlobalConfig
from l4lb.errors import ConfigError
from l4lb.model.states import DropReason
from tests.support.balancing import NO_CHECKS, address_of, wait_idle
from tests.support.datagrams import UDP_SEGMENT, address_pair, serving_udp
from tests.support.quic import QuicPeers, RunningServer, free_udp_socket, quic_peers
from tests.support.waiting import wait_until
from tests.unit.dataplane.tls.test_quic_hello import HELLO, crypto, initial

SNI = [{"sni": "a.example", "pool": "a"}, {"sni": "*.b.example", "alpn": "h3", "pool": "b"}]
MANY = [f"protocol-{number}" for number in range(150)]  # a hello that has no room in one datagram


@pytest.fixture(scope="module")
def peers() -> Iterator[QuicPeers]:
    with quic_peers() as made:
        yield made


@contextlib.contextmanager
def routing(
    backends: dict[str, str], routes: list[dict[str, Any]], workers: int = 2, listener: Any = None, **pool: Any
) -> Iterator[LoadBalancer]:
    """The first of `backends`, addresses by the pool's name, is the listener's own."""
    udp = {"bind": "127.0.0.1:0", "protocol": "udp", "pool": next(iter(backends)), **(listener or {})}
    config = Config(
        global_=GlobalConfig(workers=workers),
        admin=AdminConfig(bind="off"),
        listeners={"web": Listener(**udp, routes=[Route(**one) for one in routes])},
        pools={name: Pool(backends=[one], health=NO_CHECKS, **pool) for name, one in backends.items()},
    )
    with LoadBalancer(config) as balancer:
        yield balancer


@contextlib.contextmanager
def quic(
    peers: QuicPeers, retry: bool = False, alpn: tuple[str, ...] = (), **options: Any
) -> Iterator[tuple[LoadBalancer, dict[str, RunningServer]]]:
    with peers.serving("web", "a", "b", retry=retry, alpn=alpn) as servers:
        with routing({name: one.address for name, one in servers.items()}, SNI, **options) as balancer:
            yield balancer, servers


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize(
    ("options", "pool"),
    [
        ({"server_name": "a.example"}, "a"),
        ({"server_name": "A.EXAMPLE"}, "a"),
        ({"server_name": "x.y.b.example", "alpn_protocols": ["hq", "h3"]}, "b"),
        ({"server_name": "x.b.example", "alpn_protocols": ["hq"]}, "web"),
        ({"server_name": "other.example"}, "web"),
        ({"server_name": "a.example", "original_version": 0x6B3343CF}, "a"),
        ({"server_name": "a.example", "alpn_protocols": MANY}, "a"),
        ({"server_name": "a.example", "connection_id_length": 20}, "a"),
    ],
)
def test_connections_go_by_name_and_protocol(peers: QuicPeers, options: dict[str, Any], pool: str, retry: bool) -> None:
    alpn = tuple(options.get("alpn_protocols", ()))
    with quic(peers, retry, alpn) as (balancer, servers), peers.connect(address_of(balancer), **options) as client:
        assert client.ask() == pool
        assert client.ask() == pool
        assert all(one.datagrams == 0 for name, one in servers.items() if name != pool)
        assert balancer.stats().listeners["web"].dropped == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_routed_client_that_moves_keeps_its_connection(peers: QuicPeers, workers: int) -> None:
    """Packets after the handshake name no server: the backend that knows the connection id has the client."""
    with quic(peers, alpn=(MANY[0],), workers=workers, policy="maglev", hash_key="quic_cid") as (balancer, _):
        with peers.connect(address_of(balancer), server_name="a.example", alpn_protocols=MANY) as client:
            assert client.ask() == "a"
            for _ in range(20):
                client.move()
                assert client.ask() == "a"


def test_who_waits_and_turns_out_to_have_a_connection_goes_on_with_it(peers: QuicPeers) -> None:
    """A part of a hello first, from the address to which a client with a connection then moves."""
    part = first_flight("a.example", MANY)[0]
    with quic(peers, workers=1, policy="maglev", hash_key="quic_cid") as (balancer, servers):
        with peers.connect(address_of(balancer), server_name="a.example") as client:
            assert client.ask() == "a"
            for _ in range(5):
                sock = free_udp_socket()
                more = balancer.stats().listeners["web"].sessions_active + 1
                sock.sendto(part, address_pair(address_of(balancer)))
                assert wait_until(lambda more=more: balancer.stats().listeners["web"].sessions_active == more)
                client.move(sock)
                assert client.ask() == "a"
                with peers.connect(address_of(balancer), server_name="other.example") as other:
                    assert other.ask() == "web"
            assert servers["b"].datagrams == 0
            assert balancer.stats().listeners["web"].dropped == {}


@pytest.mark.parametrize("parts", [[12_000], [1200] * 5])
def test_more_than_a_hello_has_is_not_kept(parts: list[int]) -> None:
    """One that is too large, and a train of too many."""
    sent = [initial(crypto(0, HELLO[:40]).ljust(size - 60, b"\0")) for size in parts]
    with echoing() as (balancer, servers, client):
        if len(sent) > 1:
            client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(sent[0]))
        client.send(b"".join(sent))
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        assert [len(client.recv(65536)) for _ in sent] == [len(one) for one in sent]
        assert sent_to(servers) == {"web": len(sent), "a": 0, "b": 0}
        assert balancer.stats().listeners["web"].dropped == {}


def first_flight(name: str, protocols: list[str]) -> list[bytes]:
    client = QuicConnection(configuration=QuicConfiguration(server_name=name, alpn_protocols=protocols))
    client.connect(("127.0.0.1", 1), now=0.0)
    return [data for data, _ in client.datagrams_to_send(now=0.0)]


@contextlib.contextmanager
def echoing(**options: Any) -> Iterator[tuple[LoadBalancer, dict[str, Any], socket.socket]]:
    """UDP servers that send back what they get, and a client's socket."""
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(serving_udp()) for name in ("web", "a", "b")}
        routed = routing({name: one.address for name, one in servers.items()}, SNI, **options)
        balancer = stack.enter_context(routed)
        client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.connect(address_pair(address_of(balancer)))
        client.settimeout(20)
        yield balancer, servers, client


def sent_to(servers: dict[str, Any]) -> dict[str, int]:
    return {name: one.clients.total() for name, one in servers.items()}


@pytest.mark.parametrize("order", ["as sent", "the other way round", "twice"])
def test_the_parts_of_a_hello_wait_for_each_other_and_all_arrive(order: str) -> None:
    flight = first_flight("a.example", MANY)
    sent = {"as sent": flight, "the other way round": flight[::-1], "twice": [flight[0], *flight]}[order]
    with echoing() as (balancer, servers, client):
        for datagram in sent[:-1]:
            client.send(datagram)
            assert wait_until(lambda: balancer.stats().listeners["web"].sessions_active == 1)
        assert sent_to(servers) == {"web": 0, "a": 0, "b": 0}
        client.send(sent[-1])
        assert sorted(client.recv(2048) for _ in sent) == sorted(sent)
        assert sent_to(servers) == {"web": 0, "a": len(sent), "b": 0}
        (session,) = balancer.sessions()
        assert (session["pool"], session["bytes_up"]) == ("a", sum(map(len, sent)))
        assert balancer.stats().listeners["web"].sessions_total == 1


def test_whose_rest_does_not_come_is_forgotten_and_counted() -> None:
    with echoing() as (balancer, servers, client):
        client.send(first_flight("a.example", MANY)[0])
        listener = lambda: balancer.stats().listeners["web"]  # noqa: E731
        assert wait_until(lambda: listener().sessions_active == 1)
        assert wait_until(lambda: listener().dropped == {DropReason.UNROUTED: 1}, 20)
        wait_idle(balancer)
        assert sent_to(servers) == {"web": 0, "a": 0, "b": 0}


def test_a_hello_that_never_is_whole_goes_to_the_listeners_pool_after_some_datagrams() -> None:
    part = initial(crypto(0, HELLO[:40]))
    with echoing() as (balancer, servers, client):
        for _ in range(5):
            client.send(part)
        assert [client.recv(2048) for _ in range(5)] == [part] * 5
        assert sent_to(servers) == {"web": 5, "a": 0, "b": 0}
        assert balancer.stats().listeners["web"].dropped == {}


@pytest.mark.parametrize(
    "data", [b"hello", b"\x40" + bytes(30), b"\xc0\0\0\0\x07" + bytes(1200), b"\xc3\0\0\0\x01" + bytes(1200)]
)
def test_what_is_no_quic_that_can_be_read_goes_to_the_listeners_pool_at_once(data: bytes) -> None:
    with echoing() as (_, servers, client):
        client.send(data)
        assert client.recv(2048) == data
        assert sent_to(servers) == {"web": 1, "a": 0, "b": 0}


def test_who_waits_counts_for_the_limits_of_sessions() -> None:
    part = first_flight("a.example", MANY)[0]
    with echoing(listener={"per_source": {"sessions": 3}}) as (balancer, _, client):
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                other = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                other.connect(client.getpeername())
                other.send(part)
            dropped = lambda: balancer.stats().listeners["web"].dropped  # noqa: E731
            assert wait_until(lambda: dropped().get(DropReason.MAX_SESSIONS, 0) == 2)
            assert balancer.sources()[0]["sessions_active"] == 3
            assert wait_until(lambda: dropped().get(DropReason.UNROUTED, 0) == 3, 20)
            wait_idle(balancer)


def test_a_flood_of_halves_keeps_within_its_bounds_and_others_are_served() -> None:
    part = first_flight("a.example", MANY)[0]
    with echoing(workers=1) as (balancer, servers, client), contextlib.ExitStack() as stack:
        others = []
        for _ in range(1500):
            other = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            other.connect(client.getpeername())
            others.append(other)
        for other in others:
            other.send(part)
            assert balancer.stats().listeners["web"].sessions_active <= 1025
        whole = initial(crypto(0, HELLO.replace(b"quic.example", b"wx.b.example")))
        client.send(whole)
        assert client.recv(2048) == whole
        assert sent_to(servers)["b"] == 1
        stats = balancer.stats().listeners["web"]
        assert stats.dropped.get(DropReason.UNROUTED, 0) >= 1500 - 1024


def test_without_libcrypto_routes_by_name_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fastpath, "load_libcrypto", lambda: False)
    with pytest.raises(ConfigError, match="routes by sni or alpn of udp need OpenSSL's libcrypto"):
        with routing({"web": "127.0.0.1:1", "a": "127.0.0.1:2", "b": "127.0.0.1:3"}, SNI):
            pass
    with routing({"web": "127.0.0.1:1", "a": "127.0.0.1:2"}, [{"source": "127.0.7.0/24", "pool": "a"}]):
        pass


def test_by_source_nothing_is_waited_for() -> None:
    routes = [{"source": "127.0.7.0/24", "pool": "a"}]
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(serving_udp()) for name in ("web", "a")}
        balancer = stack.enter_context(routing({name: one.address for name, one in servers.items()}, routes))
        for source, pool in (("127.0.7.1", "a"), ("127.0.8.1", "web")):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((source, 0))
                client.settimeout(20)
                client.sendto(b"hello", address_pair(address_of(balancer)))
                assert client.recv(10) == b"hello"
                assert servers[pool].clients.total() == 1


def test_a_listener_that_drains_while_clients_wait_ends_in_time() -> None:
    with echoing() as (balancer, _, client):
        client.send(first_flight("a.example", MANY)[0])
        assert wait_until(lambda: balancer.stats().listeners["web"].sessions_active == 1)
        assert balancer.listeners["web"].drain(wait=True, timeout=20)
