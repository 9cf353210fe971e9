"""A backend of the soak as a process of its own, `python -m tests.soak.servers NUMBER PORT HEADED_PORT UDP_PORT PATH`.

It serves the requests of tests/soak/content.py on TCP, on TCP behind a PROXY header, and on a unix socket, and echoes
datagrams. What it finds wrong it prints, a line of JSON each. A killed one must not look like one that is done: until a
session is over its socket closes with a reset. SIGUSR1 makes it reset every client for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Coroutine
from typing import Any

import uvloop

from tests.soak import content
from tests.soak.content import Request, Short, Stream, Wrong
from tests.soak.packets import answer_to, is_packet

PIECE = 1 << 17
RESETTING_S = 1.0
AT_ONCE = struct.pack("ii", 1, 0)
ORDERLY = struct.pack("ii", 0, 0)
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def proxied_source(token: int) -> tuple[str, int]:
    """Whom the PROXY header of a client with this token names."""
    return str(ipaddress.IPv4Address((10 << 24) | (token & 0xFFFFFF))), 1024 + token % 60000


async def read_exactly(sock: socket.socket, count: int) -> bytes:
    """Fewer when the FIN comes before."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count and (piece := await loop.sock_recv(sock, count - len(data))):
        data += piece
    return data


async def read_stream(sock: socket.socket, stream: Stream, piece: int = PIECE, pause_s: float = 0.0) -> None:
    loop = asyncio.get_running_loop()
    while stream.left:
        data = await loop.sock_recv(sock, min(piece, stream.left))
        if not data:
            raise Short(f"{stream.left} bytes are missing")
        stream.check(data)
        if pause_s:
            await asyncio.sleep(pause_s)


async def send_stream(sock: socket.socket, stream: Stream, urgent: bool = False) -> None:
    loop = asyncio.get_running_loop()
    if urgent:
        await loop.sock_sendall(sock, stream.take(stream.left // 2))
        await send_urgent(sock, stream.take(1))
    while stream.left:
        await loop.sock_sendall(sock, stream.take(PIECE))


async def send_urgent(sock: socket.socket, byte: bytes) -> None:
    while byte:
        try:
            sock.send(byte, socket.MSG_OOB)
            return
        except BlockingIOError:
            await asyncio.sleep(0.005)


async def both_ways(send: Coroutine[Any, Any, None], receive: Coroutine[Any, Any, None]) -> None:
    """At once. The kernel reports a reset to one call only, and the other sees an end then: so who sends is asked first
    whether it was one."""
    sending = asyncio.ensure_future(send)
    try:
        await receive
        await sending
    except Short:
        if sending.done() and (error := sending.exception()):
            raise error from None
        raise
    finally:
        sending.cancel()
        await asyncio.wait([sending])
        if not sending.cancelled():
            sending.exception()


async def expect_end(sock: socket.socket) -> None:
    if data := await asyncio.get_running_loop().sock_recv(sock, 64):
        raise Wrong(f"more than was promised: {data!r}")


class Server:
    def __init__(self, number: int) -> None:
        self.number = number
        self.resetting_until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def report(self, how: str, what: str, unix: bool = False) -> None:
        said = {"time": time.time(), "server": self.number, "how": how, "what": what, "unix": unix}
        print(json.dumps(said), flush=True)

    async def accept(self, listening: socket.socket, headed: bool) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listening)
            except OSError as error:
                self.report("accept", repr(error))
                await asyncio.sleep(0.05)
                continue
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            task = loop.create_task(self._session(sock, headed))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _session(self, sock: socket.socket, headed: bool) -> None:
        with sock:
            if time.monotonic() < self.resetting_until:
                return
            try:
                source = await self._header(sock) if headed else None
                await self._requests(sock, source)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ORDERLY)
            except Short as error:
                self.report("short", str(error), unix=sock.family == socket.AF_UNIX)
            except Wrong as error:
                self.report("foreign" if error.foreign else "wrong", str(error))
            except OSError:
                pass  # reset, which is allowed here; who should not have been reset will say so

    async def _header(self, sock: socket.socket) -> tuple[str, int] | None:
        start = await read_exactly(sock, 16)
        if not start:
            return None
        if start[:12] != SIGNATURE:
            raise Wrong(f"no PROXY header: {start!r}")
        rest = await read_exactly(sock, struct.unpack("!H", start[14:])[0])
        port = struct.unpack("!H", rest[8:10])[0]
        return str(ipaddress.IPv4Address(rest[:4])), port

    async def _requests(self, sock: socket.socket, source: tuple[str, int] | None) -> None:
        rounds = 1
        while rounds:
            start = await read_exactly(sock, content.REQUEST_BYTES)
            if not start:
                return  # connected and left; or between two requests
            if len(start) < content.REQUEST_BYTES:
                raise Short(f"{len(start)} bytes of a request")
            request = Request.unpack(start)
            if source is not None and source != proxied_source(request.token):
                raise Wrong(f"{request.token:x} came as {source}", foreign=True)
            rounds = request.rounds - 1
            await self._round(sock, request)

    async def _round(self, sock: socket.socket, request: Request) -> None:
        up, down = Stream(request.token, 0, request.up), Stream(request.token, 1, request.down)
        urgent = bool(request.flags & content.URGENT)
        if request.flags & content.BOTH_AT_ONCE:
            await both_ways(self._answer(sock, request, down, urgent), read_stream(sock, up))
        else:
            await read_stream(sock, up)
            if request.flags & content.ANSWER_AFTER_FIN:
                await expect_end(sock)
            await self._answer(sock, request, down, urgent)
        if request.rounds > 1:
            return
        if request.flags & content.SERVER_CLOSES:
            sock.shutdown(socket.SHUT_WR)
        if request.flags & (content.SERVER_CLOSES | content.LINGER):
            await expect_end(sock)

    async def _answer(self, sock: socket.socket, request: Request, down: Stream, urgent: bool) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, content.answer(request.token, self.number))
        await send_stream(sock, down, urgent)


class _Echo(asyncio.DatagramProtocol):
    """Of questions, and of packets with connection ids."""

    def __init__(self, number: int) -> None:
        self._number = number

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, peer: object) -> None:
        said = answer_to(data, self._number) if is_packet(data) else data
        self._transport.sendto(said, peer)  # type: ignore[attr-defined]


def _listening(port: int) -> socket.socket:
    sock = socket.create_server(("127.0.0.1", port), backlog=4096)
    sock.setblocking(False)
    return sock


def _listening_unix(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(4096)
    sock.setblocking(False)
    return sock


async def _main(number: str, port: str, headed: str, udp: str, path: str) -> None:
    loop = asyncio.get_running_loop()
    server = Server(int(number))

    def begin_resetting() -> None:
        server.resetting_until = time.monotonic() + RESETTING_S

    loop.add_signal_handler(signal.SIGUSR1, begin_resetting)
    await loop.create_datagram_endpoint(lambda: _Echo(server.number), ("127.0.0.1", int(udp)))
    accepting = [
        server.accept(_listening(int(port)), headed=False),
        server.accept(_listening(int(headed)), headed=True),
        server.accept(_listening_unix(path), headed=False),
    ]
    server.report("ready", "")
    await asyncio.gather(*accepting)


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
