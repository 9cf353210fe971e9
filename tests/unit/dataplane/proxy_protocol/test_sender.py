"""Which header a pool's settings make of a client. What is written is read back by the parser."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb._native import snapshots
from l4lb.proxy_protocol import Command, Header, Type, parse
from tests.support import proxy_headers
from tests.support.proxy_headers import tlv

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")

BITS = snapshots.PROXY_SEND_TLVS
CLIENT = (socket.inet_aton("192.0.2.1"), struct.pack("!H", 40000))
SERVER = (socket.inet_aton("198.51.100.7"), struct.pack("!H", 443))
SERVER_V6 = (socket.inet_pton(socket.AF_INET6, "2001:db8::7"), struct.pack("!H", 443))
NOBODY = (b"", b"\0\0")


def sent(names: str = "", *, version: int = 2, own: bytes = b"", to=SERVER, source=CLIENT, room=4096, **said) -> Header:
    bits = sum(BITS[name] for name in names.split())
    length, data = probe.proxy_send((version, bits, own), source, to, said, room)
    assert 0 < length <= room, length
    assert data[room:] == b"\xaa" * 16
    header = parse(data[:length], "any")
    assert header.length == length
    return header


def test_endpoints_alone() -> None:
    for version in (1, 2):
        header = sent(version=version)
        assert (str(header.source), str(header.destination)) == ("192.0.2.1:40000", "198.51.100.7:443")
        assert (header.version, header.tlvs, header.length) == (version, (), 28 if version == 2 else 45)


def test_two_families_are_written_as_ipv6() -> None:
    header = sent(to=SERVER_V6)
    assert (str(header.source), str(header.destination)) == ("[::ffff:192.0.2.1]:40000", "[2001:db8::7]:443")


@pytest.mark.parametrize("version", [1, 2])
def test_a_client_without_an_ip_address(version: int) -> None:
    """LOCAL, or UNKNOWN, and no TLVs, whatever is asked for."""
    header = sent(
        "crc32c unique_id received" if version == 2 else "",
        own=tlv(0xE4, b"x") if version == 2 else b"",
        source=NOBODY,
        version=version,
        received=tlv(2, b"a"),
    )
    assert (header.source, header.tlvs, header.crc32c) == (None, (), False)
    assert header.command is (Command.LOCAL if version == 2 else Command.PROXY)


def test_every_tlv_of_its_own() -> None:
    header = sent(
        "crc32c unique_id authority alpn",
        own=tlv(0xE4, b"own"),
        authority=b"a.example",
        alpn=b"h2",
        instance=0xABC,
        session_id=(7 << 32) | 5,
    )
    assert header.crc32c
    assert header.tlvs == (
        (Type.AUTHORITY, b"a.example"),
        (Type.ALPN, b"h2"),
        (Type.UNIQUE_ID, b"0000000000000abc-30064771077"),
        (0xE4, b"own"),
    )


def test_what_is_not_known_is_left_out() -> None:
    assert sent("authority alpn received").tlvs == ()


RECEIVED = tlv(4, b"pad") + tlv(2, b"first.example") + tlv(5, b"theirs") + tlv(0xEA, b"\x01vpce") + tlv(3, b"1234")


def test_what_was_received_is_told_only_when_asked_for() -> None:
    assert sent("crc32c", received=RECEIVED).tlvs == ()
    assert sent("unique_id", received=RECEIVED, session_id=1).unique_id == b"0" * 16 + b"-1"


def test_received_tlvs_are_passed_on_without_padding_and_checksum() -> None:
    header = sent("received", received=RECEIVED)
    assert header.tlvs == ((2, b"first.example"), (5, b"theirs"), (0xEA, b"\x01vpce"))
    assert not header.crc32c


def test_nothing_is_told_twice() -> None:
    """The nearest to the client knows best; the pool's own takes the place of a received one."""
    header = sent(
        "received authority unique_id crc32c", received=RECEIVED, authority=b"mine.example", own=tlv(0xEA, b"mine")
    )
    assert header.tlvs == ((2, b"first.example"), (5, b"theirs"), (0xEA, b"mine"))
    assert header.crc32c


def test_a_received_authority_is_told_where_authority_alone_is_asked_for() -> None:
    assert sent("authority", received=RECEIVED, authority=b"mine.example").tlvs == ((2, b"first.example"),)


def test_what_does_not_fit_beside_the_endpoints_is_left_out() -> None:
    received = tlv(0xE1, bytes(900)) * 4
    header = sent("received crc32c authority", received=received, authority=b"a.example", room=3600)
    assert header.tlvs == ((Type.AUTHORITY, b"a.example"),)
    assert header.crc32c
    length, _ = probe.proxy_send((2, 0, b""), CLIENT, SERVER, {}, 27)
    assert length < 0


@given(
    st.sets(st.sampled_from(sorted(BITS))),
    proxy_headers.tlvs.map(lambda given: b"".join(tlv(*one) for one in given)),
    st.binary(max_size=80),
    st.sampled_from([SERVER, SERVER_V6]),
    st.integers(28, 2000),
)
def test_whatever_was_received_what_goes_out_is_well_formed(
    names: set[str], received: bytes, authority: bytes, to: tuple[bytes, bytes], room: int
) -> None:
    said = {"received": received, "authority": authority}
    length, data = probe.proxy_send((2, sum(BITS[name] for name in names), b""), CLIENT, to, said, room)
    if length > 0:
        header = parse(data[:length], "v2")
        assert header.length == length <= room
        assert header.crc32c == ("crc32c" in names)
    assert data[room:] == b"\xaa" * 16
