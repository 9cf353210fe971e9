"""What control and the programs in the kernel share: l4lb/_kernel/layout.h in Python. A test holds the two together."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Iterator
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from l4lb.model.snapshot import HashKey
from l4lb.model.states import Protocol

SERVICES_MAX = 16384
BACKENDS_MAX = 16384
DENIED_MAX = 1 << 18
SOURCES_MAX = 256
SLOTS_IN_WORD = 4
FLOW_MAPS = (
    "tcp_flows",
    "udp_flows",
    "quic_owners",
    "translations",
)  # how much they hold is decided when they are made
PROTOCOLS = {Protocol.TCP: 6, Protocol.UDP: 17}

_CLOCK_MONOTONIC_COARSE = 6  # linux/time.h
_MAPPED = bytes(10) + b"\xff\xff"
_ENDPOINT = struct.Struct("=16s2sBx")
_SERVICE = struct.Struct("=Q16sIIIBBBB2s2xI")
_BACKEND = struct.Struct("=16s16sI2sBx")
_COUNTS = struct.Struct("=6Q")
_DENIED = struct.Struct("=II16s")
_ANSWER = struct.Struct("=20sII")
_PLACE = struct.Struct("=16s20sI6Q")
_NUMBER = struct.Struct("=16s6QQQII")
_SOURCE = struct.Struct("=16sHH")
SIZES = {
    "endpoint": _ENDPOINT.size,
    "service": _SERVICE.size,
    "backend": _BACKEND.size,
    "counts": _COUNTS.size,
    "answer": _ANSWER.size,
    "denied_key": _DENIED.size,
    "place": _PLACE.size,
    "number": _NUMBER.size,
    "source": _SOURCE.size,
}


class Mode(IntEnum):
    NAT = 0
    DSR = 1
    TUNNEL = 2


class Verdict(IntEnum):
    """What became of a packet."""

    OTHER = 0
    FORWARDED = 1
    ANSWER = 2
    NO_BACKEND = 3
    NO_ROUTE = 4
    NO_NEIGHBOUR = 5
    TOO_LARGE = 6
    SHORT = 7
    DENIED = 8
    EXPIRED = 9
    NO_ROOM = 10
    TOO_LARGE_ANSWERED = 11
    NO_PORT = 12


SERVICE_LEFT, SERVICE_LISTS = 1, 2
BACKEND_LEFT = 1
HASH_KEYS = {
    HashKey.SOURCE_IP: 0,
    HashKey.SOURCE_IP_PORT: 1,
    HashKey.DESTINATION: 2,
    HashKey.SESSION: 3,
    HashKey.RANDOM: 4,
    HashKey.QUIC_CID: 5,
}


def address(text: str) -> bytes:
    """16 bytes; IPv4 is v4-mapped. ValueError for what is no address."""
    ip = ip_address(text.partition("%")[0])
    return ip.packed if isinstance(ip, IPv6Address) else _MAPPED + ip.packed


def address_text(packed: bytes) -> str:
    return str(IPv4Address(packed[12:]) if packed[:12] == _MAPPED else IPv6Address(packed))


def endpoint_text(packed: bytes, port: int) -> str:
    host = address_text(packed)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def endpoint(host: str, port: int, protocol: int) -> bytes:
    return _ENDPOINT.pack(address(host), port.to_bytes(2, "big"), protocol)


def is_v4(endpoint: bytes) -> bool:
    return endpoint.startswith(_MAPPED)


def left(service: bytes, *, any_denied: bool) -> bytes:
    """The same, of which only what it has goes on."""
    *fields, _, source, gue_port, ids = _SERVICE.unpack(service)
    return _SERVICE.pack(*fields, SERVICE_LEFT | (SERVICE_LISTS if any_denied else 0), source, gue_port, ids)


def prefix(v4: bool, bits: int) -> bytes:
    """The mask of a client's address."""
    length = bits + 96 if v4 else bits
    return (((1 << length) - 1) << (128 - length)).to_bytes(16, "big")


def service(
    *,
    seed: int,
    prefix: bytes,
    number: int,
    first_word: int,
    slot_count: int,
    mode: Mode,
    key: HashKey,
    gue_port: int,
    quic_service: int,
    any_denied: bool,
    source: int = 0,
) -> bytes:
    """`gue_port`: 0 for IPIP; `quic_service`: 32 bits that no other listener has; `source`: of full NAT, see `source`
    below."""
    flags = SERVICE_LISTS if any_denied else 0
    choosing = (seed, prefix, number, first_word, slot_count, mode, HASH_KEYS[key], flags)
    return _SERVICE.pack(*choosing, source, gue_port.to_bytes(2, "big"), quic_service)


