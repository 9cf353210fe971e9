"""QUIC behind the load balancer: connections stay on their backend when the pool changes or the client moves."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l4lb import LoadBalancer
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import HashKey
from l4lb.proxy_protocol import Header, Transport, build
from l4lb.routing.hashing import client_hash
from l4lb.routing.maglev import maglev_slots
from tests.support import quic_twin
from tests.support.balancing import address_of, balancing
from tests.support.datagrams import UDP_SEGMENT, Answer, UdpClient, UdpServer, address_pair
from tests.support.quic import QuicClient, QuicPeers, free_udp_socket, quic_peers
from tests.support.quic_twin import long_header, short_header
from tests.support.waiting import wait_until

TABLE = 251


@contextlib.contextmanager
def balancing_quic(servers: dict[str, Any], **options: Any) -> Iterator[LoadBalancer]:
    listener = {"protocol": "udp", **options.pop("listener", {})}
    backends = [{"address": server.address, "id": name} for name, server in servers.items()]
    pool = {"policy": "maglev", "table_size": TABLE, "hash_key": "quic_cid", **options}
    with balancing(backends, listener=listener, **pool) as balancer:
        yield balancer


# ---- real connections ----


@pytest.fixture
def peers() -> Iterator[QuicPeers]:
    with quic_peers() as made:
        yield made


def by_address(balancer: LoadBalancer, servers: dict[str, Any]) -> str:
    """Who gets the packets of unknown connections from 127.0.0.1, found by sending one."""
    before = {name: server.datagrams for name, server in servers.items()}
    with UdpClient(address_of(balancer)) as stranger:
        stranger.send(short_header(bytes(30)))
        assert wait_until(lambda: any(server.datagrams > before[name] for name, server in servers.items()))
    return next(name for name, server in servers.items() if server.datagrams > before[name])


@contextlib.contextmanager
def connected(
    peers: QuicPeers, balancer: LoadBalancer, servers: dict[str, Any], **options: Any
) -> Iterator[QuicClient]:
    """A connection to another server than the client's address alone would lead to."""
    other = by_address(balancer, servers)
    for _ in range(50):
        with peers.connect(address_of(balancer), **options) as client:
            if client.ask() != other:
                yield client
                return
    raise AssertionError("ids of connections do not count")


def both_workers_have_sessions(balancer: LoadBalancer) -> bool:
    return all(worker.sessions_active for worker in balancer.stats().workers)


def test_by_address_and_port_a_client_that_moves_loses_its_connection(peers: QuicPeers) -> None:
    """What quic_cid is for: this is how it goes without."""
    with peers.serving("a", "b", "c") as servers, balancing_quic(servers, hash_key="source_ip_port") as balancer:
        with peers.connect(address_of(balancer)) as client:
            mine = client.ask()
            client.move(socket_to(balancer, lambda chosen: chosen == mine))
            assert client.ask() == mine
            client.move(socket_to(balancer, lambda chosen: chosen != mine))
            before = sum(servers[name].datagrams for name in "abc" if name != mine)
            with pytest.raises(TimeoutError):
                client.ask(timeout_s=1)
            assert sum(servers[name].datagrams for name in "abc" if name != mine) > before


def socket_to(balancer: LoadBalancer, wanted: Callable[[str], bool]) -> socket.socket:
    """One on a port for which the table has a backend that is wanted."""
    while True:
        sock = free_udp_socket()
        host, port = sock.getsockname()
        if wanted(balancer.pools["web"].explain(f"{host}:{port}")["chosen"]):
            return sock
        sock.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_client_that_moves_keeps_its_connection(peers: QuicPeers, workers: int) -> None:
    """Its new port leads to another worker about every second time."""
    with peers.serving("a", "b", "c") as servers, balancing_quic(servers, workers=workers) as balancer:
        with connected(peers, balancer, servers) as client:
            mine = client.ask()
            others = {name: servers[name].datagrams for name in "abc" if name != mine}
            for _ in range(60):
                client.move()
                assert client.ask() == mine
                if both_workers_have_sessions(balancer):
                    break
            assert both_workers_have_sessions(balancer)
            assert {name: servers[name].datagrams for name in others} == others


