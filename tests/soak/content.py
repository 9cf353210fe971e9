"""What clients and servers of the soak say to each other, so that every byte can be told from every other session's.

A session begins with a `Request`, which names a token that nobody else has; all further bytes of both directions follow
from the token and their position. The server's answer begins with the same token and the server's number.
"""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass

SIZE = 1 << 20
_BLOCK = random.Random(20).randbytes(SIZE)
_TWICE = _BLOCK + _BLOCK
LARGEST = SIZE // 2  # that much is compared at once, at most

ANSWER_AFTER_FIN = 1  # the server answers once the client has half-closed
BOTH_AT_ONCE = 2  # the server's bytes do not wait for the client's
SERVER_CLOSES = 4  # the server half-closes after its answer
URGENT = 8  # one byte in the middle of each direction is sent as urgent
LINGER = 16  # the server waits after its answer until the client's FIN

_REQUEST = struct.Struct(">4sHHQII")
_ANSWER = struct.Struct(">4sIQ")
REQUEST_BYTES, ANSWER_BYTES = _REQUEST.size, _ANSWER.size
_QUESTION = struct.Struct(">4sQIHI")
QUESTION_BYTES = _QUESTION.size


class Wrong(Exception):
    """Bytes that are not what they should be: `foreign` when they are another session's."""

    def __init__(self, what: str, *, foreign: bool = False) -> None:
        super().__init__(what)
        self.foreign = foreign


class Short(Exception):
    """An orderly end before all bytes were there."""


@dataclass(frozen=True)
class Request:
    token: int
    up: int
    down: int
    flags: int = 0
    rounds: int = 1

    def pack(self) -> bytes:
        return _REQUEST.pack(b"L4SK", self.flags, self.rounds, self.token, self.up, self.down)

    @staticmethod
    def unpack(data: bytes) -> Request:
        magic, flags, rounds, token, up, down = _REQUEST.unpack(data)
        if magic != b"L4SK":
            raise Wrong(f"no request: {data[:24]!r}")
        return Request(token, up, down, flags, rounds)


def answer(token: int, server: int) -> bytes:
    return _ANSWER.pack(b"L4SA", server, token)


def server_of(data: bytes, token: int) -> int:
    magic, server, found = _ANSWER.unpack(data)
    if magic != b"L4SA":
        raise Wrong(f"no answer: {data!r}")
    if found != token:
        raise Wrong(f"the answer to {found:x} came to {token:x}", foreign=True)
    return int(server)


class Stream:
    """The bytes of one direction of one session."""

    def __init__(self, token: int, direction: int, length: int) -> None:
        self.left = length
        self._at = (token * 0x9E3779B97F4A7C15 + direction * 0x51ED270B) % SIZE

    def take(self, count: int) -> bytes:
        """The next ones, at most `count`."""
        count = min(count, self.left, LARGEST)
        data = _TWICE[self._at : self._at + count]
        self._at = (self._at + count) % SIZE
        self.left -= count
        return data

    def check(self, data: bytes) -> None:
        while data:
            expected = self.take(len(data))
            if not expected:
                raise Wrong(f"{len(data)} bytes too many")
            if not data.startswith(expected):
                at = next(i for i in range(len(expected)) if data[i] != expected[i])
                raise Wrong(f"byte {at} of a piece of {len(data)}, {self.left} before the end: {data[at : at + 16]!r}")
            data = data[len(expected) :]


def question(token: int, number: int, size: int) -> bytes:
    """A datagram; `size` at least QUESTION_BYTES."""
    content = Stream(token + number, 2, size - QUESTION_BYTES).take(size)
    return _QUESTION.pack(b"L4SQ", token, number, size, zlib.crc32(content)) + content


def number_of(data: bytes, token: int) -> int:
    if len(data) < QUESTION_BYTES:
        raise Wrong(f"a datagram of {len(data)} bytes")
    magic, found, number, size, checksum = _QUESTION.unpack_from(data)
    if magic != b"L4SQ" or size != len(data) or zlib.crc32(data[QUESTION_BYTES:]) != checksum:
        raise Wrong(f"a changed datagram of {len(data)} bytes")
    if found != token:
        raise Wrong(f"the answer to {found:x} number {number} came to {token:x}", foreign=True)
    return int(number)
