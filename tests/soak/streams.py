"""Clients of the soak over TCP and unix sockets: one coroutine a session, which says how the session went."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import struct
import time
from dataclasses import dataclass, field

from tests.soak import content
from tests.soak.content import Request, Short, Stream, Wrong
from tests.soak.servers import (
    AT_ONCE,
    ORDERLY,
    both_ways,
    expect_end,
    proxied_source,
    read_exactly,
    read_stream,
    send_stream,
)
from tests.support import proxy_twin

_tokens = itertools.count((os.getpid() & 0xFFFF) << 40 | random.getrandbits(24) << 16)


def new_token() -> int:
    return next(_tokens)


@dataclass(frozen=True)
class Kind:
    """What a client does; sizes are bounds of what is drawn."""

    name: str
    up: tuple[int, int]
    down: tuple[int, int]
    flags: int = 0
    rounds: tuple[int, int] = (1, 1)
    think_s: float = 0.0
    read: int = 1 << 17  # at once
    pause_s: float = 0.0  # after each read
    receive_buffer: int = 0
    half_closes: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind("one", (0, 2000), (0, 4000), content.LINGER),
        Kind("one-closed-by-server", (0, 2000), (0, 4000), content.SERVER_CLOSES),
        Kind("keep", (0, 3000), (0, 9000), content.LINGER, rounds=(5, 40), think_s=0.05),
        Kind("up", (1_000_000, 8_000_000), (10, 10), content.LINGER),
        Kind("down", (10, 10), (1_000_000, 8_000_000), content.SERVER_CLOSES),
        Kind("both", (500_000, 5_000_000), (500_000, 5_000_000), content.BOTH_AT_ONCE | content.LINGER),
        Kind("half", (1, 1_500_000), (1, 1_500_000), content.ANSWER_AFTER_FIN, half_closes=True),
        Kind(
            *("slow", (10, 10), (1_200_000, 2_500_000), content.SERVER_CLOSES),
            read=16_384, pause_s=0.05, receive_buffer=16_384,
        ),
        Kind("urgent", (100_000, 2_000_000), (100_000, 2_000_000), content.URGENT | content.SERVER_CLOSES),
    )
}  # fmt: skip


@dataclass
class Outcome:
    """`how`: ok; refused, reset, late: errors that may have a cause; short, wrong, foreign: what must never be."""

    kind: str
    listener: str
    began: float
    how: str = "ok"
    what: str = ""
    server: int = 0
    ended: float = 0.0
    up: int = 0
    down: int = 0
    requests: int = 0
    token: int = 0
    local: str = ""
    tags: dict[str, str] = field(default_factory=dict)


def _header(token: int) -> bytes:
    source, port = proxied_source(token)
    ends = (socket.inet_aton(source), port), (socket.inet_aton("127.0.0.1"), 80)
    return proxy_twin.v2_header((1, 1, 1), *ends, [], with_crc32c=bool(token % 2))


async def _connected(address: str, kind: Kind) -> socket.socket:
    unix = address.startswith("unix:")
    sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    try:
        sock.setblocking(False)
        if kind.receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kind.receive_buffer)
        host, _, port = address.rpartition(":")
        await asyncio.get_running_loop().sock_connect(
            sock, address.removeprefix("unix:") if unix else (host, int(port))
        )
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    except BaseException:
        sock.close()
        raise
    return sock


async def _round(sock: socket.socket, kind: Kind, request: Request, outcome: Outcome) -> None:
    loop = asyncio.get_running_loop()
    up, down = Stream(request.token, 0, request.up), Stream(request.token, 1, request.down)

    async def send() -> None:
        await loop.sock_sendall(sock, request.pack())
        await send_stream(sock, up, bool(request.flags & content.URGENT))
        if kind.half_closes:
            sock.shutdown(socket.SHUT_WR)

    async def receive() -> None:
        start = await read_exactly(sock, content.ANSWER_BYTES)
        if len(start) < content.ANSWER_BYTES:
            raise Short(f"{len(start)} bytes of the answer's head")
        outcome.server = content.server_of(start, request.token)
        await read_stream(sock, down, kind.read, kind.pause_s)

    try:
        await both_ways(send(), receive())
    finally:
        outcome.up += request.up - up.left
        outcome.down += request.down - down.left


async def _session(sock: socket.socket, kind: Kind, outcome: Outcome, headed: bool) -> None:
    rounds = random.randint(*kind.rounds)
    if headed:
        await asyncio.get_running_loop().sock_sendall(sock, _header(outcome.token))
    for left in range(rounds, 0, -1):
        outcome.requests += 1
        request = Request(outcome.token, random.randint(*kind.up), random.randint(*kind.down), kind.flags, left)
        await _round(sock, kind, request, outcome)
        if left > 1:
            await asyncio.sleep(random.uniform(0, 2 * kind.think_s))
    if kind.flags & content.SERVER_CLOSES:
        await expect_end(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ORDERLY)
    if not kind.half_closes:
        sock.shutdown(socket.SHUT_WR)
    if not kind.flags & content.SERVER_CLOSES:
        await expect_end(sock)


async def run(kind: Kind, listener: str, address: str, *, headed: bool = False, within_s: float = 60.0) -> Outcome:
    """One session at `address`."""
    outcome = Outcome(kind.name, listener, time.time(), token=new_token())
    try:
        async with asyncio.timeout(within_s):
            with await _connected(address, kind) as sock:
                if not address.startswith("unix:"):
                    outcome.local = ":".join(map(str, sock.getsockname()))
                await _session(sock, kind, outcome, headed)
    except TimeoutError:
        outcome.how = "late"
    except Short as error:
        outcome.how, outcome.what = "short", str(error)
    except Wrong as error:
        outcome.how, outcome.what = "foreign" if error.foreign else "wrong", str(error)
    except (ConnectionRefusedError, FileNotFoundError):
        outcome.how = "refused"
    except OSError as error:
        outcome.how, outcome.what = "reset", repr(error)
    outcome.ended = time.time()
    return outcome


async def look_only(address: str, said: bytes, hold_s: float) -> None:
    """A client that connects, says `said`, and leaves with a reset: half-open ones, and those without a request."""
    kind = KINDS["one"]
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(5):
            sock = await _connected(address, kind)
        with sock:
            if said:
                await asyncio.get_running_loop().sock_sendall(sock, said)
            await asyncio.sleep(hold_s)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
