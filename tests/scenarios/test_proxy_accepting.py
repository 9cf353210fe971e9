"""Listeners with accept_proxy: what is taken, what is refused and counted, and what the address then is good for."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from l4lb import Listener, LoadBalancer
from l4lb.control.state.events import Event
from l4lb.model.address import SocketAddress
from l4lb.model.states import CloseReason
from l4lb.proxy_protocol import Command, Header, build
from tests.scenarios.test_proxy_sending import Receiver, greet, names, receiving, talk
from tests.support.balancing import address_of, balancing, closed, wait_closed, wait_idle
from tests.support.hellos import alpn, message, real, records, server_name
from tests.support.peers import connect, echo, read_all, read_exactly, read_until_end, reset, serving
from tests.support.proxy_headers import UNIX, V4, tlv, v2
from tests.support.waiting import wait_until

LOOPBACK = {"accept_proxy": "any", "proxy_trusted": ["127.0.0.0/8", "::1"]}
CLIENT = SocketAddress(socket.AF_INET, "192.0.2.1", 40000)
SERVER = SocketAddress(socket.AF_INET, "198.51.100.7", 443)
CLIENT_V6 = SocketAddress(socket.AF_INET6, "2001:db8::1", 40000)
SERVER_V6 = SocketAddress(socket.AF_INET6, "2001:db8::7", 443)
V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 40000 443\r\n"
V2 = v2(0x11, V4)
deferring = pytest.mark.parametrize("defer", ["off", "1s"])  # the same, whether the header is there at the accept


def refused(balancer: LoadBalancer) -> dict[str, int]:
    return balancer.stats().listeners["web"].proxy_refused


@contextlib.contextmanager
def accepting(
    after: Any = echo, *, workers: int = 1, listener: dict[str, Any] | None = None, **pool: Any
) -> Iterator[tuple[Receiver, LoadBalancer]]:
    """A listener that takes headers from loopback, and a backend that gets ours."""
    pool = {"send_proxy": "v2", **pool}
    with receiving(after) as (receiver, server):
        options = {"workers": workers, "listener": {**LOOPBACK, **(listener or {})}, **pool}
        with balancing([server.address], **options) as balancer:
            yield receiver, balancer


VALID = [
    (V1, "192.0.2.1:40000", "198.51.100.7:443"),
    (V2, "192.0.2.1:40000", "198.51.100.7:443"),
    (build(Header(source=CLIENT_V6, destination=SERVER_V6)), "[2001:db8::1]:40000", "[2001:db8::7]:443"),
    (build(Header(1, source=CLIENT_V6, destination=SERVER_V6)), "[2001:db8::1]:40000", "[2001:db8::7]:443"),
    (build(Header(source=CLIENT, destination=SERVER, crc32c=True)), "192.0.2.1:40000", "198.51.100.7:443"),
    (v2(0x11, V4 + tlv(4, bytes(4000 - 31))), "192.0.2.1:40000", "198.51.100.7:443"),
]


@pytest.mark.parametrize(("header", "source", "destination"), VALID)
@pytest.mark.parametrize("size", [1, 7, 1 << 16])
@deferring
def test_the_header_names_the_client(header: bytes, source: str, destination: str, size: int, defer: str) -> None:
    """PROXY 2: "the receiver SHOULD tolerate" fragments: of one byte each, with the request in the last one's tail."""
    data = header + b"hello"
    with contextlib.ExitStack() as stack:
        receiver, balancer = stack.enter_context(accepting(listener={"defer_accept": defer}))
        client = stack.enter_context(connect(address_of(balancer)))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), size):
            client.sendall(data[at : at + size])
        assert read_exactly(client, 5) == b"hello"
        assert (str(receiver.header.source), str(receiver.header.destination)) == (source, destination)
        assert balancer.stats().pools["web"].bytes_up == 5
        assert refused(balancer) == {}


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 2001:db8::2 70000 x\r\n",
        v2(0x00, version_command=0x20),
        v2(0x11, V4, version_command=0x20),
        v2(0x55, b"anything", version_command=0x20),
        v2(0x00),
        v2(0x00, b"skipped"),
        v2(0x10, V4),
    ],
)
def test_a_header_that_names_nobody(header: bytes) -> None:
    """PROXY 2.1, 2.2: LOCAL, UNKNOWN and UNSPEC are accepted, the block skipped, and the connection's own addresses
    are the true ones."""
    with accepting() as (receiver, balancer), connect(address_of(balancer)) as client:
        client.sendall(header)
        talk(client)
        assert (str(receiver.header.source), str(receiver.header.destination)) == names(client)
        assert receiver.header.command is Command.PROXY


