"""Routes over TCP: which pool a client gets, whatever pieces its first bytes come in, and what its backend receives."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l4lb import Config, Listener, LoadBalancer, Pool, Route
from l4lb.config import AdminConfig, GlobalConfig, PassiveConfig
from l4lb.model.states import CloseReason, SessionState
from tests.support import hellos
from tests.support.balancing import NO_CHECKS, address_of, closed, wait_idle
from tests.support.datagrams import address_pair
from tests.support.hellos import alpn, extension, message, records, server_name
from tests.support.peers import connect, hold, read_exactly, read_until_end, reset, serving
from tests.support.waiting import wait_until

SSL_REQUEST = bytes.fromhex("0000000804d2162f")
GSSENC_REQUEST = bytes.fromhex("0000000804d21630")
TRUSTED = {"accept_proxy": "any", "proxy_trusted": ["127.0.0.0/8"]}


class Naming:
    """A backend that says its name first, then sends back all that it gets."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, sock: socket.socket) -> None:
        sock.sendall(self.name.encode().ljust(8))
        while data := sock.recv(1 << 16):
            sock.sendall(data)


@contextlib.contextmanager
def routing(
    routes: list[dict[str, Any]], pools: tuple[str, ...] = ("web", "api", "ssh"), listener: Any = None, **pool: Any
) -> Iterator[LoadBalancer]:
    """A balancer with a naming backend in each of `pools`; the first is the listener's own."""
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(serving(Naming(name))) for name in pools}
        config = Config(
            global_=GlobalConfig(workers=2),
            admin=AdminConfig(bind="off"),
            listeners={
                "web": Listener(
                    bind="127.0.0.1:0",
                    pool=pools[0],
                    routes=[Route(**one) for one in routes],
                    **(listener or {}),
                )
            },
            pools={name: Pool(backends=[one.address], health=NO_CHECKS, **pool) for name, one in servers.items()},
        )
        yield stack.enter_context(LoadBalancer(config))


def reached(balancer: LoadBalancer, first: bytes, source: str = "127.0.0.1", header: bytes = b"") -> str:
    """Which backend a client gets that sends `first`; what it sends comes back whole."""
    with socket.create_connection(address_pair(address_of(balancer)), 20, (source, 0)) as client:
        client.sendall(header + first)
        name = read_exactly(client, 8)
        assert read_exactly(client, len(first)) == first
        client.sendall(b"more")
        assert read_exactly(client, 4) == b"more"
    return name.decode().strip()


def hello(name: str = "", *protocols: str, filler: int = 0) -> bytes:
    named = server_name(name.encode()) if name else b""
    offered = alpn(*(one.encode() for one in protocols)) if protocols else b""
    return records(message(named + offered + (extension(51, bytes(filler)) if filler else b"")))


SNI = [{"sni": ["api.example.com", "*.shop.example.com"], "pool": "api"}, {"starts_with": "SSH-", "pool": "ssh"}]


def test_name_protocol_first_bytes_and_source_decide() -> None:
    routes = [
        {"source": ["127.0.3.0/24"], "pool": "ssh"},
        {"sni": "both.example.com", "alpn": ["h2"], "pool": "api"},
        {"alpn": ["postgresql"], "pool": "ssh"},
        *SNI,
    ]
    with routing(routes) as balancer:
        assert reached(balancer, b"GET / HTTP/1.0\r\n\r\n", source="127.0.3.7") == "ssh"
        assert reached(balancer, hello("both.example.com", "http/1.1", "h2")) == "api"
        assert reached(balancer, hello("both.example.com", "http/1.1")) == "web"
        assert reached(balancer, hello("", "postgresql")) == "ssh"
        assert reached(balancer, hello("API.example.com")) == "api"
        assert reached(balancer, hello("a.b.shop.example.com")) == "api"
        assert reached(balancer, hello("shop.example.com")) == "web"
        assert reached(balancer, hello()) == "web"
        assert reached(balancer, b"SSH-2.0-OpenSSH_9.2\r\n") == "ssh"
        assert reached(balancer, b"GET / HTTP/1.0\r\n\r\n") == "web"
        wait_idle(balancer)
        assert closed(balancer) == {CloseReason.NORMAL: 10}
        sessions = {name: pool.sessions_total for name, pool in balancer.stats().pools.items()}
        assert sessions == {"ssh": 3, "api": 3, "web": 4}


def test_a_client_of_a_routed_pool_is_counted_there_and_nowhere_else() -> None:
    with routing(SNI) as balancer, connect(address_of(balancer)) as client:
        assert wait_until(lambda: [one["state"] for one in balancer.sessions()] == [SessionState.READING])
        client.sendall(hello("api.example.com"))
        assert read_exactly(client, 8) == b"api     "
        (session,) = balancer.sessions()
        assert (session["pool"], session["listener"]) == ("api", "web")
        assert [one["id"] for one in balancer.sessions(pool="api")] == [session["id"]]
        assert balancer.sessions(pool="web") == []
        client.close()
        wait_idle(balancer)


