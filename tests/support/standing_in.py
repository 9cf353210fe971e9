"""Servers of systems that cannot run here: each speaks the documented protocol over real HTTP, on a thread of its own,
and can be away, hang, and say what it should not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from aiohttp import web

from tests.support.programs import free_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")


class StandIn:
    """`port` stays the same while it is away. `tls`: a certificate of localhost and its key, which with `mutual`
    clients have to show too. Subclasses say in `answer` what the system itself says; `lies` go first, one a request."""

    def __init__(self, tls: tuple[str, str] | None = None, *, mutual: bool = False) -> None:
        self.port = free_port()
        self.endpoint = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"
        self.asked: list[web.Request] = []
        self.lies: deque[Handler] = deque()
        self._tls = _context(*tls, mutual=mutual) if tls else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._runner: web.ServerRunner | None = None
        self._hangs = False
        self._transports: set[asyncio.Transport] = set()
        self._thread.start()
        self.changed = self.on_loop(_made(asyncio.Condition))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        raise NotImplementedError

    def start(self) -> None:
        self.on_loop(self._start())

    async def _start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.01)  # 0: for ever
        await self._runner.setup()
        self._socket = socket.create_server(("127.0.0.1", self.port))
        await web.SockSite(self._runner, self._socket, ssl_context=self._tls).start()

    def stop(self) -> None:
        """Nobody is there any more; connections end where they are."""
        if self._runner is not None:
            self.on_loop(self._stop(self._runner))
            self._runner = None

    async def _stop(self, runner: web.ServerRunner) -> None:
        self._loop.remove_reader(self._socket)
        await asyncio.sleep(0.02)  # what has been accepted: asyncio would lose it, open, in a server that is closed
        for transport in self._transports:
            with contextlib.suppress(AttributeError):  # asyncio of Python 3.11.2, of TLS that was closed twice
                transport.abort()
        self._transports.clear()
        await runner.cleanup()

    def close(self) -> None:
        self.stop()
        self.on_loop(_end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def hang(self, hangs: bool = True) -> None:
        """Connections are accepted, and nothing is said on them, nor on those that there are."""
        self._hangs = hangs
        self.wake()

    async def stuck(self) -> None:
        """For as long as the server hangs: to be awaited before anything is said."""
        while self._hangs:
            await self.next_change(60)

    def on_loop(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)

    def wake(self) -> None:
        async def notify() -> None:
            async with self.changed:
                self.changed.notify_all()

        self.on_loop(notify())

    async def next_change(self, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self.changed:
                await self.changed.wait()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.BaseRequest)
        self.asked.append(request)  # type: ignore[arg-type]  # what is used of it both have
        if request.transport is not None:
            self._transports.add(request.transport)
        await self.stuck()
        lie = self.lies.popleft() if self.lies else None
        return await (lie or self.answer)(request)  # type: ignore[arg-type]

    def lie(self, body: bytes, status: int = 200, **headers: str) -> None:
        """The next request is answered so."""

        async def handler(_: web.Request) -> web.StreamResponse:
            return web.Response(body=body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

        self.lies.append(handler)


async def _made(kind: Callable[[], T]) -> T:
    return kind()


async def _end_all() -> None:
    """Handlers, too, whose connections have ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _context(cert: str, key: str, *, mutual: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cert)
    return context
