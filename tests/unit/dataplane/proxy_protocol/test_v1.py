"""Version 1 to the letter: each rule of proxy-protocol.txt 2.1, with what breaks it and at which byte."""

from __future__ import annotations

import socket

import pytest

from tests.support.proxy_headers import native, refusal, refused_at, seen
from tests.support.proxy_twin import Seen

TCP4 = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
LONGEST_V6 = b"PROXY TCP6 " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n"
V6_TAIL = b" ::1 1 2\r\n"


def test_the_example_of_the_document() -> None:
    found = seen(TCP4 + b"GET / HTTP/1.1\r\n")
    assert found == Seen(
        len(TCP4), 1, 1, 1, 1, (socket.inet_aton("192.168.0.1"), 56324), (socket.inet_aton("192.168.0.11"), 443)
    )


@pytest.mark.parametrize(
    ("line", "length"),
    [
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", 56),
        (LONGEST_V6, 104),
        (b"PROXY UNKNOWN\r\n", 15),
        (b"PROXY UNKNOWN" + LONGEST_V6[10:], 107),
    ],
)
def test_the_longest_line_of_each_kind(line: bytes, length: int) -> None:
    assert len(line) == length
    assert seen(line + b"payload").length == length


def test_without_crlf_in_107_bytes_the_line_is_invalid() -> None:
    """Byte 106 is the last place for the CR."""
    begin = b"PROXY UNKNOWN "
    assert seen(begin.ljust(105, b"x") + b"\r\n").length == 107
    assert refused_at(begin.ljust(106, b"x") + b"\r\n") == ("line_too_long", 106)
    assert refused_at(begin.ljust(105, b"x") + b"\rx") == ("bad_line_end", 107)
    dotted = b":".join([b"ffff"] * 6) + b":255.255.255.255"
    assert refused_at(b"PROXY TCP6 %s %s 65535 65535\r\n" % (dotted, dotted)) == ("line_too_long", 106)


def test_it_waits_for_the_crlf() -> None:
    for length in range(len(TCP4)):
        assert native(TCP4[:length]) == "need_more"


@pytest.mark.parametrize(
    ("data", "reason", "at"),
    [
        (b"PROXY  TCP4 1.1.1.1", "bad_protocol", 7),
        (b"PROXY TCP4  1.1.1.1", "bad_address", 12),
        (b"PROXY TCP4 1.1.1.1  2.2.2.2", "bad_address", 20),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2  1 2", "bad_port", 28),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1  2", "bad_port", 30),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n", "bad_port", 31),
        (b"PROXY TCP4\t1.1.1.1", "bad_protocol", 11),
        (b"PROXY tcp4 1.1.1.1", "bad_protocol", 7),
        (b"PROXY TCP5 1.1.1.1", "bad_protocol", 10),
        (b"PROXY TCP45 ", "bad_protocol", 11),
        (b"PROXY UDP4 1.1.1.1", "bad_protocol", 8),
        (b"PROXY UNIX /run/x", "bad_protocol", 9),
        (b"PROXY TCP4\r\n", "bad_protocol", 11),
        (b"PROXY \r\n", "bad_protocol", 7),
        (b"PROXYTCP4", "bad_signature", 6),
    ],
)
def test_exactly_one_space_between_words_in_capitals(data: bytes, reason: str, at: int) -> None:
    assert refused_at(data) == (reason, at)


@pytest.mark.parametrize(
    ("address", "at"),
    [
        (b"01.1.1.1", 2), (b"1.00.1.1", 4), (b"1.1.1.007", 8), (b"256.1.1.1", 3), (b"1.1.1.999", 9),
        (b"1111.1.1.1", 4), (b"1.1.1 ", 6), (b"1.1.1.1.1", 8), (b"1..1.1", 3), (b".1.1.1", 1),
        (b"+1.1.1.1", 1), (b"0x1.1.1.1", 2), (b"1.1.1.1\r\n", 8),
        (b"::1", 1), (b"1.1.1.1\0", 8), (b"-1.1.1.1", 1), (b"a.b.c.d", 1), (b"\xb2.1.1.1", 1),
    ],
)  # fmt: skip
def test_v4_addresses_are_four_decimals_without_leading_zeros(address: bytes, at: int) -> None:
    """At the first digit or sign that cannot be."""
    assert refused_at(b"PROXY TCP4 " + address) == ("bad_address", 11 + at)
    assert refused_at(b"PROXY TCP4 0.0.0.0 " + address)[0] == "bad_address"


@pytest.mark.parametrize(
    "text",
    [
        "::", "::1", "1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1::8", "fe80::1:2:3:4",
        "ABCD:EF01::abcd:ef01", "0000:0000:0000:0000:0000:0000:0000:0001", "1:0:0:2::", "0:0:0:0:0:0:0:0",
        "::ffff:192.0.2.1", "64:ff9b::192.0.2.33", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5::255.0.0.0", "::0.0.0.0",
    ],
)  # fmt: skip
def test_v6_addresses_in_every_form(text: str) -> None:
    found = seen(b"PROXY TCP6 %s" % text.encode() + V6_TAIL)
    assert found.source == (socket.inet_pton(socket.AF_INET6, text), 1)
    assert found.destination == (socket.inet_pton(socket.AF_INET6, "::1"), 2)
    found = seen(b"PROXY TCP6 ::1 %s 1 2\r\n" % text.encode())
    assert found.destination == (socket.inet_pton(socket.AF_INET6, text), 2)


