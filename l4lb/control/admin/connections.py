"""Limits the number of the admin API's clients, and the time that it waits for them. Control loop only.

Stands between the socket and aiohttp, which has no limit on the wait for the head of a first request, or for a client
that does not read its answer. Beyond CONNECTIONS_MAX a client gets a 503 and is closed. A client is reset when the head
of its request is incomplete after REQUEST_WITHIN_S, or when it reads nothing for TAKEN_WITHIN_S. For the body see
`binding.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import web

CONNECTIONS_MAX = 256
REQUEST_WITHIN_S = 10.0
TAKEN_WITHIN_S = 30.0
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nServer: l4lb\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Connections:
    """A protocol factory; `make` is aiohttp's."""

    def __init__(self, make: Callable[[], asyncio.Protocol]) -> None:
        self.make = make
        self.open: dict[object, _Connection] = {}  # by aiohttp's protocol
        self.request_within_s = REQUEST_WITHIN_S
        self.taken_within_s = TAKEN_WITHIN_S

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self)

    def request_started(self, request: web.Request) -> None:
        """The request's head has arrived."""
        if (one := self.open.get(request.protocol)) is not None:
            one.wait_no_more()


class _Connection(asyncio.Protocol):
    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self._connections.open) >= CONNECTIONS_MAX:
            self._transport.write(_FULL)
            self._transport.close()
            return
        self._inner = self._connections.make()
        self._connections.open[self._inner] = self
        self._wait(self._connections.request_within_s)
        self._inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.wait_no_more()
        if self._inner is not None:
            del self._connections.open[self._inner]
            self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        self._wait(self._connections.taken_within_s)
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self.wait_no_more()
        if self._inner is not None:
            self._inner.resume_writing()

    def _wait(self, within_s: float) -> None:
        assert self._transport is not None
        self.wait_no_more()
        self._deadline = asyncio.get_running_loop().call_later(within_s, self._transport.abort)

    def wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
