"""PROXY headers for tests: strategies for valid ones and for damage, and what the native codec makes of bytes."""

from __future__ import annotations

import ipaddress
import socket
import struct

from hypothesis import strategies as st

from l4lb._native import algorithms
from l4lb.proxy_protocol import Accept, Reason
from tests.support import proxy_twin
from tests.support.proxy_twin import SIGNATURE, Seen

MODES = ["v1", "v2", "any"]
NAMED_TYPES = [0x01, 0x02, 0x04, 0x05, 0x30, 0xE0, 0xEA, 0xEE, 0xEF, 0xF0, 0xFF, 0x00, 0x77]


def native(data: bytes, accept: str = "any", *, datagram: bool = False) -> Seen | str:
    """As `proxy_twin.judge`."""
    result, length, version, command, family, transport, source, destination, tlvs = algorithms.proxy_parse(
        data, list(Accept).index(Accept(accept)), datagram
    )
    if result:
        return ["need_more", *map(str, Reason)][result - 1]
    return Seen(length, version, command, family, transport, source, destination, tlvs)


def seen(data: bytes, accept: str = "any") -> Seen:
    """Of bytes that begin with a complete header, in the eyes of both."""
    found = native(data, accept)
    assert isinstance(found, Seen), found
    assert proxy_twin.judge(data, accept) == found
    return found


def refusal(data: bytes, accept: str = "any") -> str:
    """The reason, which both give."""
    found = native(data, accept)
    assert isinstance(found, str), found
    assert proxy_twin.judge(data, accept) == found
    return found


def refused_at(data: bytes, accept: str = "any") -> tuple[str, int]:
    """The reason, and how many bytes it took."""
    for length in range(len(data) + 1):
        reason = refusal(data[:length], accept)
        if reason != "need_more":
            return reason, length
    raise AssertionError("not refused")


def v2(kind: int, block: bytes = b"", *, version_command: int = 0x21, length: int | None = None) -> bytes:
    """A version 2 header as given, right or wrong. `kind` is byte 13."""
    return SIGNATURE + struct.pack("!BBH", version_command, kind, len(block) if length is None else length) + block


def tlv(type_: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("!BH", type_, len(value) if length is None else length) + value


V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.7") + struct.pack("!HH", 40000, 443)
V6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + struct.pack("!HH", 40000, 443)
)
UNIX = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")
BLOCKS = {1: V4, 2: V6, 3: UNIX}

ports = st.integers(0, 65535)
ssl_values = st.builds(
    lambda client, verify, subs: struct.pack("!BI", client, verify) + b"".join(subs),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.lists(st.builds(tlv, st.integers(0x21, 0x28), st.binary(max_size=20)), max_size=3),
)
tlvs = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(NAMED_TYPES), st.binary(max_size=128)),
        st.tuples(st.just(0x20), ssl_values),
    ),
    max_size=5,
)


def _endpoints(family: int) -> st.SearchStrategy[tuple[bytes, int]]:
    size = proxy_twin.ADDRESS_BYTES[family]
    return st.tuples(st.binary(min_size=size, max_size=size), st.just(0) if family == 3 else ports)


v2_headers = st.sampled_from([1, 2, 3]).flatmap(
    lambda family: st.builds(
        proxy_twin.v2_header,
        st.tuples(st.just(1), st.just(family), st.sampled_from([1, 2])),
        _endpoints(family),
        _endpoints(family),
        tlvs,
        st.booleans(),
    )
)
nobody_headers = st.builds(
    v2,
    st.integers(0, 255),
    st.one_of(st.binary(max_size=60), st.builds(lambda given: b"".join(tlv(*one) for one in given), tlvs)),
    version_command=st.sampled_from([0x20, 0x21]),
)


def _v6_texts(ip: ipaddress.IPv6Address) -> list[str]:
    dotted = f"{':'.join(ip.exploded.split(':')[:6])}:{ipaddress.IPv4Address(ip.packed[12:])}"
    return [str(ip), ip.exploded, ip.exploded.upper(), proxy_twin.v6_text(ip), dotted]


v6_addresses = st.one_of(
    st.ip_addresses(v=6),
    st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF]), min_size=8, max_size=8).map(
        lambda words: ipaddress.IPv6Address(struct.pack("!8H", *words))
    ),
)
v6_texts = v6_addresses.flatmap(lambda ip: st.sampled_from(_v6_texts(ip)))
v4_texts = st.ip_addresses(v=4).map(str)
lines = st.one_of(
    *(
        st.builds(lambda *fields: b"PROXY %s %s %s %d %d\r\n" % fields, st.just(word), texts, texts, ports, ports)
        for word, texts in ((b"TCP4", v4_texts.map(str.encode)), (b"TCP6", v6_texts.map(str.encode)))
    ),
    st.binary(max_size=100)
    .filter(lambda noise: b"\r\n" not in noise)
    .map(lambda noise: b"PROXY UNKNOWN " + noise + b"\r\n"),
)
headers = st.one_of(v2_headers, nobody_headers, lines)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A header with some bytes changed, left out or put in, and something after it."""
    data = bytearray(draw(headers) + draw(st.binary(max_size=8)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data) - 1)) if data else 0
        what = draw(st.sampled_from(["change", "cut", "insert", "nudge"]))
        if what == "insert" or not data:
            data[at:at] = draw(
                st.one_of(st.binary(max_size=3), st.sampled_from([b" ", b":", b"\r", b"\n", b"0", b"."]))
            )
        elif what == "cut":
            del data[at : at + draw(st.integers(1, 4))]
        else:
            data[at] = draw(st.integers(0, 255)) if what == "change" else data[at] ^ (1 << draw(st.integers(0, 7)))
    return bytes(data)