@pytest.mark.parametrize("size", [1, 7, 100, 1400])
@pytest.mark.parametrize("proxied", [False, True])
def test_pieces_of_any_size_even_of_a_large_hello_over_many_records(size: int, proxied: bool) -> None:
    """A hybrid post-quantum key share makes a hello of some KB; here it is also cut into small records."""
    first = records(message(server_name(b"api.example.com") + extension(51, bytes(1200))), 300)
    header = b"PROXY TCP4 192.0.2.1 127.0.0.1 1000 443\r\n" if proxied else b""
    with routing(SNI, listener=TRUSTED if proxied else None) as balancer:
        with socket.create_connection(address_pair(address_of(balancer)), 20) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            whole = header + first
            for at in range(0, len(whole), size):
                client.sendall(whole[at : at + size])
                if size < 100 and at % (50 * size) == 0:
                    time.sleep(0.001)
            assert read_exactly(client, 8) == b"api     "
            assert read_exactly(client, len(first)) == first


def test_a_hello_of_sixteen_kilobytes_is_read_and_a_larger_one_goes_to_the_listeners_pool() -> None:
    with routing(SNI) as balancer:
        largest = hello("api.example.com", filler=16384 - 200)
        assert 16000 < len(largest) <= 16384
        assert reached(balancer, largest) == "api"
        assert reached(balancer, hello("api.example.com", filler=16384)) == "web"


def test_real_hellos_of_openssl() -> None:
    with routing(SNI) as balancer:
        for newest in ("TLSv1_2", "TLSv1_3"):
            assert reached(balancer, hellos.real("api.example.com", newest=newest)) == "api"
            assert reached(balancer, hellos.real("www.example.com", newest=newest)) == "web"


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01", hello("api.example.com")[:60], b"SS"])
def test_what_does_not_come_is_waited_for_until_a_deadline_that_no_byte_moves(first: bytes) -> None:
    with routing(SNI) as balancer, connect(address_of(balancer)) as client:
        began = time.monotonic()
        for at in range(len(first)):
            client.sendall(first[at : at + 1])
            time.sleep(min(0.3, 4 / len(first)))
        assert read_exactly(client, 8) == b"web     "
        assert 4.9 < time.monotonic() - began < 30
        assert read_exactly(client, len(first)) == first


@pytest.mark.parametrize("first", [b"", b"SSH", hello("api.example.com")[:60], SSL_REQUEST[:5]])
def test_a_client_that_ends_is_not_waited_for(first: bytes) -> None:
    with routing(SNI) as balancer, connect(address_of(balancer)) as client:
        client.sendall(first)
        client.shutdown(socket.SHUT_WR)
        assert read_exactly(client, 8) == b"web     "
        assert read_until_end(client)[0] == first


def test_behind_a_proxy_header_its_client_decides_and_its_name_is_passed_on() -> None:
    routes = [{"source": ["192.0.2.0/24"], "sni": "api.example.com", "pool": "api"}]
    with routing(routes, listener=TRUSTED) as balancer:
        for client, pool in (("192.0.2.7", "api"), ("192.0.3.7", "web")):
            header = f"PROXY TCP4 {client} 127.0.0.1 1000 443\r\n".encode()
            assert reached(balancer, hello("api.example.com"), header=header) == pool


def test_a_pool_that_passes_the_name_on_gets_it_by_every_route() -> None:
    def reading(sock: socket.socket) -> None:
        got = b""
        while b"api.example.com" not in got[16:] or len(got) < 100:
            got += sock.recv(4096)
        sock.sendall(got[:200])

    routes = [{"source": ["127.0.0.1"], "pool": "api"}, {"sni": "api.example.com", "pool": "api"}]
    for one in routes:
        with serving(reading) as server:
            config = Config(
                admin=AdminConfig(bind="off"),
                listeners={"web": Listener(bind="127.0.0.1:0", pool="web", routes=[Route(**one)])},
                pools={
                    "web": Pool(backends=["127.0.0.1:1"], health=NO_CHECKS),
                    "api": Pool(
                        backends=[server.address], health=NO_CHECKS, send_proxy="v2", send_proxy_tlvs=["authority"]
                    ),
                },
            )
            with LoadBalancer(config) as balancer, connect(address_of(balancer)) as client:
                client.sendall(hello("api.example.com", filler=200))
                got = read_exactly(client, 60)
                assert got.startswith(b"\r\n\r\n\0\r\nQUIT\n")
                assert b"\x02\x00\x0fapi.example.com" in got


