"""What nginx's streams do with addresses, limits of connections and ClientHellos, done by l4lb: the same clients come
to both, and where the two differ it is said how."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from l4lb import Config, Listener, LoadBalancer, Pool, Route
from l4lb.config import AdminConfig, GlobalConfig, PerSourceConfig
from l4lb.model.states import CloseReason, SourceLimit
from tests.scenarios.test_proxy_interop import nginx
from tests.support import hellos
from tests.support.balancing import NO_CHECKS, address_of, balancing, closed, wait_idle
from tests.support.datagrams import address_pair
from tests.support.hellos import alpn, extension, message, records, server_name
from tests.support.peers import connect, echo, read_exactly, read_until_end, reset, serving, wait_until_sent
from tests.support.programs import free_port
from tests.support.servers import directory_for
from tests.support.waiting import wait_until

ONE, OTHER = "127.0.1.1", "127.0.2.1"
L4LB, NGINX = "l4lb", pytest.param("nginx", marks=pytest.mark.external)
both = pytest.mark.parametrize("kind", [L4LB, NGINX])


@contextlib.contextmanager
def nginx_stream(directory: Path, text: str) -> Iterator[None]:
    """nginx with `text` in its section stream. It begins to listen in their order: the one that tells when is last."""
    (directory / "servers").write_text(text)
    sections = "stream {{ include {dir}/servers; server {{ listen 127.0.0.1:{ready}; return ready; }} }}"
    with nginx(directory, sections):
        yield


def open_from(address: str, source: str = "") -> socket.socket:
    if address.startswith("unix:"):
        return connect(address)
    return socket.create_connection(address_pair(address), 20, (source, 0) if source else None)


def enter(address: str, source: str = "") -> socket.socket | None:
    """A session that has had an answer; None when it was refused."""
    client = None
    try:
        client = open_from(address, source)
        client.sendall(b"hello")
        if read_exactly(client, 5) == b"hello":
            return client
    except (ConnectionResetError, BrokenPipeError):
        pass
    if client is not None:
        client.close()
    return None


# ---- by address ----


def is_served(address: str, source: str = "") -> bool:
    if (client := enter(address, source)) is not None:
        client.close()
    return client is not None


@contextlib.contextmanager
def admitting(kind: str, rules: str, lists: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Addresses of TCP and of a unix socket, of nginx with `rules` or of l4lb with `lists`."""
    with serving(echo) as server, directory_for(kind) as directory:
        path = f"unix:{directory}/socket"
        if kind == L4LB:
            with balancing([server.address], listener={"bind": ["127.0.0.1:0", path], **lists}) as balancer:
                yield next(one for one in balancer.listeners["web"].addresses if one != path), path
        else:
            address = f"127.0.0.1:{free_port()}"
            listen = f"listen {address}; listen {path};"
            with nginx_stream(directory, f"server {{ {listen} proxy_pass {server.address}; {rules} }}"):
                yield address, path


EVERYBODY, NOBODY, ONLY_ONE, ONLY_OTHER = (True, True), (False, False), (True, False), (False, True)
ALL = "0.0.0.0/0"


@both
@pytest.mark.parametrize(
    ("rules", "lists", "served"),
    [
        ("", {}, EVERYBODY),
        ("allow all;", {"allow": [ALL]}, EVERYBODY),
        ("deny all;", {"deny": [ALL]}, NOBODY),
        (f"deny {OTHER};", {"deny": [OTHER]}, ONLY_ONE),
        (f"allow {OTHER};", {"allow": [ALL, OTHER]}, EVERYBODY),
        (f"allow {OTHER}; deny all;", {"allow": [OTHER]}, ONLY_OTHER),
        ("deny 127.0.2.0/24; allow 127.0.0.0/8;", {"allow": ["127.0.0.0/8"], "deny": ["127.0.2.0/24"]}, ONLY_ONE),
        (f"deny {ONE}; allow 127.0.0.0/16; deny all;", {"allow": ["127.0.0.0/16"], "deny": [ONE]}, ONLY_OTHER),
        ("allow 10.0.0.0/8; deny all;", {"allow": ["10.0.0.0/8"]}, NOBODY),
        ("allow 2001:db8::/32; deny all;", {"allow": ["2001:db8::/32"]}, NOBODY),
        ("deny 2001:db8::/32;", {"deny": ["2001:db8::/32"]}, EVERYBODY),
    ],
)  # fmt: skip
def test_the_same_addresses_are_let_in(kind: str, rules: str, lists: dict[str, Any], served: tuple[bool, bool]) -> None:
    """With the narrowest rule of nginx first, both take the same one."""
    with admitting(kind, rules, lists) as (address, _):
        assert (is_served(address, ONE), is_served(address, OTHER)) == served


