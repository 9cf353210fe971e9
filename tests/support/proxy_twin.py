"""The PROXY protocol in Python, written from its document: the oracle of the native codec.

Slow and plain on purpose. It judges a piece of any length: complete, in need of more, or refused for a reason.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
MAX_BYTES = 4096
ADDRESS_BYTES = {1: 4, 2: 16, 3: 108}


class Refused(Exception):
    pass


class More(Exception):
    pass


@dataclass(frozen=True)
class Seen:
    """What a complete header says, in the numbers of the wire; family 0 names nobody."""

    length: int
    version: int
    command: int = 1
    family: int = 0
    transport: int = 0
    source: tuple[bytes, int] = (b"", 0)
    destination: tuple[bytes, int] = (b"", 0)
    tlvs: list[tuple[int, bytes]] = field(default_factory=list)


def judge(data: bytes, accept: str = "any") -> Seen | str:
    """`Seen`, ``need_more`` or the reason of a refusal."""
    try:
        if not data:
            raise More
        if accept == "v1" or (accept == "any" and data.startswith(b"P")):
            return _v1(data)
        return _v2(data)
    except More:
        return "need_more"
    except Refused as refused:
        return str(refused)


# ---- version 1, PROXY 2.1 ----


def _v1(data: bytes) -> Seen:
    """The CRLF is within the first 107 bytes, so byte 106 is its CR at the latest."""
    if len(data) <= 105:
        return _line(data)
    try:
        return _line(data[:105])
    except More:
        if data[105:106] != b"\r":
            raise Refused("line_too_long") from None
    return _line(data[:107])


def _line(data: bytes) -> Seen:
    if data[:6] != b"PROXY "[: len(data)]:
        raise Refused("bad_signature")
    rest = data[6:]
    for word in (b"TCP4 ", b"TCP6 ", b"UNKNOWN"):
        if rest.startswith(word):
            return _unknown(data) if word == b"UNKNOWN" else _tcp(data, int(word[3:4]))
        if word.startswith(rest):
            raise More
    raise Refused("bad_protocol")


def _unknown(data: bytes) -> Seen:
    after = data[13:14]
    if not after:
        raise More
    if after not in b" \r\n":
        raise Refused("bad_protocol")
    end = re.search(rb"[\r\n]", data[13:])
    if end is None:
        raise More
    return Seen(_line_end(data, 13 + end.start()), version=1)


def _line_end(data: bytes, at: int) -> int:
    """The line's length when its CRLF is at `at`."""
    ending = data[at : at + 2]
    if ending == b"\r\n":
        return at + 2
    if ending in (b"", b"\r"):
        raise More
    raise Refused("bad_line_end")


def _tcp(data: bytes, version: int) -> Seen:
    source, at = _address(data, 11, version)
    destination, at = _address(data, at, version)
    source_port, at = _port(data, at)
    if data[at : at + 1] != b" ":
        raise Refused("bad_port")
    destination_port, at = _port(data, at + 1)
    if data[at : at + 1] not in b"\r\n":
        raise Refused("bad_port")
    family = 1 if version == 4 else 2
    return Seen(_line_end(data, at), 1, 1, family, 1, (source, source_port), (destination, destination_port))


def _ip(text: str, version: int) -> bytes | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return ip.packed if ip.version == version and "%" not in text else None


# Ends that make a whole address of any beginning of one.
_ENDS = sorted({first + more * count for first in ("", "0", ":", "::") for more in (":0", ".0") for count in range(8)})


def _address(data: bytes, at: int, version: int) -> tuple[bytes, int]:
    """The address at `at`, and where what follows its space begins."""
    text, space, _ = data[at:].partition(b" ")
    written = text.decode("latin-1")
    if not space:
        if any(_ip(written + end, version) for end in _ENDS):
            raise More
        raise Refused("bad_address")
    packed = _ip(written, version)
    if packed is None:
        raise Refused("bad_address")
    return packed, at + len(text) + 1


def _port(data: bytes, at: int) -> tuple[int, int]:
    """The port at `at`, which something ends, and where that is."""
    found = re.match(rb"[0-9]*", data[at:])
    assert found is not None
    digits = found[0]
    if digits and (int(digits) > 65535 or str(int(digits)).encode() != digits):
        raise Refused("bad_port")
    if at + len(digits) == len(data):
        raise More
    if not digits:
        raise Refused("bad_port")
    return int(digits), at + len(digits)


# ---- version 2, PROXY 2.2 ----


def _v2(data: bytes) -> Seen:
    if data[:12] != SIGNATURE[: len(data)]:
        raise Refused("bad_signature")
    command, family, transport = _kind(data)
    if int.from_bytes(data[14:16].ljust(2, b"\0"), "big") > MAX_BYTES - 16:
        raise Refused("too_large")
    if len(data) < 16:
        raise More
    total = 16 + int.from_bytes(data[14:16], "big")
    if command == 0:
        if len(data) < total:
            raise More
        return Seen(total, 2, command=0)
    if family and transport:
        return _named(data, total, family, transport)
    return _unspecified(data, total)