@pytest.mark.parametrize("workers", [1, 2])
def test_a_client_that_moves_after_the_pool_has_changed_keeps_its_connection(peers: QuicPeers, workers: int) -> None:
    with peers.serving("a", "b", "c", "d") as servers:
        three = {name: servers[name] for name in "abc"}
        with balancing_quic(three, workers=workers) as balancer, connected(peers, balancer, three) as client:
            mine = client.ask()
            pool = balancer.pools["web"]
            changes = [
                lambda: pool.add(servers["d"].address, id="d"),
                lambda: pool[mine].set_weight(0),
                lambda: pool[mine].drain(),
                lambda: pool.remove("d"),
            ]
            for change in changes:
                change()
                assert client.ask() == mine
                client.move()
                assert client.ask() == mine


@pytest.mark.parametrize(
    ("server", "client"),
    [
        ({"retry": True}, {}),
        ({"id_bytes": 4}, {}),
        ({"id_bytes": 20}, {"connection_id_length": 20}),
        ({}, {"original_version": 0x1A2A3A4A, "supported_versions": [0x1A2A3A4A, 1]}),
        ({}, {"original_version": 0x6B3343CF}),
    ],
    ids=["retry", "short ids", "long ids", "version negotiation", "version 2"],
)
def test_every_kind_of_connection_survives(peers: QuicPeers, server: dict[str, Any], client: dict[str, Any]) -> None:
    with peers.serving("a", "b", "c", **server) as servers, balancing_quic(servers) as balancer:
        with connected(peers, balancer, servers, **client) as connection:
            mine = connection.ask()
            for _ in range(3):
                connection.move()
                assert connection.ask() == mine


def test_many_connections_that_move_stay_apart(peers: QuicPeers) -> None:
    with peers.serving("a", "b", "c") as servers, balancing_quic(servers) as balancer:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(peers.connect(address_of(balancer))) for _ in range(30)]
            names = [client.ask() for client in clients]
            assert set(names) == {"a", "b", "c"}
            for _ in range(2):
                for client in clients:
                    client.move()
                assert [client.ask() for client in clients] == names


def test_a_connection_that_is_idle_for_longer_than_the_session_goes_on(peers: QuicPeers) -> None:
    with peers.serving("a", "b", "c") as servers:
        with balancing_quic(servers, listener={"idle_timeout": 0.2}) as balancer:
            with connected(peers, balancer, servers) as client:
                mine = client.ask()
                assert wait_until(lambda: balancer.stats().listeners["web"].sessions_active == 0)
                assert client.ask() == mine


# ---- packet by packet ----


class Backend(UdpServer):
    """Answers long headers with one that gives the id of its own that `gives` says for the client's source id, and the
    name behind; short ones with its name."""

    def __init__(self, name: str, gives: Callable[[bytes], bytes] | None = None, version: int = 1) -> None:
        self.name = name
        self._gives = gives or self.id_for
        self._version = version
        super().__init__(self._reply)

    def id_for(self, client: bytes) -> bytes:
        return self.name.encode() * 4 + client

    def _reply(self, data: bytes) -> list[bytes]:
        packet = quic_twin.read(data)
        if packet is None or not packet.long:
            return [self.name.encode()]
        return [long_header(packet.source, self._gives(packet.source), self._version, self.name.encode())]

    @property
    def datagrams(self) -> int:
        return len(self.received)


@contextlib.contextmanager
def three(**options: Any) -> Iterator[tuple[dict[str, Backend], LoadBalancer]]:
    """Backends a to c, and what balances them."""
    gives, version = options.pop("gives", None), options.pop("version", 1)
    made = {name: Backend(name, gives and gives(name), version) for name in "abc"}
    try:
        with balancing_quic(made, **options) as balancer:
            yield made, balancer
    finally:
        for backend in made.values():
            backend.stop()


SLOTS = maglev_slots(["a", "b", "c"], [1, 1, 1], TABLE, 0)