@both
@pytest.mark.parametrize(
    ("rules", "lists", "by_nginx", "by_l4lb"),
    [
        (f"deny 127.0.0.0/8; allow {ONE};", {"deny": ["127.0.0.0/8"], "allow": [ONE]}, NOBODY, ONLY_ONE),
        (f"allow 127.0.0.0/8; deny {OTHER};", {"allow": ["127.0.0.0/8"], "deny": [OTHER]}, EVERYBODY, ONLY_ONE),
        (f"allow {ONE}; deny {ONE};", {"allow": [ONE, OTHER], "deny": [ONE]}, EVERYBODY, ONLY_OTHER),
    ],
)
def test_nginx_takes_the_first_rule_and_l4lb_the_longest_prefix(
    kind: str, rules: str, lists: dict[str, Any], by_nginx: tuple[bool, bool], by_l4lb: tuple[bool, bool]
) -> None:
    with admitting(kind, rules, lists) as (address, _):
        served = is_served(address, ONE), is_served(address, OTHER)
        assert served == (by_l4lb if kind == L4LB else by_nginx)


def test_the_order_within_the_lists_means_nothing() -> None:
    networks = ["127.0.0.0/8", "127.0.1.0/24", ONE, "10.0.0.0/8"]
    for allow in (networks, networks[::-1]):
        with admitting(L4LB, "", {"allow": allow, "deny": ["127.0.2.0/24", ALL]}) as (address, _):
            assert (is_served(address, ONE), is_served(address, OTHER)) == ONLY_ONE
            assert is_served(address, "127.0.3.1"), "127.0.0.0/8 is narrower than all"


@both
@pytest.mark.parametrize(
    ("rules", "lists", "tcp", "unix"),
    [
        ("allow all;", {"allow": [ALL]}, True, True),
        ("allow unix:; deny all;", {"deny": [ALL]}, False, True),
        (f"allow {ONE}; allow unix:; deny all;", {"allow": [ONE]}, True, True),
    ],
)
def test_unix_clients_come_in_where_nginx_lets_them(
    kind: str, rules: str, lists: dict[str, Any], tcp: bool, unix: bool
) -> None:
    with admitting(kind, rules, lists) as (address, path):
        assert (is_served(address, ONE), is_served(path)) == (tcp, unix)


@both
@pytest.mark.parametrize(
    ("rules", "lists"),
    [
        ("deny all;", {"deny": [ALL, "::/0"]}),
        (f"allow {ONE}; deny all;", {"allow": [ONE]}),
        ("deny unix:;", {}),
    ],
)
def test_nginx_has_rules_for_unix_clients_and_l4lb_leaves_them_to_the_file(
    kind: str, rules: str, lists: dict[str, Any]
) -> None:
    with admitting(kind, rules, lists) as (_, path):
        assert is_served(path) is (kind == L4LB)


# ---- so many at once ----


class Limited:
    """A proxy that lets a source have so many sessions, and the backend behind it, which ends a session on request."""

    def __init__(self, accepted: Callable[[], int], addresses: list[str], over: Callable[[], int]) -> None:
        self.accepted = accepted
        self.addresses = addresses
        self.over = over  # how many were above the limit, as the proxy tells it

    @property
    def address(self) -> str:
        return self.addresses[0]