def source(host: str, ports: range) -> bytes:
    """An address of this host, for full NAT by these ports of it."""
    return _SOURCE.pack(address(host), ports.start, len(ports))


def source_address(packed: bytes) -> bytes:
    return bytes(_SOURCE.unpack(packed)[0])


def answer(service: bytes, number: int, backend: int) -> bytes:
    return _ANSWER.pack(service, number, backend)


def denied(ranges: bytes, number: int) -> Iterator[bytes]:
    """The networks that make up these ranges, which are as `l4lb.net.access` packs them."""
    for at in range(0, len(ranges), 32):
        first, last = (int.from_bytes(ranges[place : place + 16], "big") for place in (at, at + 16))
        while first <= last:
            hosts = min((first & -first).bit_length() - 1 if first else 128, (last - first + 1).bit_length() - 1)
            yield _DENIED.pack(32 + 128 - hosts, number, first.to_bytes(16, "big"))
            first += 1 << hosts


def backend(host: str, port: int, incarnation: int, flags: int = 0, source: str = "") -> bytes:
    """`source`: this host's address on the way there; empty: there is none, or nobody needs it."""
    from_ = address(source) if source else bytes(16)
    return _BACKEND.pack(address(host), from_, incarnation, port.to_bytes(2, "big"), flags)


def now_ns() -> int:
    """By the clock of the programs, which stands still between ticks."""
    return time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE)


class Counts(NamedTuple):
    flows: int = 0
    packets_up: int = 0
    bytes_up: int = 0
    packets_down: int = 0
    bytes_down: int = 0
    denied: int = 0

    def since(self, base: Counts) -> Counts:
        return Counts(*(one - before for one, before in zip(self, base, strict=True)))

    def plus(self, other: Counts) -> Counts:
        return Counts(*map(sum, zip(self, other, strict=True)))


def counts(raw: bytes) -> Counts:
    """The sum over all CPUs."""
    return Counts(*map(sum, zip(*_COUNTS.iter_unpack(raw), strict=True)))


# ---- whose what is: for a process that takes the maps over ----


def digest(*names: str) -> bytes:
    """Of the name of a listener, or of those of a pool and a backend."""
    return hashlib.blake2b("\0".join(names).encode(), digest_size=16).digest()


class PlaceRecord(NamedTuple):
    """Of a backend's place. `used`: somebody has it."""

    owner: bytes
    endpoint: bytes
    used: int
    base: Counts

    def packed(self) -> bytes:
        return _PLACE.pack(self.owner, self.endpoint, self.used, *self.base)

    @classmethod
    def of(cls, packed: bytes) -> PlaceRecord:
        owner, endpoint, used, *base = _PLACE.unpack(packed)
        return cls(owner, endpoint, used, Counts(*base))


class NumberRecord(NamedTuple):
    """Of a listener's number."""

    owner: bytes
    base: Counts
    idle_ns: int
    since_ns: int
    used: int
    left: int

    def packed(self) -> bytes:
        return _NUMBER.pack(self.owner, *self.base, self.idle_ns, self.since_ns, self.used, self.left)

    @classmethod
    def of(cls, packed: bytes) -> NumberRecord:
        owner, *counts, idle_ns, since_ns, used, left = _NUMBER.unpack(packed)
        return cls(owner, Counts(*counts), idle_ns, since_ns, used, left)


def endpoint_parts(endpoint: bytes) -> tuple[str, int, int]:
    """Host, port and protocol."""
    packed, port, protocol = _ENDPOINT.unpack(endpoint)
    return address_text(packed), int.from_bytes(port, "big"), protocol


def backend_state(packed: bytes) -> tuple[int, int]:
    """Its incarnation and flags."""
    _, _, incarnation, _, flags = _BACKEND.unpack(packed)
    return incarnation, flags


def service_parts(service: bytes) -> tuple[int, int, int]:
    """The number of its counts, its table's first word, and how many slots it has."""
    _, _, number, first_word, slot_count, *_ = _SERVICE.unpack(service)
    return number, first_word, slot_count


def answer_backend(packed: bytes) -> int:
    return int(_ANSWER.unpack(packed)[2])


def denied_number(key: bytes) -> int:
    return int(_DENIED.unpack(key)[1])