def test_a_header_of_a_unix_client() -> None:
    """PROXY 2.2: AF_UNIX is valid; its client has no IP address, as one that came over our own unix socket."""
    with accepting() as (receiver, balancer), connect(address_of(balancer)) as client:
        client.sendall(v2(0x31, UNIX))
        talk(client)
        assert receiver.header.command is Command.LOCAL


@pytest.mark.parametrize(
    ("reason", "header"),
    [
        ("bad_signature", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("bad_signature", b"\x16\x03\x01"),
        ("bad_protocol", b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n"),
        ("bad_address", b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n"),
        ("bad_port", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n"),
        ("bad_line_end", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n"),
        ("line_too_long", b"PROXY UNKNOWN " + b"x" * 100),
        ("bad_version", v2(0x11, V4, version_command=0x31)),
        ("bad_command", v2(0x11, V4, version_command=0x22)),
        ("bad_family", v2(0x41, V4)),
        ("bad_transport", v2(0x13, V4)),
        ("too_large", v2(0x11, V4, length=4081)),
        ("too_short", v2(0x11, V4[:11])),
        ("tlv_overrun", v2(0x11, V4 + b"\x02\0\7")),
        ("bad_tlv", v2(0x11, V4 + tlv(5, bytes(129)))),
        ("crc_mismatch", v2(0x11, V4 + tlv(3, b"1234"))),
    ],
)  # fmt: skip
@deferring
def test_what_is_wrong_is_refused_at_once_and_counted(reason: str, header: bytes, defer: str) -> None:
    """PROXY 2: "any deviation: abort the connection as early as possible"; nothing of it reaches a backend."""
    listener = {**LOOPBACK, "defer_accept": defer}
    with serving(echo) as server, balancing([server.address], workers=1, listener=listener) as balancer:
        with connect(address_of(balancer)) as client:
            client.sendall(header)
            assert read_until_end(client) == (b"", True)
        wait_closed(balancer, CloseReason.PROXY_HEADER_ERROR)
        assert refused(balancer) == {reason: 1}
        assert server.accepted == 0


@pytest.mark.parametrize(("accepts", "header"), [("v1", V2), ("v2", V1)])
def test_one_version_alone(accepts: str, header: bytes) -> None:
    with accepting(listener={"accept_proxy": accepts}) as (_, balancer), connect(address_of(balancer)) as client:
        client.sendall(header)
        assert read_until_end(client)[1]
        wait_closed(balancer, CloseReason.PROXY_HEADER_ERROR)
        assert refused(balancer) == {"bad_signature": 1}


def test_from_elsewhere_nothing_is_believed() -> None:
    """PROXY 2: accept from known sources only. Others are reset before they are read."""
    with accepting(listener={"proxy_trusted": ["127.0.0.2", "10.0.0.0/8"]}) as (receiver, balancer):
        with contextlib.suppress(ConnectionResetError, BrokenPipeError), connect(address_of(balancer)) as client:
            client.sendall(V2 + b"hello")
            assert client.recv(1) == b""
        wait_closed(balancer, CloseReason.PROXY_HEADER_ERROR)
        assert refused(balancer) == {"untrusted": 1}
        host, _, port = address_of(balancer).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20, source_address=("127.0.0.2", 0)) as client:
            client.sendall(V2)
            talk(client)
        assert str(receiver.header.source) == str(CLIENT)


def test_a_refusal_is_an_event() -> None:
    with accepting() as (_, balancer):
        told: list[Event] = []
        balancer.plane.events.subscribe(told.append)
        with connect(address_of(balancer)) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert read_until_end(client)[1]
        assert wait_until(lambda: [event for event in told if event.kind == "proxy_header_refused"])
    (event,) = told
    assert event.fields == {"listener": "web", "reason": "bad_signature 1"}


@deferring
def test_unix_clients_are_trusted(tmp_path: Any, defer: str) -> None:
    listener: dict[str, Any] = {"bind": ["127.0.0.1:0", f"unix:{tmp_path}/web"], "proxy_trusted": ["10.0.0.0/8"]}
    listener["defer_accept"] = defer
    with accepting(listener=listener) as (receiver, _), connect(f"unix:{tmp_path}/web") as client:
        client.sendall(V2)
        talk(client)
        assert str(receiver.header.source) == str(CLIENT)


def test_a_header_that_never_ends_holds_its_place_for_the_time_out_only() -> None:
    """However it trickles: bytes do not move the deadline. PROXY 2 wants 3 s or more, for a segment that is lost."""
    assert Listener(bind=["127.0.0.1:0"], pool="web").proxy_timeout >= 3
    with accepting(listener={"proxy_timeout": "300ms", "max_sessions": 1}) as (receiver, balancer):
        with connect(address_of(balancer)) as client:
            began = time.monotonic()
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                for byte in v2(0x11, V4 + tlv(4, bytes(3900))):
                    client.sendall(bytes([byte]))
                    time.sleep(0.01)
            assert time.monotonic() - began < 20
        wait_closed(balancer, CloseReason.PROXY_HEADER_ERROR)
        assert refused(balancer) == {"timeout": 1}
        with connect(address_of(balancer)) as client:
            client.sendall(V2)
            talk(client)
        assert str(receiver.header.source) == str(CLIENT)


@deferring
def test_a_client_that_says_nothing_at_all(defer: str) -> None:
    with accepting(listener={"proxy_timeout": "100ms", "defer_accept": defer}) as (_, balancer):
        began = time.monotonic()
        with connect(address_of(balancer)) as client:
            assert read_until_end(client) == (b"", True)
        assert refused(balancer) == {"timeout": 1}
        assert time.monotonic() - began > (1.1 if defer == "1s" else 0.1)  # the kernel's wait comes before


@pytest.mark.parametrize("length", [0, 1, 16, 27])
@deferring
def test_an_end_within_the_header(length: int, defer: str) -> None:
    """PROXY 2.2: partial headers are rejected. One who connects and leaves without a byte has done nothing wrong."""
    with accepting(listener={"defer_accept": defer}) as (receiver, balancer):
        with connect(address_of(balancer)) as client:
            client.sendall(V2[:length])
            client.shutdown(socket.SHUT_WR)
            assert read_until_end(client) == (b"", True)
        wait_closed(balancer, CloseReason.PROXY_HEADER_ERROR if length else CloseReason.CLIENT_ABORT)
        assert refused(balancer) == ({"truncated": 1} if length else {})
        assert receiver.headers == []


@pytest.mark.parametrize(("length", "defer"), [(0, "off"), (20, "off"), (28, "off"), (20, "1s"), (28, "1s")])
def test_a_reset_in_or_behind_the_header(length: int, defer: str) -> None:
    """Without a byte a deferred client was never here."""
    with accepting(listener={"defer_accept": defer}) as (_, balancer):
        client = connect(address_of(balancer))
        client.sendall(V2[:length])
        reset(client)
        assert wait_until(lambda: sum(closed(balancer).values()) == 1)
        assert set(closed(balancer)) == {CloseReason.CLIENT_ABORT}
        wait_idle(balancer)


@pytest.mark.parametrize("request_", [b"", b"hello"])
@deferring
def test_a_fin_that_came_with_the_header(request_: bytes, defer: str) -> None:
    """It is forwarded after the bytes before it, though both came before there was a backend."""
    got: list[bytes] = []

    def take(sock: Any) -> None:
        got.append(read_all(sock))
        sock.sendall(b"answer")

    with accepting(take, listener={"defer_accept": defer}) as (receiver, balancer):
        with connect(address_of(balancer)) as client:
            client.sendall(V2 + request_)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"answer"
        wait_closed(balancer, CloseReason.NORMAL)
        assert str(receiver.header.source) == str(CLIENT)
    assert got == [request_]


@pytest.mark.parametrize("send", ["off", "v1", "v2"])
@pytest.mark.parametrize(("splice", "defer"), [("auto", "off"), ("always", "off"), ("always", "1s")])
@pytest.mark.parametrize("size", [1, 4096, 20_000, 3_000_000])
def test_the_stream_behind_the_header_is_whole(send: str, splice: str, defer: str, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    with serving(echo) if send == "off" else serving(Receiver()) as server:
        listener = {**LOOPBACK, "splice": splice, "defer_accept": defer}
        options = {"workers": 1, "listener": listener, "send_proxy": send}
        with balancing([server.address], **options) as balancer:
            with connect(address_of(balancer)) as client:
                writer = threading.Thread(target=lambda: client.sendall(V1 + data))
                writer.start()
                assert read_exactly(client, size) == data
                writer.join()
            wait_idle(balancer)
            assert balancer.stats().pools["web"].bytes_up == size


def test_a_server_that_speaks_first_waits_for_the_header() -> None:
    """PROXY 2: nothing is processed before a complete header, "including for server-first protocols"."""
    with accepting(greet) as (receiver, balancer), connect(address_of(balancer)) as client:
        time.sleep(0.1)
        assert receiver.headers == []
        client.sendall(V2)
        assert client.recv(100) == b"220 ready\r\n"
        talk(client)


def test_the_client_of_the_header_is_in_the_records() -> None:
    """And by its unique id a session is found again in what the backend logs."""
    with accepting(send_proxy_tlvs=["unique_id"]) as (receiver, balancer):
        forwarder = balancer.plane.forwarder
        wake_fd = os.eventfd(0)
        forwarder.keep_records(wake_fd)
        with connect(address_of(balancer)) as client:
            client.sendall(V1)
            talk(client)
        wait_idle(balancer)
        (record,) = forwarder.take_records(10)
        assert (record.client, record.client_port, record.bytes_up) == ("192.0.2.1", 40000, 5)
        unique_id = f"{forwarder._plane.instance:016x}-{record.session_id}"
        assert receiver.header.unique_id == unique_id.encode()
    os.close(wake_fd)


@pytest.mark.parametrize("key", ["source_ip", "destination"])
def test_hashing_goes_by_the_addresses_of_the_header(key: str) -> None:
    """One client of the header is on one backend from any proxy; `explain` says which."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(receiving()) for _ in range(5)]
        backends = [server.address for _, server in servers]
        options = {"policy": "maglev", "hash_key": key, "listener": LOOPBACK, "send_proxy": "v2"}
        balancer = stack.enter_context(balancing(backends, **options))
        for number in range(20):
            source = SocketAddress(socket.AF_INET, f"192.0.2.{number}", 4000)
            destination = SocketAddress(socket.AF_INET, f"198.51.100.{number}", 443)
            with connect(address_of(balancer)) as client:
                client.sendall(build(Header(source=source, destination=destination)))
                talk(client)
            wanted = balancer.explain("web", str(source), str(destination))["chosen"]
            (receiver,) = [one for one, server in servers if server.address == wanted]
            assert (receiver.header.source, receiver.header.destination) == (source, destination)


RECEIVED = tlv(2, b"first.example") + tlv(4, b"pad") + tlv(5, b"theirs") + tlv(0xEA, b"\x01vpce")


@pytest.mark.parametrize(
    ("tlvs", "wanted"),
    [
        ([], ()),
        (["received"], ((2, b"first.example"), (5, b"theirs"), (0xEA, b"\x01vpce"))),
        (["received", {"type": 0xEA, "value": "own"}], ((2, b"first.example"), (5, b"theirs"), (0xEA, b"own"))),
    ],
)
def test_received_tlvs(tlvs: list[Any], wanted: tuple[tuple[int, bytes], ...]) -> None:
    with accepting(send_proxy_tlvs=tlvs) as (receiver, balancer), connect(address_of(balancer)) as client:
        client.sendall(v2(0x11, V4 + RECEIVED) + b"hello")
        assert read_exactly(client, 5) == b"hello"
        assert receiver.header.tlvs == wanted


# ---- of TLS ----


@pytest.mark.parametrize("size", [1, 16384])
@pytest.mark.parametrize("with_header", [False, True])
@deferring
def test_authority_and_alpn_of_the_clients_tls(size: int, with_header: bool, defer: str) -> None:
    """The ClientHello is read and passed on as it is, in however many pieces it came."""
    hello = real("a.example", ["h2", "http/1.1"])
    with receiving() as (receiver, server):
        listener = {**(LOOPBACK if with_header else {}), "defer_accept": defer}
        options = {"listener": listener, "send_proxy": "v2", "send_proxy_tlvs": ["authority", "alpn", "crc32c"]}
        with balancing([server.address], **options) as balancer, connect(address_of(balancer)) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            data = (V1 if with_header else b"") + hello
            for at in range(0, len(data), size):
                client.sendall(data[at : at + size])
            assert read_exactly(client, len(hello)) == hello
            assert str(receiver.header.source) == (str(CLIENT) if with_header else names(client)[0])
    assert (receiver.header.authority, receiver.header.alpn) == ("a.example", b"h2")
    assert receiver.header.crc32c


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\0\x05wrong", records(message(None))])
def test_what_is_no_tls_goes_on_at_once(data: bytes) -> None:
    with accepting(listener={}, send_proxy_tlvs=["authority"]) as (receiver, balancer):
        with connect(address_of(balancer)) as client:
            client.sendall(V1)
            talk(client, data)
    assert receiver.header.tlvs == ()


def test_a_client_that_ends_within_its_hello_is_relayed() -> None:
    data = real()[:100]
    got: list[bytes] = []
    with accepting(lambda sock: got.append(read_all(sock)), send_proxy_tlvs=["authority"]) as (receiver, balancer):
        with connect(address_of(balancer)) as client:
            client.sendall(V1 + data)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
        assert receiver.header.tlvs == ()
    assert got == [data]


def test_a_silent_client_is_not_waited_for_forever() -> None:
    """A protocol in which the server begins, behind a pool that asks for names: slow, and it works."""
    with receiving(greet) as (receiver, server):
        options = {"send_proxy": "v2", "send_proxy_tlvs": ["authority"]}
        with balancing([server.address], **options) as balancer, connect(address_of(balancer)) as client:
            assert client.recv(100) == b"220 ready\r\n"
            talk(client)
    assert receiver.header.tlvs == ()


def test_what_the_proxy_in_front_says_of_the_client_counts() -> None:
    """It has seen the client's own TLS; what comes here may be another connection's."""
    hello = records(message(server_name(b"mine.example") + alpn(b"h2")))
    with accepting(send_proxy_tlvs=["authority", "alpn"]) as (receiver, balancer):
        with connect(address_of(balancer)) as client:
            client.sendall(v2(0x11, V4 + tlv(2, b"first.example")))
            talk(client, hello)
    assert receiver.header.tlvs == ((2, b"first.example"), (1, b"h2"))


# ---- life ----


def test_sessions_that_still_read_are_counted_and_ended_with_the_rest() -> None:
    with accepting(listener={"max_sessions": 2}) as (_, balancer), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(address_of(balancer))) for _ in range(2)]
        clients[0].sendall(V2[:5])
        assert wait_until(lambda: balancer.stats().listeners["web"].sessions_active == 2)
        with contextlib.suppress(ConnectionResetError), connect(address_of(balancer)) as third:
            assert third.recv(1) == b""
        wait_closed(balancer, CloseReason.RESOURCE_LIMIT)
        forwarder = balancer.plane.forwarder
        balancer.close()
        assert all(read_until_end(client) == (b"", True) for client in clients)
        assert forwarder.stats().listeners["web"].closed[CloseReason.SHUTDOWN] == 2


def test_a_reload_meanwhile() -> None:
    """A session that reads its header is one of today's pool when it is complete."""
    with accepting() as (receiver, balancer), receiving() as (other, server):
        with connect(address_of(balancer)) as client:
            client.sendall(V2[:10])
            assert wait_until(lambda: balancer.stats().sessions_active == 1)
            balancer.pools["web"].add(server.address)
            for backend in set(balancer.pools["web"]) - {server.address}:
                balancer.pools["web"].remove(backend)
            client.sendall(V2[10:])
            talk(client)
    assert receiver.headers == []
    assert str(other.header.source) == str(CLIENT)


@pytest.mark.parametrize("workers", [1, 3])
def test_hostile_bytes_cost_others_nothing(workers: int) -> None:
    """While one client sends wrong headers as fast as it can, others' sessions go on, each whole."""
    stop = threading.Event()
    with accepting(workers=workers) as (receiver, balancer):
        address = address_of(balancer)

        def attack() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError), connect(address) as client:
                    client.sendall(b"\r\n\r\n\0\r\nQUIT\nwrong")
                    read_until_end(client)

        attacker = threading.Thread(target=attack)
        attacker.start()
        try:
            for _ in range(50):
                with connect(address) as client:
                    client.sendall(V2)
                    talk(client)
        finally:
            stop.set()
            attacker.join(20)
        wait_idle(balancer)
        assert len(receiver.headers) == 50
        counts = refused(balancer)
        assert set(counts) == {"bad_version"}
        assert closed(balancer)[CloseReason.PROXY_HEADER_ERROR] == counts["bad_version"]