def _echo_until_end(sock: socket.socket) -> None:
    while (data := sock.recv(1 << 16)) and data != b"end":
        sock.sendall(data)


@contextlib.contextmanager
def limiting(
    kind: str, sessions: int, dry_run: bool = False, key: str = "$binary_remote_addr", **limits: Any
) -> Iterator[Limited]:
    """Two listeners with the same limit; in nginx they share one zone, whose key is `key`."""
    with serving(_echo_until_end) as server, contextlib.ExitStack() as stack:
        accepted = lambda: server.accepted  # noqa: E731
        if kind == L4LB:
            per_source = PerSourceConfig(sessions=sessions, dry_run=dry_run, **limits)
            config = Config(
                global_=GlobalConfig(workers=2),
                admin=AdminConfig(bind="off"),
                listeners={
                    name: Listener(bind="127.0.0.1:0", pool="web", per_source=per_source) for name in ("web", "second")
                },
                pools={"web": Pool(backends=[server.address], health=NO_CHECKS)},
            )
            balancer = stack.enter_context(LoadBalancer(config))

            def over() -> int:
                limited = [one.source_limited for one in balancer.stats().listeners.values()]
                return sum(one.get(SourceLimit.SESSIONS, 0) for one in limited)

            yield Limited(accepted, [balancer.listeners[name].addresses[0] for name in ("web", "second")], over)
            return
        directory = stack.enter_context(directory_for(kind))
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        servers = [
            f"""server {{ listen {address}; proxy_pass {server.address};
                limit_conn sources {sessions}; limit_conn_dry_run {"on" if dry_run else "off"}; }}"""
            for address in addresses
        ]
        zone = f'map $remote_addr $network {{ "~^(.*)[.]" $1; }} limit_conn_zone {key} zone=sources:1m;'
        stack.enter_context(nginx_stream(directory, zone + "".join(servers)))
        yield Limited(accepted, addresses, lambda: (directory / "error.log").read_text().count("limiting connections"))


def leave(sessions: Sequence[socket.socket | None]) -> None:
    for one in sessions:
        if one is not None:
            one.close()


@both
@pytest.mark.parametrize("sessions", [1, 3])
def test_an_address_has_so_many_sessions_and_others_have_theirs(kind: str, sessions: int) -> None:
    with limiting(kind, sessions) as proxy:
        held = [enter(proxy.address, source) for source in (ONE, OTHER) for _ in range(sessions)]
        assert None not in held
        assert [enter(proxy.address, source) for source in (ONE, OTHER, ONE)] == [None, None, None]
        assert proxy.accepted() == 2 * sessions, "no backend has seen those above the limit"
        assert wait_until(lambda: proxy.over() == 3, 10), proxy.over()
        for session in filter(None, held):
            session.sendall(b"again")
            assert read_exactly(session, 5) == b"again", "those that are in go on"
        leave(held)


def come_in(proxy: Limited, count: int) -> list[socket.socket]:
    """So many sessions of one address, once there are places for them."""
    found: list[socket.socket] = []

    def are_in() -> bool:
        if (new := enter(proxy.address, ONE)) is not None:
            found.append(new)
        return len(found) == count

    assert wait_until(are_in, 20)
    return found


@both
@pytest.mark.parametrize("ended_by", ["client", "reset", "backend"])
def test_a_place_is_free_again_once_its_session_is_over(kind: str, ended_by: str) -> None:
    with limiting(kind, 1) as proxy:
        for _ in range(3):
            (session,) = come_in(proxy, 1)
            assert enter(proxy.address, ONE) is None
            if ended_by == "reset":
                reset(session)
            elif ended_by == "backend":
                session.sendall(b"end")
                assert read_until_end(session) == (b"", False)
            session.close()


