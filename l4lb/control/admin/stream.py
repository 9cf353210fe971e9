"""``GET /v1/events``: what happens, as Server-Sent Events (WHATWG HTML, section 9.2). Control loop only.

A reader that does not keep up loses events, never the balancer's time: its queue is bounded, and the number that it
lost is told with the next one that it gets (kind ``events_lost``). One that takes nothing for PATIENCE_S is cut off.
Who comes late may ask for the latest events first: on a page that is opened after the incident they are the news.
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
KEEPALIVE_S = 15.0  # a comment so often, so that proxies between leave an idle stream open


def _message(event: Event) -> bytes:
    level = logging.getLevelName(event.level).lower()
    data = {"kind": event.kind, "time": event.time, "level": level, **event.fields}
    return f"event: {event.kind}\ndata: {json.dumps(data, default=str)}\n\n".encode()


class _Reader:
    """One client: what waits for it, and how many events it has lost since it was last told."""

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

    async def run(self) -> None:
        """Until the client goes, or is cut off, or this is cancelled."""
        await self._send(b": l4lb events\n\n")
        while True:
            await self._send(await self._next())
            if self._lost and self._queue.empty():
                missed, self._lost = self._lost, 0
                await self._send(_message(Event("events_lost", {"count": missed})))

    async def _next(self) -> bytes:
        try:
            return _message(await asyncio.wait_for(self._queue.get(), KEEPALIVE_S))
        except TimeoutError:
            return b": still here\n\n"

    async def _send(self, data: bytes) -> None:
        """What the client does not take is kept by the transport up to its limit, then this waits."""
        try:
            await asyncio.wait_for(self.response.write(data), self._patience_s)
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

    async def serve(self, request: web.Request, last: int = 0) -> web.StreamResponse:
        """Until the client goes; `last`: how many of the latest events it gets first."""
        reader = _Reader(request, self._patience_s)
        for event in list(self._events.recent)[-last:] if last else ():
            reader.add(event)
        task = asyncio.current_task()
        assert task is not None
        self._readers.add(task)
        unsubscribe = self._events.subscribe(reader.add)
        try:
            await reader.response.prepare(request)
            await reader.run()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            unsubscribe()
            self._readers.discard(task)
        return reader.response

    def stop(self) -> None:
        """End all streams; the server would wait for them."""
        for reader in self._readers:
            reader.cancel()
