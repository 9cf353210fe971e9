"""Headers as they are sent: the bytes of the twin, and what received ones pass on. Sections: proxy-protocol.txt."""

from __future__ import annotations

import errno
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb._native import algorithms
from tests.support import proxy_twin
from tests.support.proxy_headers import V4, native, ports, seen, tlv, tlvs, v2, v6_addresses
from tests.support.proxy_twin import Seen

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")
ips = st.one_of(st.ip_addresses(v=4), v6_addresses)
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
NOBODY = (b"", 0)


def line(source: tuple[bytes, int], destination: tuple[bytes, int], kind: tuple[int, int, int] = (1, 1, 1)) -> bytes:
    return algorithms.proxy_build((1, *kind), source, destination, [], False, 107)


@given(ips, ips, ports, ports)
def test_lines_of_version_1(source: Ip, destination: Ip, source_port: int, destination_port: int) -> None:
    """2.1; of two families the IPv4 side is written as a v4-mapped IPv6 address."""
    built = line((source.packed, source_port), (destination.packed, destination_port))
    assert built == proxy_twin.v1_line(str(source), str(destination), source_port, destination_port)
    assert seen(built).length == len(built)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("::", "::"), ("::1", "::1"), ("1::", "1::"), ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"), ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("::ffff:192.0.2.1", "::ffff:c000:201"), ("ABCD::0EF0", "abcd::ef0"), ("0:0:1::", "0:0:1::"),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ],
)  # fmt: skip
def test_v6_addresses_are_written_in_their_canonical_form(address: str, text: str) -> None:
    """RFC 5952 section 4; in hexadecimal only, for 2.1 knows nothing else."""
    packed = ipaddress.IPv6Address(address).packed
    assert line((packed, 1), (packed, 2)) == f"PROXY TCP6 {text} {text} 1 2\r\n".encode()


@pytest.mark.parametrize("kind", [(0, 0, 0), (1, 0, 0), (1, 3, 1), (1, 1, 2), (1, 2, 2)])
def test_what_a_line_cannot_say_is_unknown(kind: tuple[int, int, int]) -> None:
    """2.1: other protocols and families, and LOCAL; there is no UDP in version 1."""
    endpoint = {0: NOBODY, 1: (V4[:4], 1), 2: (bytes(16), 1), 3: (b"/run/x", 0)}[kind[1]]
    assert line(endpoint, endpoint, kind) == b"PROXY UNKNOWN\r\n"


named = st.sampled_from([1, 2, 3]).flatmap(
    lambda family: st.tuples(
        st.just(family),
        *[
            st.tuples(st.binary(min_size=size, max_size=size), st.just(0) if family == 3 else ports)
            for size in [proxy_twin.ADDRESS_BYTES[family]] * 2
        ],
    )
)
nobody = st.just((0, NOBODY, NOBODY))


@given(st.one_of(named, nobody), st.sampled_from([1, 2]), tlvs, st.booleans())
def test_headers_of_version_2(
    endpoints: tuple[int, tuple[bytes, int], tuple[bytes, int]],
    transport: int,
    given_tlvs: list[tuple[int, bytes]],
    with_crc32c: bool,
) -> None:
    """2.2; the checksum is that of the finished header, 2.2.3."""
    family, source, destination = endpoints
    kind = (1, family, transport if family else 0)
    built = algorithms.proxy_build((2, *kind), source, destination, given_tlvs, with_crc32c, 4096)
    assert built == proxy_twin.v2_header(kind, source, destination, given_tlvs, with_crc32c)
    found = seen(built + b"payload")
    checksum = [(0x03, built[-4:])] if with_crc32c else []
    assert found == Seen(len(built), 2, *kind, source, destination, given_tlvs + checksum)


def test_a_unix_path_is_padded_with_zeros() -> None:
    built = algorithms.proxy_build((2, 1, 3, 1), (b"/a", 0), (b"\0abstract", 0), [], False, 536)
    assert built == v2(0x31, b"/a".ljust(108, b"\0") + b"\0abstract".ljust(108, b"\0"))
    with pytest.raises(ValueError, match="108"):
        algorithms.proxy_build((2, 1, 3, 1), (b"/" * 109, 0), (b"", 0), [], False, 536)


def test_local_has_no_block() -> None:
    """2.2: the sender SHOULD set the length to 0, and the family to UNSPEC."""
    assert algorithms.proxy_build((2, 0, 0, 0), NOBODY, NOBODY, [], False, 16) == v2(0, version_command=0x20)
    assert algorithms.proxy_build((2, 0, 0, 0), NOBODY, NOBODY, [(5, b"id")], True, 16) == v2(0, version_command=0x20)


