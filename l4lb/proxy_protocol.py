"""PROXY protocol headers, read and written as the load balancer itself does, for scripts and tests.

Source: HAProxy's doc/proxy-protocol.txt, whose sections are cited as "PROXY 2.2". The work is done by the native codec
(`_dataplane/proxy_protocol/header.pxd`, `writer.pxd`). Pure: nothing here reads or writes a socket.

>>> header = Header(source=SocketAddress(AF_INET, "192.0.2.1", 40000),
...                 destination=SocketAddress(AF_INET, "198.51.100.1", 443))
>>> parse(build(header)) == header
True
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from socket import AF_INET, AF_INET6, AF_UNIX, AddressFamily

from l4lb._native import algorithms
from l4lb._native.headers import HeaderKind
from l4lb.errors import L4lbError
from l4lb.model.address import SocketAddress

V1_MAX_BYTES = 107  # with the CRLF, PROXY 2.1
HEADER_MAX_BYTES = 4096  # of either version, TLVs included: longer ones are refused
ONE_SEGMENT_BYTES = 536  # what any path takes in one piece, PROXY 2


class Accept(StrEnum):
    """Which versions are expected."""

    OFF = "off"
    V1 = "v1"
    V2 = "v2"
    ANY = "any"


class Command(IntEnum):
    """LOCAL: the sender's own connection, such as a health check; the socket's addresses are the real ones."""

    LOCAL = 0
    PROXY = 1


class Transport(IntEnum):
    """What the client spoke to the sender; UNSPEC when the header names nobody."""

    UNSPEC = 0
    STREAM = 1
    DGRAM = 2


class Type(IntEnum):
    """The registered types of TLVs, PROXY 2.2. 0xE0 to 0xEF are free for applications, 0xF0 to 0xF7 for experiments."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    SSL_SIG_ALG = 0x24
    SSL_KEY_ALG = 0x25
    SSL_GROUP = 0x26
    SSL_SIG_SCHEME = 0x27
    SSL_CLIENT_CERT = 0x28
    NETNS = 0x30


class Reason(StrEnum):
    """Why a header is refused. The order is the native enum's (`_dataplane/base/enums.pxd`)."""

    BAD_SIGNATURE = "bad_signature"
    BAD_PROTOCOL = "bad_protocol"
    BAD_ADDRESS = "bad_address"
    BAD_PORT = "bad_port"
    BAD_LINE_END = "bad_line_end"
    LINE_TOO_LONG = "line_too_long"
    BAD_VERSION = "bad_version"
    BAD_COMMAND = "bad_command"
    BAD_FAMILY = "bad_family"
    BAD_TRANSPORT = "bad_transport"
    TOO_LARGE = "too_large"
    TOO_SHORT = "too_short"
    TLV_OVERRUN = "tlv_overrun"
    BAD_TLV = "bad_tlv"
    CRC_MISMATCH = "crc_mismatch"
    TRUNCATED = "truncated"


MEANING = {
    Reason.BAD_SIGNATURE: "it begins no header of a version that is accepted",
    Reason.BAD_PROTOCOL: "version 1: expected TCP4, TCP6 or UNKNOWN",
    Reason.BAD_ADDRESS: "version 1: an address is not of the announced family, or not in its canonical form",
    Reason.BAD_PORT: "version 1: a port is not a decimal number from 0 to 65535 without leading zeros",
    Reason.BAD_LINE_END: "version 1: the line does not end in CRLF",
    Reason.LINE_TOO_LONG: f"version 1: no CRLF in the first {V1_MAX_BYTES} bytes",
    Reason.BAD_VERSION: "the binary signature is followed by another version than 2",
    Reason.BAD_COMMAND: "version 2: expected the command LOCAL or PROXY",
    Reason.BAD_FAMILY: "version 2: unknown address family",
    Reason.BAD_TRANSPORT: "version 2: unknown transport protocol",
    Reason.TOO_LARGE: f"version 2: more than {HEADER_MAX_BYTES} bytes",
    Reason.TOO_SHORT: "version 2: the length leaves no room for the addresses of its family",
    Reason.TLV_OVERRUN: "version 2: a TLV ends elsewhere than what contains it",
    Reason.BAD_TLV: "version 2: a TLV has a length that its type cannot have, or there are two checksums",
    Reason.CRC_MISMATCH: "version 2: the checksum is not that of the header",
    Reason.TRUNCATED: "it ends within the header",
}