@both
def test_who_is_refused_again_and_again_uses_up_no_place(kind: str) -> None:
    with limiting(kind, 2) as proxy:
        held = come_in(proxy, 2)
        assert [enter(proxy.address, ONE) for _ in range(20)] == [None] * 20
        leave(held)
        leave(come_in(proxy, 2))


@both
def test_a_dry_run_lets_everybody_in_and_counts_who_was_above(kind: str) -> None:
    with limiting(kind, 1, dry_run=True) as proxy:
        held = [enter(proxy.address, source) for source in (ONE, ONE, ONE, OTHER)]
        assert None not in held
        assert proxy.accepted() == 4
        assert wait_until(lambda: proxy.over() == 2, 10), proxy.over()
        leave(held)


@both
def test_addresses_of_a_network_share_its_places(kind: str) -> None:
    with limiting(kind, 2, key="$network", prefix_v4=24) as proxy:
        held = [enter(proxy.address, source) for source in (ONE, "127.0.1.2", OTHER)]
        assert None not in held
        assert enter(proxy.address, "127.0.1.3") is None
        held.append(enter(proxy.address, "127.0.2.99"))
        assert held[-1] is not None
        leave(held)


@both
def test_listeners_count_each_for_itself_where_those_of_nginx_share_a_zone(kind: str) -> None:
    with limiting(kind, 1) as proxy:
        held = [enter(address, ONE) for address in proxy.addresses]
        assert [one is not None for one in held] == [True, kind == L4LB]
        leave(held)


# ---- by what a client says first ----

A, B = "a.l4lb.example", "b.l4lb.example"


