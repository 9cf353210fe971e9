"""What a load balancer can see of QUIC packets, written from RFC 8999; the native reader is held to it."""

from __future__ import annotations

from dataclasses import dataclass

ID_MAX_BYTES = 20


@dataclass(frozen=True)
class Packet:
    """`destination` of a short header is all that may begin with the id, whose length is not said."""

    long: bool
    version: int
    destination: bytes
    source: bytes


def read(datagram: bytes) -> Packet | None:
    """The header that a datagram begins with; None when it has none."""
    if not datagram:
        return None
    if not datagram[0] & 0x80:
        return Packet(False, 0, datagram[1:], b"")
    version, rest, ids = datagram[1:5], datagram[5:], []
    for _ in range(2):
        if not rest or len(rest) <= rest[0]:
            return None
        ids.append(rest[1 : 1 + rest[0]])
        rest = rest[1 + rest[0] :]
    return Packet(True, int.from_bytes(version, "big"), *ids)


def find(ids: dict[bytes, int], datagram: bytes) -> int:
    """Who gave the id that the datagram calls by, of `ids` of 1 to 20 bytes; 0: nobody."""
    packet = read(datagram)
    if packet is None:
        return 0
    if packet.long:
        return ids.get(packet.destination, 0)
    prefixes = (packet.destination[:length] for length in range(ID_MAX_BYTES, 0, -1))
    return next((ids[prefix] for prefix in prefixes if prefix in ids), 0)


def long_header(destination: bytes, source: bytes, version: int = 1, rest: bytes = b"") -> bytes:
    return b"\xc3" + version.to_bytes(4, "big") + _sized(destination) + _sized(source) + rest


def short_header(destination: bytes, rest: bytes = b"") -> bytes:
    return b"\x43" + destination + rest


def _sized(id_: bytes) -> bytes:
    return bytes([len(id_)]) + id_