class ProxyHeaderError(L4lbError):
    """The header must not be accepted. `reason` says why; abort the connection."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {MEANING[reason]}")


class NeedMore(L4lbError):
    """The header is incomplete, and valid so far."""


@dataclass(frozen=True, slots=True)
class Ssl:
    """The SSL TLV, PROXY 2.2.6.

    `client` has the bits 1 (over TLS), 2 (a certificate on this connection), 4 (one in this TLS session); `verify` is 0
    when a certificate was presented and verified; `tlvs` are the TLVs within, (type, value).
    """

    client: int
    verify: int
    tlvs: tuple[tuple[int, bytes], ...] = ()

    def pack(self) -> bytes:
        """The TLV's value."""
        return bytes([self.client]) + self.verify.to_bytes(4, "big") + b"".join(map(_packed, self.tlvs))


@dataclass(frozen=True, slots=True)
class Header:
    """A header. Without `source` and `destination` it names nobody: the socket's own addresses are the real ones.

    `tlvs` are (type, value) in order, without the checksum. `crc32c`: after parsing, a correct checksum was present;
    when building, one is added. `length` is the size of a parsed header in bytes, and is ignored by comparisons. Raises
    ValueError when it names only one endpoint, or any endpoint with LOCAL.
    """

    version: int = 2
    command: Command = Command.PROXY
    transport: Transport = Transport.STREAM
    source: SocketAddress | None = None
    destination: SocketAddress | None = None
    tlvs: tuple[tuple[int, bytes], ...] = ()
    crc32c: bool = False
    length: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if (self.source is None) != (self.destination is None):
            raise ValueError("a header names both endpoints or none")
        if self.source is None:
            object.__setattr__(self, "transport", Transport.UNSPEC)
        elif self.command is Command.LOCAL:
            raise ValueError("a LOCAL header names nobody")

    def value(self, type_: int) -> bytes | None:
        """The value of the first TLV of that type; None when there is none."""
        return next((value for found, value in self.tlvs if found == type_), None)

    @property
    def alpn(self) -> bytes | None:
        """The protocol that was agreed on (PP2_TYPE_ALPN)."""
        return self.value(Type.ALPN)

    @property
    def authority(self) -> str | None:
        """The name that the client asked for; bytes that are not UTF-8 become surrogates."""
        return _text(self.value(Type.AUTHORITY))

    @property
    def unique_id(self) -> bytes | None:
        """Of the connection, as its first proxy chose it (PP2_TYPE_UNIQUE_ID)."""
        return self.value(Type.UNIQUE_ID)

    @property
    def netns(self) -> str | None:
        """The name of the network namespace (PP2_TYPE_NETNS)."""
        return _text(self.value(Type.NETNS))

    @property
    def ssl(self) -> Ssl | None:
        """What the proxy says of the client's TLS (PP2_TYPE_SSL)."""
        value = self.value(Type.SSL)
        return None if value is None else _ssl(value)


def parse(data: bytes, accept: Accept | str = Accept.ANY, *, datagram: bool = False) -> Header:
    """The header that `data` begins with.

    `datagram`: `data` is a whole UDP datagram with header and payload; only version 2 supports that. Raises NeedMore
    when the header is incomplete, never for a datagram; ProxyHeaderError when it must be refused.
    """
    mode = list(Accept).index(Accept(accept))
    found = algorithms.proxy_parse(data, mode, datagram)
    if found.result == 1:
        raise NeedMore(f"the header is not complete in {len(data)} bytes")
    if found.result:
        raise ProxyHeaderError(list(Reason)[found.result - 2])
    return Header(
        version=found.version,
        command=Command(found.command),
        transport=Transport(found.transport),
        source=_address(found.family, found.source),
        destination=_address(found.family, found.destination),
        tlvs=tuple((type_, value) for type_, value in found.tlvs if type_ != Type.CRC32C),
        crc32c=any(type_ == Type.CRC32C for type_, _ in found.tlvs),
        length=found.length,
    )


