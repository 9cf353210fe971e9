"""Against a real dnsmasq, and against servers that answer what nobody asked."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Callable, Iterator

import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.support.checking import address_of, check, loopback_socket
from tests.support.peers import hold, one_answer, serving
from tests.support.servers import Program, dns_server

LONG = "--txt-record=long.example," + ",".join(letter * 200 for letter in "abc")  # one record, over 512 bytes


@pytest.fixture(scope="module")
def server() -> Iterator[Program]:
    with dns_server("--txt-record=text.example,hello", LONG) as running:
        yield running


@pytest.mark.external
@pytest.mark.parametrize(
    "settings",
    [
        {"name": "up.example"},
        {"name": "UP.example.", "transport": "tcp"},
        {"name": "text.example", "record": "TXT"},
        {"name": "long.example", "record": "TXT"},
        {"name": "up.example", "source": "127.0.0.3"},
    ],
)
def test_passes(server: Program, settings: dict[str, str]) -> None:
    result = check(server.address, "dns", **settings)
    assert (result.ok, result.reason) == (True, "")


@pytest.mark.external
@pytest.mark.parametrize(
    ("settings", "step", "reason"),
    [
        ({"name": "gone.example"}, "answer", "NXDOMAIN"),
        ({"name": "gone.example", "transport": "tcp"}, "answer over tcp", "NXDOMAIN"),
        ({"name": "elsewhere.test"}, "answer", "REFUSED"),
        ({"name": "up.example", "record": "AAAA"}, "answer", "NOERROR without a record of up.example AAAA"),
    ],
)
def test_fails_with_the_rcode(server: Program, settings: dict[str, str], step: str, reason: str) -> None:
    result = check(server.address, "dns", **settings)
    assert (result.ok, result.step, result.reason) == (False, step, reason)


@pytest.mark.external
def test_a_long_answer_comes_truncated(server: Program) -> None:
    query = dns.message.make_query("long.example", "TXT")
    with loopback_socket() as sock:
        sock.sendto(query.to_wire(), ("127.0.0.1", server.port))
        answer = dns.message.from_wire(sock.recv(1000))
    assert answer.flags & dns.flags.TC  # what the test above relies on
    assert not answer.answer


@pytest.mark.external
@pytest.mark.parametrize(("transport", "step"), [("udp", "answer"), ("tcp", "answer over tcp")])
def test_a_stopped_server_times_out(transport: str, step: str) -> None:
    with dns_server() as server, server.stopped():
        result = check(server.address, "dns", name="up.example", transport=transport, timeout=0.3)
        assert (result.ok, result.step, result.reason) == (False, step, "no answer within 0.3 s")
        assert check(server.address, "tcp").ok


@contextlib.contextmanager
def answering(make: Callable[[dns.message.Message], bytes]) -> Iterator[str]:
    with loopback_socket() as sock:

        def run() -> None:
            data, peer = sock.recvfrom(4096)
            sock.sendto(make(dns.message.from_wire(data)), peer)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield address_of(sock)
        thread.join(20)


def rcode(code: dns.rcode.Rcode) -> Callable[[dns.message.Message], bytes]:
    def make(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(code)
        return response.to_wire()

    return make


def other_question(query: dns.message.Message) -> bytes:
    response = dns.message.make_response(dns.message.make_query("other.example", "A"))
    response.id = query.id
    return response.to_wire()


LIES = {
    "servfail": (rcode(dns.rcode.SERVFAIL), "SERVFAIL"),
    "other question": (other_question, "an answer to another question"),
    "the query itself": (lambda query: query.to_wire(), "an answer to another question"),
    "garbage": (lambda query: b"\xff" * 100, "not a DNS message: "),
    "empty": (lambda query: b"", "not a DNS message: ShortHeader"),
    "cut": (lambda query: query.to_wire()[:-3], "not a DNS message: "),
    "pointer loop": (lambda query: query.to_wire()[:12] + b"\xc0\x0c\0\1\0\1", "not a DNS message: "),
}


@pytest.mark.parametrize("case", LIES)
def test_lies(case: str) -> None:
    make, reason = LIES[case]
    with answering(make) as address:
        result = check(address, "dns", name="up.example")
    assert (result.ok, result.step) == (False, "answer")
    assert result.reason.startswith(reason)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed after 0 bytes"),
        (b"\0", "closed after 1 bytes"),
        (struct.pack("!H", 500) + b"x" * 100, "closed after 102 bytes"),
        (struct.pack("!H", 4) + b"x" * 4, "not a DNS message: ShortHeader"),
    ],
)
def test_lies_over_tcp(answer: bytes, reason: str) -> None:
    with serving(one_answer(answer)) as server:
        result = check(server.address, "dns", name="up.example", transport="tcp")
    assert (result.ok, result.step, result.reason) == (False, "answer over tcp", reason)


def test_refused_and_silent() -> None:
    with loopback_socket() as sock:
        address = address_of(sock)
    assert check(address, "dns", name="up.example").reason == "connection refused"
    with serving(hold) as server:
        result = check(server.address, "dns", name="up.example", transport="tcp", timeout=0.2)
        assert result.reason == "no answer within 0.2 s"
