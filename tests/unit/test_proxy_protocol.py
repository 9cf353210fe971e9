"""The typed face of the codec, for scripts."""

from __future__ import annotations

import doctest
import socket
from socket import AF_INET, AF_INET6, AF_UNIX

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb import proxy_protocol
from l4lb.errors import L4lbError
from l4lb.model.address import SocketAddress
from l4lb.proxy_protocol import (
    MEANING,
    ONE_SEGMENT_BYTES,
    Accept,
    Command,
    Header,
    NeedMore,
    ProxyHeaderError,
    Reason,
    Ssl,
    Transport,
    Type,
    build,
    parse,
)  # fmt: skip
from tests.support.proxy_headers import V4, damaged, ports, tlv, tlvs, v2

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")
CLIENT = SocketAddress(AF_INET, "192.0.2.1", 40000)
SERVER = SocketAddress(AF_INET, "198.51.100.7", 443)
SERVER_V6 = SocketAddress(AF_INET6, "2001:db8::7", 443)


def ip_addresses(family: int) -> st.SearchStrategy[SocketAddress]:
    size = 4 if family == AF_INET else 16
    packed = st.binary(min_size=size, max_size=size)
    return st.builds(lambda host, port: SocketAddress(family, socket.inet_ntop(family, host), port), packed, ports)


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=26)
unix_addresses = st.one_of(
    st.just(SocketAddress(AF_UNIX, "")),
    names.map(lambda name: SocketAddress(AF_UNIX, f"/{name}")),
    names.map(lambda name: SocketAddress(AF_UNIX, f"@a{name}")),
)
pairs = st.one_of(
    *(st.tuples(one, one) for one in (ip_addresses(AF_INET), ip_addresses(AF_INET6), unix_addresses)),
)
headers = st.one_of(
    st.builds(
        lambda pair, transport, given_tlvs, crc32c: Header(
            transport=transport, source=pair[0], destination=pair[1], tlvs=tuple(given_tlvs), crc32c=crc32c
        ),
        pairs,
        st.sampled_from([Transport.STREAM, Transport.DGRAM]),
        tlvs,
        st.booleans(),
    ),
    st.builds(lambda given_tlvs, crc32c: Header(tlvs=tuple(given_tlvs), crc32c=crc32c), tlvs, st.booleans()),
    st.just(Header(command=Command.LOCAL)),
    st.just(Header(version=1)),
    st.one_of(*(st.tuples(one, one) for one in (ip_addresses(AF_INET), ip_addresses(AF_INET6)))).map(
        lambda pair: Header(version=1, source=pair[0], destination=pair[1])
    ),
)


@given(headers, st.binary(max_size=10))
def test_what_is_built_is_parsed_again(header: Header, payload: bytes) -> None:
    data = build(header)
    parsed = parse(data + payload)
    assert parsed == header
    assert parsed.length == len(data)
    assert parse(data, f"v{header.version}") == header
    for length in range(len(data)):
        with pytest.raises(NeedMore):
            parse(data[:length])


@given(damaged())
def test_any_bytes_are_a_header_or_one_of_two_errors(data: bytes) -> None:
    try:
        header = parse(data)
    except (NeedMore, ProxyHeaderError):
        return
    assert 0 < header.length <= len(data)


def test_both_errors_are_of_the_product() -> None:
    assert issubclass(NeedMore, L4lbError)
    assert issubclass(ProxyHeaderError, L4lbError)


def test_reasons_are_those_of_the_native_enum() -> None:
    """Complete and need-more come before them."""
    assert 2 + len(Reason) == probe.PROXY_RESULTS
    assert set(MEANING) == set(Reason)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", Reason.BAD_SIGNATURE),
        (b"PROXY UDP4 ", Reason.BAD_PROTOCOL),
        (b"PROXY TCP4 1.2.3.4.5", Reason.BAD_ADDRESS),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 070", Reason.BAD_PORT),
        (b"PROXY UNKNOWN\n", Reason.BAD_LINE_END),
        (b"PROXY UNKNOWN " + bytes(100), Reason.LINE_TOO_LONG),
        (v2(0x11, V4, version_command=0x11), Reason.BAD_VERSION),
        (v2(0x11, V4, version_command=0x22), Reason.BAD_COMMAND),
        (v2(0x41, V4), Reason.BAD_FAMILY),
        (v2(0x13, V4), Reason.BAD_TRANSPORT),
        (v2(0x11, V4, length=5000), Reason.TOO_LARGE),
        (v2(0x21, V4), Reason.TOO_SHORT),
        (v2(0x11, V4 + b"\4\0\7"), Reason.TLV_OVERRUN),
        (v2(0x11, V4 + tlv(5, bytes(129))), Reason.BAD_TLV),
        (v2(0x11, V4 + tlv(3, bytes(4))), Reason.CRC_MISMATCH),
    ],
)
def test_every_reason(data: bytes, reason: Reason) -> None:
    with pytest.raises(ProxyHeaderError, match=f"{reason}: ") as caught:
        parse(data)
    assert caught.value.reason is reason


def test_a_datagram_is_whole() -> None:
    header = Header(transport=Transport.DGRAM, source=CLIENT, destination=SERVER)
    assert parse(build(header) + b"payload", datagram=True) == header
    with pytest.raises(ProxyHeaderError) as caught:
        parse(build(header)[:-1], datagram=True)
    assert caught.value.reason is Reason.TRUNCATED


