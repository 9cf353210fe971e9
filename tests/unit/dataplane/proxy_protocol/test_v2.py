"""Version 2 to the letter: each rule of proxy-protocol.txt 2.2 and its subsections, and what breaks it."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.support import proxy_twin
from tests.support.proxy_headers import BLOCKS, UNIX, V4, V6, native, refusal, refused_at, seen, tlv, v2
from tests.support.proxy_twin import SIGNATURE, Seen


def test_the_signature_holds_a_zero_byte_and_each_of_its_bytes_counts() -> None:
    header = v2(0x11, V4)
    for at in range(12):
        wrong = header[:at] + bytes([header[at] ^ 1]) + header[at + 1 :]
        assert refused_at(wrong, "v2") == ("bad_signature", at + 1)


@pytest.mark.parametrize("version", [v for v in range(16) if v != 2])
def test_other_versions_are_refused(version: int) -> None:
    assert refused_at(v2(0x11, V4, version_command=version << 4 | 1)) == ("bad_version", 13)


@pytest.mark.parametrize("command", range(2, 16))
def test_other_commands_are_refused(command: int) -> None:
    assert refused_at(v2(0x11, V4, version_command=0x20 | command)) == ("bad_command", 13)


@pytest.mark.parametrize("family", range(4, 16))
def test_other_families_are_refused(family: int) -> None:
    assert refused_at(v2(family << 4 | 1, bytes(300))) == ("bad_family", 14)


@pytest.mark.parametrize("transport", range(3, 16))
def test_other_transports_are_refused(transport: int) -> None:
    assert refused_at(v2(0x10 | transport, bytes(300))) == ("bad_transport", 14)


@pytest.mark.parametrize("transport", [1, 2])
@pytest.mark.parametrize(
    ("family", "source", "destination"),
    [
        (1, socket.inet_aton("192.0.2.1"), socket.inet_aton("198.51.100.7")),
        (2, socket.inet_pton(socket.AF_INET6, "2001:db8::1"), socket.inet_pton(socket.AF_INET6, "2001:db8::7")),
        (3, UNIX[:108], UNIX[108:]),
    ],
)
def test_addresses_of_every_family(family: int, transport: int, source: bytes, destination: bytes) -> None:
    """In the order source, destination, ports; all in network order."""
    ports = (0, 0) if family == 3 else (40000, 443)
    header = v2(family << 4 | transport, BLOCKS[family])
    expected = Seen(len(header), 2, 1, family, transport, (source, ports[0]), (destination, ports[1]))
    assert seen(header + b"payload") == expected


@pytest.mark.parametrize(("family", "size"), [(1, 12), (2, 36), (3, 216)])
def test_a_length_without_room_for_the_addresses_is_malformed(family: int, size: int) -> None:
    assert len(BLOCKS[family]) == size
    for length in range(size):
        assert refused_at(v2(family << 4 | 1, bytes(300), length=length)) == ("too_short", 16)
    assert isinstance(seen(v2(family << 4 | 1, bytes(300), length=size)), Seen)


def test_exactly_the_length_is_skipped() -> None:
    header = v2(0x11, V4 + tlv(0x04, bytes(500)))
    assert seen(header + b"payload").length == 16 + 12 + 503


@pytest.mark.parametrize("kind", [0x00, 0x11, 0x22, 0x31, 0x99, 0xFF])
@pytest.mark.parametrize("block", [b"", b"\1", V4, b"\3\0\4\0\0\0\0", b"\x20\0\0", bytes(300), b"\xff" * 4080])
def test_local_is_accepted_and_its_block_skipped_whatever_it_holds(kind: int, block: bytes) -> None:
    """The command LOCAL: MUST be accepted; the block is discarded with its family; zero length is not assumed."""
    header = v2(kind, block, version_command=0x20)
    assert seen(header + b"payload") == Seen(len(header), 2, command=0)
    if block:
        assert native(header[:-1]) == "need_more"


@pytest.mark.parametrize("kind", [0x00, 0x01, 0x02, 0x10, 0x20, 0x30])
@pytest.mark.parametrize("block", [b"", b"\1", b"\1\2\3\4", V4, V6, UNIX, b"\xff" * 17])
def test_unspec_names_nobody_and_its_addresses_are_ignored(kind: int, block: bytes) -> None:
    """0x00 is the one that MUST be known; the other halves of UNSPEC fall back to it."""
    header = v2(kind, block)
    found = seen(header + b"payload")
    assert (found.length, found.family, found.source) == (len(header), 0, (b"", 0))


def test_unspec_with_tlvs_has_them_and_their_checksum() -> None:
    """HAProxy sends these for clients without an IP address."""
    header = proxy_twin.v2_header((1, 0, 0), (b"", 0), (b"", 0), [(0x05, b"id")], with_crc32c=True)
    assert seen(header).tlvs[0] == (0x05, b"id")
    assert refusal(header[:-1] + bytes([header[-1] ^ 1])) == "crc_mismatch"


def test_more_than_4096_bytes_are_refused_when_the_length_says_so() -> None:
    fill = tlv(0x04, bytes(4080 - 15))
    assert seen(v2(0x11, V4 + fill)).length == 4096
    assert refused_at(v2(0x11, V4, length=4081)) == ("too_large", 16)
    assert refused_at(v2(0x11, V4, length=4096)) == ("too_large", 15)
    assert refused_at(v2(0x11, V4, length=65535)) == ("too_large", 15)
    assert refused_at(v2(0x00, b"", version_command=0x20, length=65535)) == ("too_large", 15)


@pytest.mark.parametrize("family", [1, 2, 3])
def test_no_address_is_read_before_its_whole_block_is_here(family: int) -> None:
    header = v2(family << 4 | 1, BLOCKS[family])
    for length in range(len(header)):
        assert native(header[:length]) == "need_more"


# ---- TLVs, 2.2.1 to 2.2.8 ----


def test_every_tlv_is_walked_known_or_not() -> None:
    """2.2: types that are not known may be skipped; 2.2.8: the ranges for applications, experiments and the future."""
    given = [(type_, bytes([type_])) for type_ in range(256) if type_ not in (0x03, 0x20)]
    header = v2(0x11, V4 + b"".join(tlv(*one) for one in given))
    assert seen(header).tlvs == given


@pytest.mark.parametrize("block", [b"\x01", b"\x01\0", b"\x02\0\1", b"\x02\0\2a", b"\x04\0\0\x04\0", b"\xea\xff\xff"])
def test_tlvs_end_where_the_header_does(block: bytes) -> None:
    header = v2(0x11, V4 + block)
    reason, length = refused_at(header + bytes(100))
    assert reason == "tlv_overrun"
    assert length <= len(header)
    assert refusal(header) == "tlv_overrun"


def test_an_overrun_is_refused_before_the_rest_has_come() -> None:
    """As early as possible: with the TLV's own length."""
    assert refused_at(v2(0x11, V4 + tlv(0xEA, b"", length=4000) + bytes(3000))) == ("tlv_overrun", 31)


