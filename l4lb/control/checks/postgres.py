"""The ``postgres`` check: begins a session as `user`, which the server must accept, refuse by name, or ask for a
password.

Like HAProxy's pgsql-check it sends no query and no password. The server is down while it starts, recovers or shuts down
(57P03) and when it is full (53300), which a mere handshake would not show. A server that refuses the user (class 28,
3D000) works, but logs a line for each refusal: name a user whom pg_hba.conf accepts from this host, like the users of
the sessions that come through this balancer.
"""

from __future__ import annotations

import struct

from l4lb.control.checks.checks import CheckFailed, Target, begin_step, shown
from l4lb.control.checks.stream import MAX_ANSWER_BYTES, Stream, open_stream

PROTOCOL_3_0 = 196608
AUTHENTICATION, ERROR, READY, TERMINATE = b"R", b"E", b"Z", b"X\0\0\0\4"
AUTHENTICATED = 0
REQUESTS = (AUTHENTICATED, 2, 3, 5, 7, 9, 10)  # Kerberos, password, MD5, GSSAPI, SSPI, SASL
REFUSALS = ("28", "3D000")  # of a user or its database: by a server that is up
HEADER_BYTES = 5


async def check_postgres(target: Target) -> None:
    """Raises CheckFailed at steps ``connect``, ``answer`` and ``session``; the caller bounds the time."""
    async with open_stream(target) as stream:
        begin_step("answer")
        await stream.send(_startup(target.settings.user))
        messages = Messages(stream)
        kind, body = await messages.next("answer")
        if kind == ERROR:
            _judge("answer", body)
        elif kind != AUTHENTICATION or (asked := _authentication(body)) not in REQUESTS:
            raise CheckFailed("answer", f"not an answer of PostgreSQL: {shown(kind + body)}")
        elif asked == AUTHENTICATED:
            begin_step("session")
            await _leave(stream, messages)


def _authentication(body: bytes) -> int:
    return int.from_bytes(body[:4], "big") if len(body) >= 4 else -1


def _startup(user: str) -> bytes:
    """StartupMessage of protocol 3.0: its length, itself included, then pairs of names and values."""
    pairs = ("user", user, "database", user, "application_name", "l4lb health check")
    body = struct.pack("!I", PROTOCOL_3_0) + b"".join(text.encode() + b"\0" for text in pairs) + b"\0"
    return struct.pack("!I", 4 + len(body)) + body


async def _leave(stream: Stream, messages: Messages) -> None:
    """Wait until the accepted session is ready, and end it properly: servers log clients that vanish."""
    kind, body = await messages.next("session")
    while kind not in (ERROR, READY):
        kind, body = await messages.next("session")
    if kind == ERROR:
        _judge("session", body)
    else:
        await stream.send(TERMINATE)


def _judge(step: str, body: bytes) -> None:
    """ErrorResponse: fields of a letter and a text; C is the SQLSTATE, M the message."""
    fields = {text[:1]: text[1:].decode("utf-8", "replace") for text in body.split(b"\0") if text}
    code = fields.get(b"C", "")
    if not code.startswith(REFUSALS):
        message = " ".join(fields.get(b"M", "").split())[:200]
        raise CheckFailed(step, f"{message or 'an error that says nothing'} ({code or 'no code'})")


class Messages:
    """A server's messages: a letter, a length that includes itself, a body. Bounded."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._data = b""
        self._total = 0

    async def next(self, step: str) -> tuple[bytes, bytes]:
        await self._fill(HEADER_BYTES, step)
        length = struct.unpack_from("!I", self._data, 1)[0]
        if not 4 <= length <= MAX_ANSWER_BYTES:
            raise CheckFailed(step, f"not an answer of PostgreSQL: {shown(self._data)}")
        await self._fill(1 + length, step)
        message, self._data = self._data[: 1 + length], self._data[1 + length :]
        return message[:1], message[HEADER_BYTES:]

    async def _fill(self, count: int, step: str) -> None:
        while len(self._data) < count:
            more = await self._stream.receive()
            self._total += len(more)
            if not more:
                raise CheckFailed(step, f"closed after {shown(self._data)}")
            if self._total > MAX_ANSWER_BYTES:
                raise CheckFailed(step, f"no end of messages within {MAX_ANSWER_BYTES >> 10} KiB")
            self._data += more