def test_which_versions_are_accepted() -> None:
    line, binary = build(Header(version=1)), build(Header())
    for data, wrong in [(line, Accept.V2), (binary, Accept.V1)]:
        with pytest.raises(ProxyHeaderError, match="bad_signature"):
            parse(data, wrong)
        assert parse(data, Accept.ANY) == parse(data, "any")
    assert parse(b"GET /", "off").length == 0
    with pytest.raises(ValueError, match="v3"):
        parse(line, "v3")


@pytest.mark.parametrize(("source", "destination"), [(CLIENT, SERVER_V6), (SERVER_V6, CLIENT)])
@pytest.mark.parametrize("version", [1, 2])
def test_two_families_become_ipv6(source: SocketAddress, destination: SocketAddress, version: int) -> None:
    """4.2: IPv4 and IPv6 integration."""
    parsed = parse(build(Header(version=version, source=source, destination=destination)))
    mapped = SocketAddress(AF_INET6, "::ffff:192.0.2.1", 40000)
    expected = [mapped if one is CLIENT else one for one in (source, destination)]
    assert [parsed.source, parsed.destination] == expected


def test_the_known_tlvs_by_name() -> None:
    ssl = Ssl(client=7, verify=0, tlvs=((Type.SSL_VERSION, b"TLSv1.3"), (Type.SSL_CN, b"client")))
    given_tlvs = (
        (Type.ALPN, b"h2"), (Type.AUTHORITY, b"a.example"), (Type.AUTHORITY, b"second"), (Type.UNIQUE_ID, b"\0id"),
        (Type.NETNS, b"blue"), (Type.SSL, ssl.pack()), (0xE4, b"own"),
    )  # fmt: skip
    parsed = parse(build(Header(source=CLIENT, destination=SERVER, tlvs=given_tlvs, crc32c=True)))
    assert (parsed.alpn, parsed.authority, parsed.unique_id, parsed.netns) == (b"h2", "a.example", b"\0id", "blue")
    assert (parsed.ssl, parsed.value(0xE4), parsed.value(0xE5), parsed.crc32c) == (ssl, b"own", None, True)
    assert parsed.tlvs == given_tlvs
    plain = parse(build(Header(source=CLIENT, destination=SERVER)))
    assert (plain.alpn, plain.authority, plain.unique_id, plain.netns, plain.ssl) == (None,) * 5


def test_what_fits_any_path_in_one_piece() -> None:
    """2: with up to 536 bytes it arrives at once: that of unix sockets with an id, a name and a checksum still does."""
    unix = SocketAddress(AF_UNIX, "/" + "x" * 107)
    tlvs_of_a_session = ((Type.UNIQUE_ID, bytes(128)), (Type.AUTHORITY, b"a" * 163))
    header = Header(source=unix, destination=unix, tlvs=tlvs_of_a_session, crc32c=True)
    assert len(build(header, max_bytes=ONE_SEGMENT_BYTES)) == 536
    more = Header(source=unix, destination=unix, tlvs=(*tlvs_of_a_session, (Type.NOOP, b"")), crc32c=True)
    with pytest.raises(BufferError):
        build(more, max_bytes=ONE_SEGMENT_BYTES)


def test_what_no_header_can_say() -> None:
    with pytest.raises(ValueError, match="both endpoints or none"):
        Header(source=CLIENT)
    with pytest.raises(ValueError, match="LOCAL"):
        Header(command=Command.LOCAL, source=CLIENT, destination=SERVER)
    unix = SocketAddress(AF_UNIX, "/run/x")
    wrong = [
        (Header(version=3), "version 1 or 2"),
        (Header(source=CLIENT, destination=unix), "unix"),
        (Header(source=CLIENT, destination=SERVER, transport=Transport.UNSPEC), "transport"),
        (Header(version=1, tlvs=((Type.NOOP, b""),)), "version 2"),
        (Header(command=Command.LOCAL, crc32c=True), "LOCAL"),
        (Header(command=Command.LOCAL, tlvs=((Type.NOOP, b""),)), "LOCAL"),
        (Header(tlvs=((Type.UNIQUE_ID, bytes(129)),)), "128"),
        (Header(tlvs=((Type.CRC32C, bytes(4)),)), "computed"),
        (Header(tlvs=((Type.SSL, bytes(4)),)), "SSL"),
        (Header(tlvs=((Type.SSL, bytes(5)), (Type.SSL, bytes(4)))), "SSL"),
        (Header(tlvs=((256, b""),)), "0 to 255"),
        (Header(source=SocketAddress(AF_INET, "192.0.2.1", 65536), destination=SERVER), "65536"),
        (Header(source=SocketAddress(AF_INET, "2001:db8::1", 1), destination=SERVER), "2001:db8::1"),
        (Header(source=unix, destination=SocketAddress(AF_UNIX, "/" * 109)), "108"),
        (Header(tlvs=((Type.SSL, bytes(6)),)), "SSL"),
    ]
    for header, message in wrong:
        with pytest.raises(ValueError, match=message):
            build(header)
    with pytest.raises(BufferError, match="more than 20 bytes"):
        build(Header(source=CLIENT, destination=SERVER), max_bytes=20)


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(proxy_protocol).failed == 0