def test_tlvs_of_clouds() -> None:
    """AWS puts the id of a VPC endpoint in 0xEA, Azure that of a private link in 0xEE."""
    aws, azure = b"\x01vpce-08d2bf15fac5001c9", b"\x01\xd3\x72\x00\x01"
    assert seen(v2(0x11, V4 + tlv(0xEA, aws) + tlv(0xEE, azure))).tlvs == [(0xEA, aws), (0xEE, azure)]


@pytest.mark.parametrize("size", [0, 1, 3, 5, 8])
def test_a_checksum_has_four_bytes(size: int) -> None:
    assert refusal(v2(0x11, V4 + tlv(0x03, bytes(size)))) == "bad_tlv"


def test_a_checksum_that_is_right_is_accepted_wherever_it_stands() -> None:
    """2.2.3: over the whole header, its own four bytes as zeros; the vector below is worked out by hand in the twin."""
    for before, after in [
        (b"", b""),
        (tlv(0x02, b"a.example"), b""),
        (b"", tlv(0x04, b"")),
        (tlv(4, b"x"), tlv(5, b"y")),
    ]:
        blank = v2(0x11, V4 + before + tlv(0x03, bytes(4)) + after)
        at = 16 + 12 + len(before) + 3
        header = blank[:at] + struct.pack("!I", proxy_twin.crc32c(blank)) + blank[at + 4 :]
        assert seen(header + b"payload").length == len(header)


def test_any_changed_bit_breaks_the_checksum() -> None:
    """2.2.3: a mismatch MUST be treated as invalid. (A bit of a TLV's type or length may hide the checksum itself.)"""
    header = proxy_twin.v2_header((1, 1, 1), (V4[:4], 40000), (V4[4:8], 443), [(0x02, b"a.example")], True)
    assert isinstance(seen(header), Seen)
    end = len(header)
    for at in [*range(16, 28), *range(31, 40), *range(end - 4, end)]:
        for bit in range(8):
            wrong = header[:at] + bytes([header[at] ^ 1 << bit]) + header[at + 1 :]
            assert refused_at(wrong + b"payload") == ("crc_mismatch", end)


def test_one_checksum_at_most() -> None:
    two = tlv(0x03, bytes(4)) * 2
    assert refusal(v2(0x11, V4 + two)) == "bad_tlv"


def test_a_unique_id_has_128_bytes_at_most() -> None:
    """2.2.5."""
    assert seen(v2(0x11, V4 + tlv(0x05, bytes(128)))).tlvs == [(0x05, bytes(128))]
    assert refused_at(v2(0x11, V4 + tlv(0x05, bytes(129)))) == ("bad_tlv", 31)


@pytest.mark.parametrize("size", [0, 1, 2, 300])
def test_padding_is_ignored(size: int) -> None:
    """2.2.4: a NOOP of any length, three bytes in all at least."""
    assert seen(v2(0x11, V4 + tlv(0x04, bytes(size)) + tlv(0x01, b"h2"))).tlvs[1] == (0x01, b"h2")


def test_an_ssl_tlv_holds_tlvs() -> None:
    """2.2.6: client, verify, then TLVs to its end."""
    value = b"\x07" + bytes(4) + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"client") + tlv(0x28, bytes(700))
    assert seen(v2(0x11, V4 + tlv(0x20, value))).tlvs == [(0x20, value)]
    assert isinstance(seen(v2(0x11, V4 + tlv(0x20, bytes(5)))), Seen)


@pytest.mark.parametrize("size", range(5))
def test_an_ssl_tlv_has_its_fixed_part(size: int) -> None:
    assert refusal(v2(0x11, V4 + tlv(0x20, bytes(size)))) == "bad_tlv"


@pytest.mark.parametrize("inner", [b"\x21", b"\x21\0", b"\x21\0\1", b"\x21\0\0\x22", b"\x21\0\xff" + bytes(20)])
def test_what_an_ssl_tlv_holds_ends_where_it_does(inner: bytes) -> None:
    header = v2(0x11, V4 + tlv(0x20, bytes(5) + inner) + tlv(0x04, bytes(300)))
    assert refusal(header) == "tlv_overrun"


def test_only_the_signature_of_version_2_leads_there() -> None:
    assert SIGNATURE == b"\r\n\r\n\0\r\nQUIT\n"
    assert refusal(SIGNATURE + b"\x31", "any") == "bad_version"