def test_a_split_sticks_to_the_source_and_goes_by_weight() -> None:
    routes = [{"split": {"web": 50, "api": 50}}]
    with routing(routes) as balancer:
        first = {
            source: reached(balancer, b"hello", source=source) for source in (f"127.0.9.{n}" for n in range(1, 41))
        }
        assert set(first.values()) == {"web", "api"}
        for source, pool in first.items():
            assert reached(balancer, b"hello", source=source) == pool


def test_routes_change_while_sessions_run() -> None:
    with routing(SNI) as balancer, connect(address_of(balancer)) as before, connect(address_of(balancer)) as reading:
        before.sendall(hello("api.example.com"))
        assert read_exactly(before, 8) == b"api     "
        assert wait_until(lambda: len(balancer.sessions()) == 2)
        config = balancer.config
        web = config.listeners["web"].model_copy(update={"routes": [Route(sni="api.example.com", pool="ssh")]})
        pools = {name: pool for name, pool in config.pools.items() if name != "api"}
        balancer.reload(config.model_copy(update={"listeners": {"web": web}, "pools": pools}))
        reading.sendall(hello("api.example.com"))
        assert read_exactly(reading, 8) == b"ssh     ", "who is still read goes by the new routes"
        assert reached(balancer, hello("api.example.com")) == "ssh"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=hellos.messages.map(records) | st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 400), max_size=5),
)
def test_whatever_comes_in_whatever_pieces_arrives_whole(first: bytes, cuts: list[int], routed: LoadBalancer) -> None:
    with connect(address_of(routed)) as client:
        at = 0
        for cut in [*sorted(cut for cut in cuts if cut < len(first)), len(first)]:
            client.sendall(first[at:cut])
            at = cut
        client.shutdown(socket.SHUT_WR)
        got, was_reset = read_until_end(client)
        assert not was_reset
        assert got[8:] == first
        assert got[:8].strip() in (b"web", b"api", b"ssh")


@pytest.fixture(scope="module")
def routed() -> Iterator[LoadBalancer]:
    with routing(SNI) as balancer:
        yield balancer


# ---- STARTTLS of PostgreSQL ----


class Postgres:
    """As a PostgreSQL with TLS begins; `declines`: one without."""

    def __init__(self, name: str, declines: bool = False) -> None:
        self.name = name
        self.declines = declines
        self.asked = 0

    def __call__(self, sock: socket.socket) -> None:
        sock.settimeout(20)
        if read_exactly(sock, 8) != SSL_REQUEST:
            return
        self.asked += 1
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            time.sleep(0.05)
            assert sock.recv(1) == b"", "nothing follows the request before its answer"
        sock.settimeout(20)
        sock.sendall(b"N" if self.declines else b"S")
        if not self.declines:
            Naming(self.name)(sock)


DATABASE = Route(sni="db.example.com", pool="api")


@contextlib.contextmanager
def databases(declines: bool = False, **pool: Any) -> Iterator[tuple[LoadBalancer, dict[str, Postgres]]]:
    with contextlib.ExitStack() as stack:
        made = {"web": Postgres("web"), "api": Postgres("api", declines)}
        servers = {name: stack.enter_context(serving(one)) for name, one in made.items()}
        config = Config(
            admin=AdminConfig(bind="off"),
            listeners={
                "web": Listener(bind="127.0.0.1:0", pool="web", routes=[Route(sni="db.example.com", pool="api")])
            },
            pools={name: Pool(backends=[one.address], health=NO_CHECKS, **pool) for name, one in servers.items()},
        )
        yield stack.enter_context(LoadBalancer(config)), made


@pytest.mark.parametrize(("name", "pool"), [("db.example.com", "api"), ("other.example.com", "web")])
@pytest.mark.parametrize("gssapi", [False, True])
def test_a_database_is_found_by_the_name_behind_starttls(name: str, pool: str, gssapi: bool) -> None:
    first = hellos.real(name, [])
    with databases() as (balancer, made), connect(address_of(balancer)) as client:
        if gssapi:
            client.sendall(GSSENC_REQUEST)
            assert read_exactly(client, 1) == b"N"
        client.sendall(SSL_REQUEST)
        assert read_exactly(client, 1) == b"S"
        client.sendall(first)
        assert read_exactly(client, 8).strip() == pool.encode()
        assert read_exactly(client, len(first)) == first
        (session,) = balancer.sessions()
        assert (session["bytes_up"], session["bytes_down"]) == (len(first) + 8, len(first) + 9)
        client.shutdown(socket.SHUT_WR)
        assert read_until_end(client) == (b"", False)
        assert made[pool].asked == 1
        wait_idle(balancer)