def test_what_tlvs_cannot_be() -> None:
    four = (V4[:4], 1)
    for version, given_tlvs in [(2, [(0x05, bytes(129))]), (2, [(0x03, bytes(4))]), (1, [(0x02, b"a")])]:
        with pytest.raises(ValueError, match="128 bytes"):
            algorithms.proxy_build((version, 1, 1, 1), four, four, given_tlvs, False, 4096)
    with pytest.raises(ValueError, match="TLVs need"):
        algorithms.proxy_build((1, 1, 1, 1), four, four, [], True, 107)


@pytest.mark.parametrize("version", [1, 2])
def test_a_buffer_that_is_too_small_by_any_amount(version: int) -> None:
    four = (V4[:4], 1)
    given_tlvs = [(0x02, b"a.example"), (0xE4, b"x" * 20)] if version == 2 else []
    whole = algorithms.proxy_build((version, 1, 1, 1), four, four, given_tlvs, version == 2, 536)
    for capacity in range(len(whole)):
        with pytest.raises(BufferError, match=f"more than {capacity} bytes"):
            algorithms.proxy_build((version, 1, 1, 1), four, four, given_tlvs, version == 2, capacity)
    fits = algorithms.proxy_build((version, 1, 1, 1), four, four, given_tlvs, version == 2, len(whole))
    assert fits == whole


def test_the_length_field_bounds_what_any_buffer_takes() -> None:
    four = (V4[:4], 1)
    largest = [(0xE0, bytes(65535 - 12 - 3))]
    assert len(algorithms.proxy_build((2, 1, 1, 1), four, four, largest, False, 200_000)) == 65551
    for more in ([(0xE0, bytes(65536 - 12 - 3))], [(0xE0, bytes(65536))], [*largest, (0xE0, b"")]):
        with pytest.raises(BufferError):
            algorithms.proxy_build((2, 1, 1, 1), four, four, more, False, 200_000)


@given(tlvs, st.booleans(), st.booleans())
def test_received_tlvs_are_passed_on_without_padding_and_with_a_checksum_of_their_own(
    given_tlvs: list[tuple[int, bytes]], received_checksum: bool, sent_checksum: bool
) -> None:
    received = proxy_twin.v2_header((1, 1, 1), (V4[:4], 1), (V4[4:8], 2), given_tlvs, received_checksum)
    source, destination = (V4[:4], V4[8:10]), (V4[4:8], V4[10:12])
    length, out = probe.proxy_pass_on(received + b"payload", source, destination, 2, sent_checksum, 4096)
    kept = [one for one in given_tlvs if one[0] != 0x04]
    endpoints = (V4[:4], 40000), (V4[4:8], 443)
    assert out[:length] == proxy_twin.v2_header((1, 1, 2), *endpoints, kept, sent_checksum)


@given(ips, ips, ports, ports)
def test_the_endpoints_of_a_session(source: Ip, destination: Ip, source_port: int, destination_port: int) -> None:
    """v4-mapped addresses are IPv4; of two families the IPv4 side is v4-mapped (the server knows one family only)."""
    packed = [
        ip.ipv4_mapped.packed if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None else ip.packed
        for ip in (source, destination)
    ]
    family = 1 if len(packed[0]) == len(packed[1]) == 4 else 2
    if family == 2:
        packed = [one if len(one) == 16 else bytes(10) + b"\xff\xff" + one for one in packed]
    ends = [(source.packed, struct.pack("!H", source_port)), (destination.packed, struct.pack("!H", destination_port))]
    length, out = probe.proxy_pass_on(v2(0), *ends, 1, False, 536)
    expected = (packed[0], source_port), (packed[1], destination_port)
    assert out[:length] == proxy_twin.v2_header((1, family, 1), *expected, [])


def test_v4_mapped_endpoints_are_sent_as_ipv4() -> None:
    mapped = ipaddress.IPv6Address("::ffff:192.0.2.1").packed
    length, out = probe.proxy_pass_on(v2(0), (mapped, b"\0\1"), (V4[4:8], b"\0\2"), 1, False, 536)
    found = native(out[:length])
    assert isinstance(found, Seen)
    assert (found.family, found.source) == (1, (V4[:4], 1))


def test_an_endpoint_without_an_ip_address_makes_it_local() -> None:
    """Which every receiver MUST accept; UNSPEC they may refuse."""
    received = v2(0x11, V4 + tlv(0x02, b"a.example"))
    length, out = probe.proxy_pass_on(received, (b"", b"\0\0"), (V4[4:8], b"\0\1"), 1, True, 536)
    assert out[:length] == v2(0, version_command=0x20)


def test_nothing_is_written_beyond_the_buffer() -> None:
    received = v2(0x11, V4 + tlv(0x02, b"a.example"))
    ends = (V4[:4], V4[8:10]), (V4[4:8], V4[10:12])
    whole, _ = probe.proxy_pass_on(received, *ends, 1, True, 536)
    for capacity in range(whole + 1):
        length, out = probe.proxy_pass_on(received, *ends, 1, True, capacity)
        assert length == (whole if capacity == whole else -errno.ENOBUFS)
        assert out[capacity:] == b"\xaa" * 16