def _kind(data: bytes) -> tuple[int, int, int]:
    """Command, family, transport; 0 for what has not come."""
    version_command = data[12] if len(data) > 12 else 0x21
    kind = data[13] if len(data) > 13 else 0
    if version_command >> 4 != 2:
        raise Refused("bad_version")
    command = version_command & 0xF
    if command > 1:
        raise Refused("bad_command")
    if command == 1 and kind >> 4 > 3:
        raise Refused("bad_family")
    if command == 1 and kind & 0xF > 2:
        raise Refused("bad_transport")
    return command, kind >> 4, kind & 0xF


def _named(data: bytes, total: int, family: int, transport: int) -> Seen:
    size = ADDRESS_BYTES[family]
    ports = 0 if family == 3 else 4
    if total - 16 < 2 * size + ports:
        raise Refused("too_short")
    tlvs = list(_tlvs(data[:total], 16 + 2 * size + ports, total))
    _arrived_and_checked(data, total, tlvs)
    source_port, destination_port = struct.unpack("!HH", data[16 + 2 * size :][:4]) if ports else (0, 0)
    source = data[16 : 16 + size], source_port
    destination = data[16 + size : 16 + 2 * size], destination_port
    return Seen(total, 2, 1, family, transport, source, destination, [(type_, value) for type_, _, value in tlvs])


def _unspecified(data: bytes, total: int) -> Seen:
    """What follows is of no known format, unless all of it is TLVs."""
    if len(data) < total:
        raise More
    try:
        tlvs = list(_tlvs(data[:total], 16, total))
    except Refused:
        tlvs = []
    _arrived_and_checked(data, total, tlvs)
    return Seen(total, 2, tlvs=[(type_, value) for type_, _, value in tlvs])


def _raw_tlvs(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(type, where its value begins, where it ends) up to `end`, of which only `data` is here."""
    while at != end:
        if at + 3 > end:
            raise Refused("tlv_overrun")
        if len(data) < at + 3:
            raise More
        type_, length = struct.unpack("!BH", data[at : at + 3])
        if at + 3 + length > end:
            raise Refused("tlv_overrun")
        yield type_, at + 3, at + 3 + length
        at += 3 + length


def _tlvs(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """(type, where its value begins, the value) of well-formed TLVs."""
    checksums = 0
    for type_, begin, stop in _raw_tlvs(data, at, end):
        checksums += type_ == 0x03
        wrong = {0x03: stop - begin != 4 or checksums > 1, 0x05: stop - begin > 128, 0x20: stop - begin < 5}
        if wrong.get(type_):
            raise Refused("bad_tlv")
        if type_ == 0x20:
            for _ in _raw_tlvs(data, begin + 5, stop):
                pass
        yield type_, begin, data[begin:stop]


def _arrived_and_checked(data: bytes, total: int, tlvs: list[tuple[int, int, bytes]]) -> None:
    if len(data) < total:
        raise More
    for type_, begin, value in tlvs:
        if type_ == 0x03 and crc32c(data[:begin] + bytes(4) + data[begin + 4 : total]) != int.from_bytes(value, "big"):
            raise Refused("crc_mismatch")


def crc32c(data: bytes) -> int:
    """RFC 4960, appendix B, a bit at a time."""
    register = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            odd = (register ^ (byte >> bit)) & 1
            register = (register >> 1) ^ (0x82F63B78 if odd else 0)
    return register ^ 0xFFFFFFFF


# ---- writing ----


def v1_line(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    """Of two IP addresses, of one family or two."""
    ips = [ipaddress.ip_address(text) for text in (source, destination)]
    version = 4 if all(ip.version == 4 for ip in ips) else 6
    texts = [str(ip) if version == 4 else v6_text(ip) for ip in ips]
    return f"PROXY TCP{version} {texts[0]} {texts[1]} {source_port} {destination_port}\r\n".encode()


def v6_text(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """RFC 5952 section 4, in hexadecimal only: the first of the longest runs of zeros is left out."""
    packed = ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
    text = ":".join(f"{word:x}" for word in struct.unpack("!8H", packed))
    runs = sorted(re.findall(r"(?:(?<=:)|^)0(?::0)+(?=:|$)", text), key=len)
    if not runs:
        return text
    head, _, tail = f":{text}:".partition(f":{runs[-1]}:")
    return f"{head[1:]}::{tail[:-1]}"


def v2_header(
    kind: tuple[int, int, int],
    source: tuple[bytes, int],
    destination: tuple[bytes, int],
    tlvs: list[tuple[int, bytes]],
    with_crc32c: bool = False,
) -> bytes:
    """`kind` is (command, family, transport); the checksum comes last."""
    command, family, transport = kind
    block = b""
    if family:
        block = source[0].ljust(ADDRESS_BYTES[family], b"\0") + destination[0].ljust(ADDRESS_BYTES[family], b"\0")
        block += b"" if family == 3 else struct.pack("!HH", source[1], destination[1])
    block += b"".join(struct.pack("!BH", type_, len(value)) + value for type_, value in tlvs)
    block += b"\x03\x00\x04\x00\x00\x00\x00" if with_crc32c else b""
    header = SIGNATURE + struct.pack("!BBH", 0x20 | command, family << 4 | transport, len(block)) + block
    return header[:-4] + struct.pack("!I", crc32c(header)) if with_crc32c else header
