"""ClientHellos for tests: real ones of OpenSSL through Python, made ones, and strategies."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Sequence

from hypothesis import strategies as st


def real(server_name: str = "a.example", alpn: Sequence[str] = ("h2", "http/1.1"), newest: str = "TLSv1_3") -> bytes:
    """What Python's ssl sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # asks for no list of authorities
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = getattr(ssl.TLSVersion, newest)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=server_name or None)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, data)


def server_name(name: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, bytes([kind]) + vector(2, name)))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def message(
    extensions: bytes | None = b"",
    *,
    version: int = 0x0303,
    suites: bytes = b"\x13\x01",
    kind: int = 1,
    after: bytes = b"",
) -> bytes:
    """A handshake message; `after` is within it, behind the extensions or in their place."""
    body = struct.pack("!H", version) + bytes(32) + vector(1, b"session") + vector(2, suites) + vector(1, b"\0")
    if extensions is not None:
        body += vector(2, extensions)
    return bytes([kind]) + vector(3, body + after)


def records(text: bytes, size: int = 16384, version: int = 0x0301) -> bytes:
    """`text` in records of at most `size` bytes."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return b"".join(struct.pack("!BH", 22, version) + vector(2, piece) for piece in pieces)


GREASE_NAME = b"\x3a\x3a"
extensions = st.one_of(
    st.builds(server_name, st.binary(max_size=40), st.sampled_from([0, 0, 0, 1])),
    st.builds(server_name, st.from_regex(rb"\A[a-z0-9.-]{1,60}\Z")),
    st.builds(lambda names: alpn(*names), st.lists(st.one_of(st.just(GREASE_NAME), st.binary(max_size=8)), max_size=4)),
    st.builds(
        extension, st.one_of(st.integers(0, 65535), st.sampled_from([0, 16, 0x0A0A, 0xFE0D])), st.binary(max_size=30)
    ),
)
messages = st.builds(
    lambda given, version, suites: message(b"".join(given), version=version, suites=suites),
    st.lists(extensions, max_size=6),
    st.sampled_from([0x0300, 0x0301, 0x0303, 0x0303, 0x0203]),
    st.binary(max_size=9),
)
hellos = st.builds(records, messages, st.sampled_from([1, 3, 7, 50, 16384]))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(hellos) + draw(st.binary(max_size=4)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data) - 1))
        if draw(st.booleans()):
            data[at] = draw(st.integers(0, 255))
        else:
            del data[at : at + draw(st.integers(1, 3))]
        data = data or bytearray(b"\x16")
    return bytes(data)