def at_address() -> str:
    """Who serves 127.0.0.1 by its address alone."""
    return "abc"[SLOTS[client_hash(HashKey.QUIC_CID, ("127.0.0.1", 0), ("127.0.0.1", 0)) % TABLE]]


def first_id(wanted: str) -> bytes:
    """A connection id that a client may draw to get to that backend."""
    hashes = ((id_, client_hash(HashKey.QUIC_CID, ("::", 0), ("::", 0), connection_id=id_)) for id_ in drawn())
    return next(id_ for id_, hashed in hashes if "abc"[SLOTS[hashed % TABLE]] == wanted)


def drawn() -> Iterator[bytes]:
    return (number.to_bytes(8, "big") for number in range(1000))


CLIENT = b"client"
FAR = next(name for name in "abc" if name != at_address())  # not where the address leads


def begin(balancer: LoadBalancer, client: UdpClient, *, call: bool = True) -> bytes:
    """A connection with backend `FAR`; the id that it gave. With `call` the client has used it."""
    packet = quic_twin.read(client.ask(long_header(first_id(FAR), CLIENT)))
    assert packet is not None
    if call:
        assert client.ask(long_header(packet.source, CLIENT)).endswith(FAR.encode())
    return packet.source


def reached(balancer: LoadBalancer, datagram: bytes) -> str:
    """Who gets it from a client that nobody knows."""
    with UdpClient(address_of(balancer)) as stranger:
        return stranger.ask(datagram)[-1:].decode()


def test_a_first_packet_goes_by_its_connection_id_as_python_computes() -> None:
    with three() as (_, balancer):
        for id_ in [b"x", *list(drawn())[:20], bytes(255)]:
            hashed = client_hash(HashKey.QUIC_CID, ("::", 0), ("::", 0), connection_id=id_)
            assert reached(balancer, long_header(id_, CLIENT)) == "abc"[SLOTS[hashed % TABLE]]


def test_what_names_no_connection_goes_by_address() -> None:
    with three() as (_, balancer):
        cut = long_header(first_id(FAR), CLIENT)[:-1]
        for datagram in (long_header(b"", CLIENT), short_header(b""), short_header(bytes(30)), cut, b"\xc3", b""):
            with UdpClient(address_of(balancer)) as stranger:
                assert stranger.ask(datagram)[-1:].decode() == at_address()


def test_the_backend_that_gave_the_id_is_found_from_either_header() -> None:
    with three() as (_, balancer), UdpClient(address_of(balancer)) as client:
        given_id = begin(balancer, client)
        assert reached(balancer, short_header(given_id, b"...")) == FAR
        assert reached(balancer, short_header(given_id)) == FAR
        assert reached(balancer, long_header(given_id, b"whoever")) == FAR
        assert reached(balancer, short_header(given_id[:-1])) == at_address()


def test_an_id_that_its_client_has_not_heard_teaches_nothing() -> None:
    """As when the source address was forged."""
    with three() as (_, balancer), UdpClient(address_of(balancer)) as client:
        given_id = begin(balancer, client, call=False)
        assert reached(balancer, short_header(given_id)) == at_address()
        assert client.ask(short_header(bytes(30))) == FAR.encode()  # a guess
        assert client.ask(long_header(first_id(FAR), CLIENT)).endswith(FAR.encode())  # sent again before it heard
        assert reached(balancer, short_header(given_id)) == at_address()
        assert client.ask(short_header(given_id)) == FAR.encode()
        assert reached(balancer, short_header(given_id)) == FAR


def test_clients_teach_nothing_by_what_they_say() -> None:
    with three() as (_, balancer), UdpClient(address_of(balancer)) as client:
        begin(balancer, client)
        mine = b"an id of mine"
        for _ in range(2):
            client.ask(long_header(first_id(FAR), mine))
            client.ask(long_header(mine, mine))
            client.ask(short_header(mine))
        assert reached(balancer, short_header(mine)) == at_address()


def test_version_negotiation_teaches_nothing() -> None:
    """Its ids are the client's own: any number of them, at no cost."""
    with three(version=0) as (_, balancer), UdpClient(address_of(balancer)) as client:
        given_id = begin(balancer, client)
        assert reached(balancer, short_header(given_id)) == at_address()