@pytest.mark.parametrize(
    ("address", "at"),
    [
        (b"1.1.1.1", 2), (b":1::", 2), (b":::", 3), (b"1:::2", 4), (b"1::2::3", 6), (b"12345::", 5), (b"g::", 1),
        (b"1:2:3:4:5:6:7 ", 14), (b"1:2:3:4:5:6:7: ", 15), (b"1:2:3:4:5:6:7:8:", 16), (b"1:2:3:4:5:6:7:8 ", 0),
        (b"1:2:3:4::5:6:7:8", 15), (b"1: ", 3), (b": ", 2), (b" ", 1), (b"::1%eth0", 4), (b"[::1]", 1),
        (b"1:2:3:4:5:6:7::8", 16), (b"::1.2.3 ", 8), (b"::1.2.3.4.5", 10), (b"::01.2.3.4", 5),
        (b"::256.2.3.4", 6), (b"::a.2.3.4", 4),
        (b"1:2:3:4:5:6:7:1.2.3.4", 16), (b"1.2.3.4::", 2), (b"1:2:3:4:5:6::1.2.3.4", 15), (b"::.1", 3),
        (b"::1.2.3.4:5", 10),
    ],
)  # fmt: skip
def test_v6_addresses_have_128_bits_and_one_gap_at_most(address: bytes, at: int) -> None:
    if at == 0:
        assert native(b"PROXY TCP6 " + address) == "need_more"
    else:
        assert refused_at(b"PROXY TCP6 " + address) == ("bad_address", 11 + at)


def test_the_announced_family_dictates_the_format() -> None:
    assert refusal(b"PROXY TCP4 ::1 ::1 1 2\r\n") == "bad_address"
    assert refusal(b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n") == "bad_address"
    assert refusal(b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n") == "bad_address"
    assert refusal(b"PROXY TCP6 ::1 1.2.3.4 1 2\r\n") == "bad_address"


@pytest.mark.parametrize("port", [0, 1, 9, 10, 443, 65535])
def test_ports_are_decimals_up_to_65535(port: int) -> None:
    found = seen(b"PROXY TCP4 1.1.1.1 2.2.2.2 %d %d\r\n" % (port, 65535 - port))
    assert (found.source[1], found.destination[1]) == (port, 65535 - port)


@pytest.mark.parametrize(
    ("port", "at"),
    [
        (b"65536", 5), (b"99999", 5), (b"00", 2), (b"080", 2), (b"+80", 1), (b"-1", 1), (b"0x50", 2), (b"http", 1),
        (b"4294967376", 6), (b"1.5", 2), (b"\r", 1), (b"80\0", 3),
    ],
)  # fmt: skip
def test_ports_that_are_none(port: bytes, at: int) -> None:
    for begin in (b"PROXY TCP4 1.1.1.1 2.2.2.2 ", b"PROXY TCP6 ::1 ::2 7 "):
        reason, length = refused_at(begin + port + b" ")
        assert reason == "bad_port"
        assert length == len(begin) + at


@pytest.mark.parametrize("begin", [TCP4[:-2], LONGEST_V6[:-2], b"PROXY UNKNOWN", b"PROXY UNKNOWN ", b"PROXY UNKNOWN x"])
def test_a_lone_cr_or_lf_ends_no_line(begin: bytes) -> None:
    assert refused_at(begin + b"\n") == ("bad_line_end", len(begin) + 1)
    assert refused_at(begin + b"\rG") == ("bad_line_end", len(begin) + 2)
    assert refused_at(begin + b"\r\r\n") == ("bad_line_end", len(begin) + 2)
    assert native(begin + b"\r") == "need_more"


@pytest.mark.parametrize(
    "rest", [b"", b" ", b" ::1 ::2 3 4", b" TCP4 not an address", b" \0\xff\xfe", b"  ", b" PROXY UNKNOWN"]
)
def test_unknown_is_accepted_and_what_it_holds_is_ignored(rest: bytes) -> None:
    """Up to the CRLF; it names nobody, so that the socket's own addresses are used."""
    line = b"PROXY UNKNOWN" + rest + b"\r\n"
    assert seen(line + b"payload") == Seen(len(line), version=1)


def test_unknown_is_the_whole_word() -> None:
    assert refused_at(b"PROXY UNKNOWNS\r\n") == ("bad_protocol", 14)
    assert refused_at(b"PROXY UNKNOWM\r\n") == ("bad_protocol", 13)
    assert refused_at(b"PROXY unknown\r\n") == ("bad_protocol", 7)
