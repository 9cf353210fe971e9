"""The ClientHello parser: real clients', made ones, damaged ones; always as its twin in Python has it."""

from __future__ import annotations

import os
import socket
import subprocess
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import hello_twin, hellos
from tests.support.hello_twin import Found
from tests.support.hellos import GREASE_NAME, alpn, extension, message, records, server_name, vector
from tests.support.programs import require, without_preload

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")


def judged(data: bytes) -> Found | str:
    found = probe.client_hello(data)
    assert found == hello_twin.judge(data)
    return found


@pytest.mark.parametrize("newest", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize(
    ("name", "offered"), [("a.example", ["h2", "http/1.1"]), ("a.example", []), ("", ["imap"]), ("", [])]
)
def test_of_openssl(newest: str, name: str, offered: list[str]) -> None:
    data = hellos.real(name, offered, newest)
    wanted = (name.encode(), [one.encode() for one in offered])
    assert judged(data) == wanted
    assert judged(data + b"more") == wanted
    assert {judged(data[:length]) for length in range(len(data))} == {"need_more"}


@pytest.mark.external
@pytest.mark.parametrize(
    "command",
    [
        ["curl", "-sk", "--connect-timeout", "20", "--connect-to", "::127.0.0.1:{port}", "https://b.example/"],
        ["openssl", "s_client", "-connect", "127.0.0.1:{port}", "-servername", "b.example", "-alpn", "h2,http/1.1"],
    ],
)
def test_of_programs(command: list[str]) -> None:
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        port = listening.getsockname()[1]

        def take() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.settimeout(20)
                data = b""
                while judged(data) == "need_more":
                    data += peer.recv(1 << 16)
                got.append(data)

        thread = threading.Thread(target=take)
        thread.start()
        arguments = [require(command[0]), *(word.format(port=port) for word in command[1:])]
        subprocess.run(arguments, env=without_preload(), capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        thread.join(20)
    assert judged(got[0]) == (b"b.example", [b"h2", b"http/1.1"])


@pytest.mark.parametrize("size", [1, 2, 5, 40, 16384])
def test_cut_into_records(size: int) -> None:
    """RFC 8446 5.1: "Handshake messages MAY be ... fragmented across several records"."""
    data = records(message(server_name(b"a.example") + alpn(b"h2")), size)
    assert judged(data) == (b"a.example", [b"h2"])
    assert {judged(data[:length]) for length in range(len(data))} == {"need_more"}


@pytest.mark.parametrize("count", [2, 80, 300])
def test_protocols_beyond_what_fits_are_left_out(count: int) -> None:
    offered = [b"%d" % number for number in range(count)]
    _, kept = judged(records(message(alpn(*offered))))
    assert kept == offered[: len(kept)]
    assert sum(1 + len(one) for one in kept) <= 255
    assert len(kept) == count or 255 - sum(1 + len(one) for one in kept) < 4


@given(st.binary(max_size=200), st.booleans())
def test_a_message_without_records(noise: bytes, whole: bool) -> None:
    data = message(server_name(b"a.example") + alpn(b"h3") + extension(57, noise))
    assert hello_twin.judge(data, records=False) == (b"a.example", [b"h3"])
    for piece in (data, data + noise, data[: len(noise)], noise):
        assert probe.client_hello(piece, False) == hello_twin.judge(piece, records=False)


def test_extensions_that_mean_nothing_here() -> None:
    """GREASE of every kind (RFC 8701), and ECH: the outer name is what there is to see."""
    grease = extension(0x0A0A, b"") + extension(0xFAFA, b"\0")
    data = records(
        message(grease + extension(0xFE0D, bytes(200)) + server_name(b"public.example") + alpn(GREASE_NAME, b"h3"))
    )
    assert judged(data) == (b"public.example", [b"h3"])
    assert judged(records(message(alpn(GREASE_NAME)))) == (b"", [])


@pytest.mark.parametrize(
    "data",
    [
        records(message(None)),
        records(message(b"")),
        records(message(b"", version=0x0300)),
    ],
)
def test_without_a_name(data: bytes) -> None:
    assert judged(data) == (b"", [])


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("http", b"GET / HTTP/1.1\r\n\r\n"),
        ("nothing of TLS", b"\x80"),
        ("an alert", b"\x15\x03\x01\0\x02\x02\x28"),
        ("another major version of the record", b"\x16\x02"),
        ("an empty record", b"\x16\x03\x01\0\0"),
        ("a record that is too long", b"\x16\x03\x01\x40\x01"),
        ("a ServerHello", records(message(b"", kind=2))),
        ("a message that is too long", b"\x16\x03\x01\0\x04\x01\0\x40\x01"),
        ("another major version", records(message(b"", version=0x0203))),
        ("an odd list of suites", records(message(b"", suites=b"\x13\x01\x13"))),
        ("no suite", records(message(b"", suites=b""))),
        ("two names", records(message(server_name(b"a.example") + server_name(b"b.example")))),
        ("two lists of protocols", records(message(alpn(b"h2") + alpn(b"h2")))),
        ("another kind of name", records(message(server_name(b"a.example", kind=1)))),
        ("an empty name", records(message(server_name(b"")))),
        ("a name that is too long", records(message(server_name(b"a" * 256)))),
        ("a name with a blank", records(message(server_name(b"a b")))),
        ("a name with a zero byte", records(message(server_name(b"a\0b")))),
        ("a name of UTF-8", records(message(server_name("ä.example".encode())))),
        ("a name list that is longer than its extension", records(message(extension(0, b"\0\x09\0\0\x01a")))),
        ("a name that is shorter than its list", records(message(extension(0, vector(2, b"\0\0\x01ab"))))),
        ("an empty extension for a name", records(message(extension(0, b"")))),
        ("an empty list of protocols", records(message(alpn()))),
        ("an empty protocol", records(message(alpn(b"h2", b"")))),
        ("a protocol that is longer than its list", records(message(extension(16, vector(2, b"\x05h2"))))),
        ("an extension beyond the message", records(message(b"\0\x17\0\x05abc"))),
        ("extensions that are shorter than said", records(message(None, after=b"\0\0x"))),
        ("half an extension", records(message(b"\0\x17\0"))),
    ],
)  # fmt: skip
def test_what_is_none(what: str, data: bytes) -> None:
    """Refused at one byte, and whatever follows."""
    assert judged(data) == "not_tls"
    results = [judged(data[:length]) for length in range(len(data) + 1)]
    first = results.index("not_tls")
    assert set(results[:first]) <= {"need_more"}
    assert set(results[first:]) == {"not_tls"}


def test_more_than_16_kib_are_never_waited_for() -> None:
    data = records(message(extension(0x4444, bytes(14000)) + server_name(b"a.example")), 1)
    assert judged(data[:16383]) == "need_more"
    assert judged(data[:16384]) == judged(data) == "not_tls"
    whole = records(message(extension(0x4444, bytes(16000)) + server_name(b"a.example")))
    assert judged(whole) == (b"a.example", [])


@settings(max_examples=300, deadline=None)
@given(st.one_of(hellos.hellos, hellos.damaged(), st.binary(max_size=80)))
def test_like_the_twin(data: bytes) -> None:
    whole = judged(data)
    for length in range(0, len(data), 1 + len(data) // 40):
        assert judged(data[:length]) in ("need_more", whole)


def test_random_bytes_behind_a_right_beginning() -> None:
    data = hellos.real()
    for cut in range(5, len(data), 7):
        judged(data[:cut] + os.urandom(64))