@pytest.mark.parametrize("length", [0, 1, 20, 21, 255])
def test_ids_of_any_length(length: int) -> None:
    """None cannot be found, and no version of QUIC has more than 20 bytes yet."""
    gives = lambda name: lambda client: (name * length).encode()  # noqa: E731
    with three(gives=gives) as (_, balancer), UdpClient(address_of(balancer)) as client:
        given_id = begin(balancer, client)
        found = FAR if 1 <= length <= 20 else at_address()
        assert reached(balancer, short_header(given_id, b"-" * 30)) == found


def test_clients_may_do_without_ids_of_their_own() -> None:
    with three() as (_, balancer), UdpClient(address_of(balancer)) as client:
        client.ask(long_header(first_id(FAR), b""))
        given_id = f"{FAR}{FAR}{FAR}{FAR}".encode()
        client.ask(short_header(given_id))
        assert reached(balancer, short_header(given_id)) == FAR


def test_backends_whose_ids_differ_in_length_are_told_apart() -> None:
    lengths = {"a": 4, "b": 8, "c": 20}
    gives = lambda name: lambda client: (name * lengths[name]).encode()  # noqa: E731
    with three(gives=gives) as (_, balancer), contextlib.ExitStack() as stack:
        for name in "abc":
            client = stack.enter_context(UdpClient(address_of(balancer)))
            client.ask(long_header(first_id(name), CLIENT))
            client.ask(long_header((name * lengths[name]).encode(), CLIENT))
        for name in "abc":
            assert reached(balancer, short_header((name * lengths[name]).encode(), b"-" * 30)) == name


@pytest.mark.parametrize("state", ["drain", "maint", "removed"])
def test_drain_keeps_what_has_begun_while_maint_and_removal_do_not(state: str) -> None:
    with three(on_backend_removed="keep") as (_, balancer), UdpClient(address_of(balancer)) as client:
        given_id = begin(balancer, client)
        pool = balancer.pools["web"]
        if state == "removed":
            pool.remove(FAR)
        else:
            pool[FAR].set(admin_state=state)
        assert client.ask(short_header(given_id)) == FAR.encode()  # from its own address in any case
        found = reached(balancer, short_header(given_id))
        assert (found == FAR) == (state == "drain")


@pytest.mark.parametrize("state", ["ready", "maint"])
def test_an_address_that_another_client_had_does_not_lead_where_that_one_went(state: str) -> None:
    """A NAT that gives addresses out again; but a session a datagram would be no way to find nobody."""
    with three() as (backends, balancer), UdpClient(address_of(balancer)) as client:
        given_id = begin(balancer, client)
        balancer.pools["web"][FAR].set(admin_state=state)
        with UdpClient(address_of(balancer)) as taken:
            assert taken.ask(short_header(bytes(30))) == at_address().encode()
            found = FAR if state == "ready" else at_address()
            assert [taken.ask(short_header(given_id)) for _ in range(5)] == [found.encode()] * 5
            assert balancer.stats().listeners["web"].sessions_total == (3 if state == "ready" else 2)
            late = list(backends[at_address()].clients)[-1]
            backends[at_address()].sock.sendto(b"late", late)
            assert taken.receive() == b"late"


def test_a_backend_that_returns_is_found_again() -> None:
    with three() as (_, balancer), UdpClient(address_of(balancer)) as client:
        given_id = begin(balancer, client)
        balancer.pools["web"][FAR].maint()
        assert reached(balancer, short_header(given_id)) != FAR
        balancer.pools["web"][FAR].ready()
        assert reached(balancer, short_header(given_id)) == FAR


def test_max_sessions_hold_for_those_that_move_too() -> None:
    with three() as (_, balancer), UdpClient(address_of(balancer)) as client:
        given_id = begin(balancer, client)
        balancer.pools["web"][FAR].set_max_sessions(1)
        assert reached(balancer, short_header(given_id)) != FAR
        balancer.pools["web"][FAR].set_max_sessions(2)
        assert reached(balancer, short_header(given_id)) == FAR