def test_a_backend_that_declines_tls_is_a_failed_attempt() -> None:
    with databases(declines=True, connect_attempts=2) as (balancer, made), connect(address_of(balancer)) as client:
        client.sendall(SSL_REQUEST)
        assert read_exactly(client, 1) == b"S"
        client.sendall(hello("db.example.com"))
        assert read_until_end(client) == (b"", True)
        wait_idle(balancer)
        assert closed(balancer) == {CloseReason.CONNECT_FAILED: 1}
        assert made["api"].asked == 2


def closing(sock: socket.socket) -> None:
    read_exactly(sock, 8)


def resetting(sock: socket.socket) -> None:
    read_exactly(sock, 8)
    reset(sock)


def gone(sock: socket.socket) -> None:
    reset(sock)


@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        (closing, CloseReason.CONNECT_FAILED),
        (resetting, CloseReason.CONNECT_FAILED),
        (gone, CloseReason.CONNECT_FAILED),
        (hold, CloseReason.CONNECT_TIMEOUT),
    ],
)
@pytest.mark.parametrize("proxied", [False, True])
def test_a_backend_that_fails_before_it_answers_has_the_next_one_tried(
    fails: Callable[[socket.socket], None], reason: CloseReason, proxied: bool
) -> None:
    """The second backend gets all from the beginning; without one the client is reset, for the same reason as if the
    connect had failed."""
    first = hellos.real("db.example.com", [])

    def answering(sock: socket.socket) -> None:
        if proxied:
            header = read_exactly(sock, 16)
            read_exactly(sock, int.from_bytes(header[14:], "big"))
        Postgres("api")(sock)

    pool = {"connect_timeout": "300ms", "policy": "first", "health": NO_CHECKS, "passive": PassiveConfig(failures=0)}
    pool |= {"send_proxy": "v2"} if proxied else {}
    with serving(fails) as bad, serving(answering) as good:
        for backends, is_served in (([bad.address, good.address], True), ([bad.address], False)):
            pools = {"web": Pool(backends=["127.0.0.1:1"], health=NO_CHECKS), "api": Pool(backends=backends, **pool)}
            listener = Listener(bind="127.0.0.1:0", pool="web", routes=[DATABASE])
            config = Config(admin=AdminConfig(bind="off"), listeners={"web": listener}, pools=pools)
            with LoadBalancer(config) as balancer, connect(address_of(balancer)) as client:
                client.sendall(SSL_REQUEST)
                assert read_exactly(client, 1) == b"S"
                client.sendall(first)
                if is_served:
                    assert read_exactly(client, 8).strip() == b"api"
                    assert read_exactly(client, len(first)) == first
                else:
                    assert read_until_end(client) == (b"", True)
                    assert closed(balancer) == {reason: 1}
                failures = balancer.stats().pools["api"].backends[bad.address].failed
                assert sum(failures.values()) >= 1


def test_a_client_that_leaves_while_its_backend_is_asked_ends_its_session() -> None:
    with serving(hold) as server:
        listener = Listener(bind="127.0.0.1:0", pool="web", routes=[DATABASE])
        pools = {name: Pool(backends=[server.address], health=NO_CHECKS) for name in ("web", "api")}
        config = Config(admin=AdminConfig(bind="off"), listeners={"web": listener}, pools=pools)
        with LoadBalancer(config) as balancer:
            with connect(address_of(balancer)) as client:
                client.sendall(SSL_REQUEST)
                assert read_exactly(client, 1) == b"S"
                client.sendall(hello("db.example.com"))
                assert wait_until(lambda: [one["state"] for one in balancer.sessions()] == [SessionState.NEGOTIATING])
                reset(client)
            wait_idle(balancer)
            assert closed(balancer) == {CloseReason.CLIENT_ABORT: 1}


def test_bytes_behind_a_request_that_did_not_wait_are_for_the_backend_to_judge() -> None:
    """CVE-2021-23214: what an attacker puts behind the request must not be taken for what came encrypted."""
    with routing([{"sni": "db.example.com", "pool": "api"}]) as balancer:
        assert reached(balancer, SSL_REQUEST + hello("db.example.com")) == "web"


def test_the_request_comes_in_pieces_and_the_hello_may_not_come() -> None:
    with databases() as (balancer, _), connect(address_of(balancer)) as client:
        for byte in SSL_REQUEST:
            client.sendall(bytes([byte]))
            time.sleep(0.01)
        assert read_exactly(client, 1) == b"S"
        client.shutdown(socket.SHUT_WR)
        assert read_until_end(client)[0] == b"web     "
        wait_idle(balancer)


def test_without_routes_by_name_a_request_is_passed_on() -> None:
    with routing([{"starts_with": "SSH-", "pool": "ssh"}]) as balancer:
        assert reached(balancer, SSL_REQUEST) == "web"
    with routing([{"starts_with": "hex:0000000804d2162f", "pool": "ssh"}, *SNI]) as balancer:
        assert reached(balancer, SSL_REQUEST) == "ssh"