def build(header: Header, *, max_bytes: int = HEADER_MAX_BYTES) -> bytes:
    """The header's bytes, at most `max_bytes` of them.

    A source and a destination of two IP families are written as IPv6, the IPv4 one v4-mapped. Version 1 writes UNKNOWN
    for what it cannot express (LOCAL, datagrams, unix sockets). Receivers may refuse a version 2 PROXY header that
    names nobody or unix sockets (HAProxy does); they must accept LOCAL. Raises ValueError for TLVs with version 1 or
    LOCAL, a unique id of more than 128 bytes, an invalid SSL TLV, invalid endpoints or endpoints that do not go
    together; BufferError when it does not fit.
    """
    if header.version not in (1, 2):
        raise ValueError("expected version 1 or 2")
    if header.command is Command.LOCAL and (header.tlvs or header.crc32c):
        raise ValueError("a LOCAL header has no TLVs")
    for type_, value in header.tlvs:
        if not 0 <= type_ <= 255:
            raise ValueError("a TLV has a type from 0 to 255")
        if type_ == Type.SSL:
            _ssl(value)
    family, source, destination = _endpoints(header)
    kind = HeaderKind(header.version, int(header.command), family, int(header.transport))
    return algorithms.proxy_build(kind, source, destination, list(header.tlvs), header.crc32c, max_bytes)


# The families on the wire, PROXY 2.2.
_FAMILIES = {AF_INET: 1, AF_INET6: 2, AF_UNIX: 3}
_UNIX = _FAMILIES[AF_UNIX]


def _endpoints(header: Header) -> tuple[int, tuple[bytes, int], tuple[bytes, int]]:
    source, destination = header.source, header.destination
    if source is None or destination is None:
        return 0, (b"", 0), (b"", 0)
    if (source.family == AF_UNIX) != (destination.family == AF_UNIX):
        raise ValueError("a unix socket's address goes with another one only")
    if header.transport is Transport.UNSPEC:
        raise ValueError("addresses need a transport")
    return _FAMILIES[AddressFamily(source.family)], _packed_address(source), _packed_address(destination)


def _packed_address(address: SocketAddress) -> tuple[bytes, int]:
    if address.family == AF_UNIX:
        name = os.fsencode(address.host)
        return (b"\0" + name[1:] if name.startswith(b"@") else name), 0
    if not 0 <= address.port <= 65535:
        raise ValueError(f"{address.port} is no port")
    try:
        return socket.inet_pton(address.family, address.host), address.port
    except OSError:
        raise ValueError(f"{address.host!r} is no address of its family") from None


def _address(family: int, endpoint: tuple[bytes, int]) -> SocketAddress | None:
    host, port = endpoint
    if family == 0:
        return None
    if family == _UNIX:
        abstract = host.startswith(b"\0") and host.strip(b"\0")
        name = b"@" + host[1:].rstrip(b"\0") if abstract else host.split(b"\0", 1)[0]
        return SocketAddress(AF_UNIX, os.fsdecode(name))
    kind = AF_INET if len(host) == 4 else AF_INET6
    return SocketAddress(kind, socket.inet_ntop(kind, host), port)


def _packed(tlv: tuple[int, bytes]) -> bytes:
    return bytes([tlv[0]]) + len(tlv[1]).to_bytes(2, "big") + tlv[1]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="surrogateescape")


def _ssl(value: bytes) -> Ssl:
    """ValueError when the value is not that of an SSL TLV."""
    tlvs = []
    at = 5
    while at < len(value):
        end = at + 3 + int.from_bytes(value[at + 1 : at + 3], "big")
        tlvs.append((value[at], value[at + 3 : end]))
        at = end
    if at != len(value):
        raise ValueError("an SSL TLV has 5 bytes, then TLVs to its end")
    return Ssl(value[0], int.from_bytes(value[1:5], "big"), tuple(tlvs))