def test_behind_a_proxy_header_too() -> None:
    """The client is whom the header names, and its QUIC header what comes behind."""

    def header(port: int) -> bytes:
        source, destination = (SocketAddress(socket.AF_INET, host, port) for host in ("127.0.0.1", "192.0.2.2"))
        return build(Header(source=source, destination=destination, transport=Transport.DGRAM))

    listener = {"accept_proxy": "v2", "proxy_trusted": ["127.0.0.0/8"]}
    with three(listener=listener) as (_, balancer), UdpClient(address_of(balancer)) as proxy:
        packet = quic_twin.read(proxy.ask(header(1) + long_header(first_id(FAR), CLIENT)))
        assert packet is not None
        proxy.ask(header(1) + long_header(packet.source, CLIENT))
        assert proxy.ask(header(2) + short_header(packet.source)) == FAR.encode()
        assert proxy.ask(header(3) + short_header(bytes(30))) == at_address().encode()


def test_trains_are_known_by_their_first_packet() -> None:
    with three() as (backends, balancer), UdpClient(address_of(balancer)) as client:
        given_id = begin(balancer, client)
        with UdpClient(address_of(balancer)) as moved:
            before = backends[FAR].datagrams
            packets = [short_header(given_id, bytes([number]) * 200) for number in range(20)]
            moved.sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, len(packets[0]))
            moved.send(b"".join(packets))
            assert [moved.receive() for _ in packets] == [FAR.encode()] * 20
            assert backends[FAR].received[before:] == packets


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(long_header, st.binary(max_size=255), st.binary(max_size=255), st.integers(0, 2**32 - 1)),
            st.builds(lambda size: b"\xc3" * size, st.integers(0, 1500)),
        ),
        max_size=20,
    ),
    st.lists(st.binary(max_size=60), max_size=5),
)
def test_whatever_comes_passes_whole_either_way(sent: list[bytes], answers: list[bytes]) -> None:
    """From one client, and each from a client of its own."""
    answer: Answer = lambda data: [data, *answers]  # noqa: E731
    servers = {name: UdpServer(answer) for name in "ab"}
    try:
        with balancing_quic(servers) as balancer, UdpClient(address_of(balancer)) as client:
            for data in sent:
                with UdpClient(address_of(balancer)) as other:
                    for one in (client, other):
                        one.send(data)
                        assert [one.receive() for _ in [data, *answers]] == [data, *answers]
            assert not balancer.stats().listeners["web"].dropped
    finally:
        for server in servers.values():
            server.stop()


# ---- any UDP ----


def test_datagrams_of_one_session_stay_on_one_backend_whatever_becomes_of_the_pool() -> None:
    with three(hash_key="source_ip_port") as (_, balancer), contextlib.ExitStack() as stack:
        more = {name: Backend(name) for name in "de"}
        stack.callback(lambda: [one.stop() for one in more.values()])
        clients = [stack.enter_context(UdpClient(address_of(balancer))) for _ in range(40)]
        names = [client.ask(b"?") for client in clients]
        assert set(names) == {b"a", b"b", b"c"}
        pool = balancer.pools["web"]
        changes = [
            lambda: [pool.add(one.address, id=name) for name, one in more.items()],
            lambda: pool["d"].set_weight(50),
            lambda: pool["a"].drain(),
            lambda: pool["b"].maint(),
            lambda: pool.remove("c", drain=60),
            lambda: balancer.reload(balancer.config.model_copy(update={"pools": with_policy(balancer, "rendezvous")})),
        ]
        for change in changes:
            change()
            assert [client.ask(b"?") for client in clients] == names
        assert {reached(balancer, b"?") for _ in range(20)} <= {"d", "e"}  # new ones go where they should


def with_policy(balancer: LoadBalancer, policy: str) -> dict[str, Any]:
    return {"web": balancer.config.pools["web"].model_copy(update={"policy": policy})}


def test_explain_says_that_it_takes_a_connection_id() -> None:
    with three() as (_, balancer), pytest.raises(ValueError, match="connection id in its packets decides"):
        balancer.pools["web"].explain("{}:{}".format(*address_pair(address_of(balancer))))
