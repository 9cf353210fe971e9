"""``GET /v1/events``: what happens, as Server-Sent Events (WHATWG HTML, section 9.2). Control loop only.

A slow reader loses events and never delays the balancer: its queue is bounded, and an event of kind ``events_lost``
reports how many were lost. A reader that takes nothing for PATIENCE_S is cut off. A new reader may ask for the latest
events first, for pages that are opened after an incident.
"""

from __future__ import annotations

import asyncio
import json
import logging

from aiohttp import web

from l4lb.control.state.events import Event, Events

QUEUE_LENGTH = 1000
READERS_MAX = 64  # at once
PATIENCE_S = 30.0
KEEPALIVE_S = 15.0  # interval of comments, so that proxies keep an idle stream open


def _message(event: Event) -> bytes:
    level = logging.getLevelName(event.level).lower()
    data = {"kind": event.kind, "time": event.time, "level": level, **event.fields}
    return f"event: {event.kind}\ndata: {json.dumps(data, default=str)}\n\n".encode()


class _Reader:
    """One client: its queue, and how many events it has lost since the last report."""

    def __init__(self, request: web.Request, patience_s: float) -> None:
        self._request = request
        self._patience_s = patience_s
        self._queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE_LENGTH)
        self._lost = 0
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})

    def add(self, event: Event) -> None:
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._lost += 1

    async def run(self, follow: bool) -> None:
        """Run until the client goes, is cut off, or this is cancelled; without `follow`, until all that waits is
        sent."""
        await self._send(b": l4lb events\n\n")
        while follow or not self._queue.empty():
            await self._send(await self._next())
            if self._lost and self._queue.empty():
                missed, self._lost = self._lost, 0
                await self._send(_message(Event("events_lost", {"count": missed})))

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(KEEPALIVE_S):
                return _message(await self._queue.get())
        except TimeoutError:
            return b": still here\n\n"

    async def _send(self, data: bytes) -> None:
        """The transport keeps what the client does not take, up to its limit; then this waits."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self.response.write(data)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("takes nothing") from None


class EventStream:
    """Serves readers from `events`, at most READERS_MAX at once."""

    def __init__(self, events: Events, patience_s: float = PATIENCE_S) -> None:
        self._events = events
        self._patience_s = patience_s
        self._readers: set[asyncio.Task[object]] = set()

    @property
    def full(self) -> bool:
        return len(self._readers) >= READERS_MAX

    async def serve(self, request: web.Request, last: int = 0, follow: bool = True) -> web.StreamResponse:
        """Serve until the client goes. It first gets the latest `last` events; without `follow`, these alone."""
        reader = _Reader(request, self._patience_s)
        for event in list(self._events.recent)[-last:] if last else ():
            reader.add(event)
        task = asyncio.current_task()
        assert task is not None
        self._readers.add(task)
        unsubscribe = self._events.subscribe(reader.add) if follow else lambda: None
        try:
            await reader.response.prepare(request)
            await reader.run(follow)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            unsubscribe()
            self._readers.discard(task)
        return reader.response

    def stop(self) -> None:
        """End all streams; otherwise the server would wait for them."""
        for reader in self._readers:
            reader.cancel()