class Naming:
    """A backend that says its name, then sends back all that it gets."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, sock: socket.socket) -> None:
        sock.sendall(self.name.encode().ljust(8))
        echo(sock)


@contextlib.contextmanager
def choosing(kind: str, routes: list[dict[str, Any]], mapping: str) -> Iterator[tuple[str, LoadBalancer | None]]:
    """A proxy with the backends web, a and b: l4lb with `routes` whose own pool is web, or nginx with `mapping`, which
    says how one of its variables becomes the name of a backend."""
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(serving(Naming(name))) for name in ("web", "a", "b")}
        if kind == L4LB:
            config = Config(
                global_=GlobalConfig(workers=2),
                admin=AdminConfig(bind="off"),
                listeners={
                    "web": Listener(bind="127.0.0.1:0", pool="web", routes=[Route(**one) for one in routes]),
                },
                pools={name: Pool(backends=[one.address], health=NO_CHECKS) for name, one in servers.items()},
            )
            balancer = stack.enter_context(LoadBalancer(config))
            yield address_of(balancer), balancer
            return
        address = f"127.0.0.1:{free_port()}"
        upstreams = "".join(f"upstream {name} {{ server {one.address}; }}" for name, one in servers.items())
        server = f"server {{ listen {address}; ssl_preread on; preread_timeout 60s; proxy_pass $chosen; }}"
        directory = stack.enter_context(directory_for(kind))
        stack.enter_context(nginx_stream(directory, f"{upstreams} map {mapping} {server}"))
        yield address, None


def chosen(address: str, *pieces: bytes) -> str:
    """The backend that a client gets which sends `pieces`, each once the one before has arrived. What it has sent
    comes back as it was."""
    with connect(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
            wait_until_sent(client)
        name = read_exactly(client, 8).decode().strip()
        client.sendall(b"more")
        sent = b"".join(pieces) + b"more"
        assert read_exactly(client, len(sent)) == sent
        return name


def made(name: str, *more: bytes, **how: Any) -> bytes:
    return records(message(server_name(name.encode()) + b"".join(more), **how))


BY_NAME: list[dict[str, Any]] = [{"sni": A, "pool": "a"}, {"sni": [B, "*.shop.l4lb.example"], "pool": "b"}]
MAPPED = f"$ssl_preread_server_name $chosen {{ hostnames; {A} a; {B} b; *.shop.l4lb.example b; default web; }}"
SSL_2 = b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10" + bytes(range(21)) + bytes(16)
TLS_IN_SSL_2 = SSL_2[:3] + b"\x03\x01" + SSL_2[5:]
NAMED = {
    "a name with a route": (hellos.real(A), "a"),
    "another one": (hellos.real(B), "b"),
    "in TLS 1.2": (hellos.real(B, newest="TLSv1_2"), "b"),
    "in capitals": (made(A.upper()), "a"),
    "a name below": (hellos.real("one.two.shop.l4lb.example"), "b"),
    "the name itself": (hellos.real("shop.l4lb.example"), "web"),
    "a name without a route": (hellos.real("c.l4lb.example"), "web"),
    "a name that begins with one": (hellos.real(f"{A}.org"), "web"),
    "no name": (hellos.real(""), "web"),
    "no name but protocols": (records(message(alpn(b"h2", b"http/1.1"))), "web"),
    "a name behind other extensions": (records(message(extension(51, bytes(1200)) + server_name(A.encode()))), "a"),
    "no extensions": (records(message(None)), "web"),
    "SSL 3": (records(message(None, version=0x0300), version=0x0300), "web"),
    "SSL 2": (SSL_2, "web"),
    "TLS in the form of SSL 2": (TLS_IN_SSL_2, "web"),
    "a zero byte in the name": (made(f"{A}\0.evil.example"), "web"),
    "bytes behind the hello": (hellos.real(A) + b"early data", "a"),
    "an alert": (b"\x15\x03\x01\0\x02\x02\x28", "web"),
    "another handshake message": (made(A, kind=2), "web"),
    "an extension longer than the message": (
        records(message(server_name(A.encode())[:2] + b"\x0f\xff" + server_name(A.encode())[4:])),
        "web",
    ),
    "a line of SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", "web"),
    "a request of HTTP": (f"GET / HTTP/1.1\r\nHost: {A}\r\n\r\n".encode(), "web"),
}


@pytest.fixture(scope="module", params=[L4LB, NGINX])
def by_name(request: pytest.FixtureRequest) -> Iterator[str]:
    with choosing(request.param, BY_NAME, MAPPED) as (address, _):
        yield address


@pytest.mark.parametrize(("first", "backend"), NAMED.values(), ids=NAMED)
def test_the_name_in_the_hello_chooses_the_backend(by_name: str, first: bytes, backend: str) -> None:
    assert chosen(by_name, first) == backend


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 9, 43, 60, -1])
def test_a_hello_in_two_packets(by_name: str, cut: int) -> None:
    first = hellos.real(A)
    assert chosen(by_name, first[:cut], first[cut:]) == "a"


@pytest.mark.parametrize("size", [1, 4, 5, 40, 100, 200])
@pytest.mark.parametrize("apart", [False, True])
def test_a_hello_in_several_records(by_name: str, size: int, apart: bool) -> None:
    """The first of them has `size` bytes, the other the rest, in one packet or two."""
    whole = hellos.real(A)[5:]
    first, second = records(whole[:size]), records(whole[size:])
    assert chosen(by_name, *((first, second) if apart else (first + second,))) == "a"


@both
@pytest.mark.parametrize("first", [b"", hellos.real(A)[:5], hellos.real(A)[:100]], ids=["nothing", "a head", "a half"])
def test_a_client_that_ends_within_its_hello_is_passed_on_where_nginx_hangs_up(kind: str, first: bytes) -> None:
    """Whether a half is an error is for the backend to judge."""
    with choosing(kind, BY_NAME, MAPPED) as (address, balancer), connect(address) as client:
        client.sendall(first)
        client.shutdown(socket.SHUT_WR)
        got, was_reset = read_until_end(client)
        assert got == (b"web     " + first if kind == L4LB else b"")
        assert not was_reset or kind != L4LB  # nginx 1.26 resets
        if balancer is not None:
            wait_idle(balancer)
            assert closed(balancer) == {CloseReason.NORMAL: 1}
            assert balancer.stats().pools["web"].sessions_total == 1


@both
def test_the_first_route_decides_where_nginx_prefers_an_exact_name(kind: str) -> None:
    exact, wide = {"sni": A, "pool": "a"}, {"sni": "*.l4lb.example", "pool": "b"}
    for routes, lines, backend in (
        ([exact, wide], f"{A} a; *.l4lb.example b;", "a"),
        ([wide, exact], f"*.l4lb.example b; {A} a;", "b" if kind == L4LB else "a"),
    ):
        mapping = f"$ssl_preread_server_name $chosen {{ hostnames; {lines} default web; }}"
        with choosing(kind, routes, mapping) as (address, _):
            assert chosen(address, hellos.real(A)) == backend
            assert chosen(address, hellos.real(B)) == "b"


BY_PROTOCOL: list[dict[str, Any]] = [{"alpn": "h2", "pool": "a"}, {"alpn": ["http/1.1", "http/1.0"], "pool": "b"}]
PROTOCOLS = "$ssl_preread_alpn_protocols $chosen {{ {} default web; }}".format(
    '"~(^|,)h2(,|$)" a; "~(^|,)http/1[.][01](,|$)" b;'
)
OFFERED = {
    "one": (["h2"], "a"),
    "the other": (["http/1.1"], "b"),
    "a third": (["http/1.0"], "b"),
    "both": (["h2", "http/1.1"], "a"),
    "both, the other preferred": (["http/1.1", "h2"], "a"),
    "among others": (["spdy/3", "http/1.1", "x"], "b"),
    "none of them": (["spdy/3", "h2c", "h", "http/1.12"], "web"),
    "in capitals": (["H2", "HTTP/1.1"], "web"),
    "nothing": ([], "web"),
}


@pytest.fixture(scope="module", params=[L4LB, NGINX])
def by_protocol(request: pytest.FixtureRequest) -> Iterator[str]:
    with choosing(request.param, BY_PROTOCOL, PROTOCOLS) as (address, _):
        yield address


@pytest.mark.parametrize(("offered", "backend"), OFFERED.values(), ids=OFFERED)
@pytest.mark.parametrize("name", ["", A])
def test_a_protocol_that_the_client_offers_chooses_the_backend(
    by_protocol: str, offered: list[str], backend: str, name: str
) -> None:
    first = hellos.real(name, offered)
    assert chosen(by_protocol, first) == backend
    assert chosen(by_protocol, first[:20], first[20:-3], first[-3:]) == backend


@both
def test_a_protocol_with_a_comma_is_one_where_nginx_sees_a_list(kind: str) -> None:
    with choosing(kind, BY_PROTOCOL, PROTOCOLS) as (address, _):
        assert chosen(address, hellos.real(A, ["x,h2"])) == ("web" if kind == L4LB else "a")


@both
def test_tls_of_any_version_and_something_else_on_one_port(kind: str) -> None:
    mapping = '$ssl_preread_protocol $chosen { "" web; SSLv2 web; default a; }'
    with choosing(kind, [{"starts_with": "hex:1603", "pool": "a"}], mapping) as (address, _):
        for version in (0x0301, 0x0302, 0x0303):
            assert chosen(address, made(A, version=version)) == "a"
        for newest in ("TLSv1_2", "TLSv1_3"):
            first = hellos.real(newest=newest)
            assert chosen(address, first) == "a"
            assert chosen(address, *(first[at : at + 1] for at in range(6)), first[6:]) == "a"
        for first in (b"SSH-2.0-OpenSSH_9.2\r\n", b"GET / HTTP/1.0\r\n\r\n", b"\x15\x03\x01\0\x02\x02\x28", SSL_2):
            assert chosen(address, first) == "web"
        in_ssl_2 = "web" if kind == L4LB else "a"
        assert chosen(address, TLS_IN_SSL_2) == in_ssl_2, "nginx looks for a version in it, l4lb for a record of TLS"
