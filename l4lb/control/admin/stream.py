"""``GET /v1/events``: what happens, as Server-Sent Events (WHATWG HTML, section 9.2). Control loop only.

A reader that does not keep up loses events, never the balancer's time: its queue is bounded, and the number that it
lost is told with the next one that it gets (kind ``events_lost``).
"""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from l4lb.control.events import Event, Events

QUEUE_LENGTH = 1000
KEEPALIVE_S = 15.0  # a comment so often, so that proxies between leave an idle stream open


def _message(event: Event) -> bytes:
    data = {"kind": event.kind, "time": event.time, **event.fields}
    return f"event: {event.kind}\ndata: {json.dumps(data, default=str)}\n\n".encode()


class EventStream:
    """Serves any number of readers from `events`."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._readers: set[asyncio.Task[object]] = set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE_LENGTH)
        lost = 0

        def heard(event: Event) -> None:
            nonlocal lost
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                lost += 1

        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._readers.add(task)
        unsubscribe = self._events.subscribe(heard)
        try:
            await response.write(b": l4lb events\n\n")
            while True:
                await response.write(await self._next(queue))
                if lost and queue.empty():
                    missed, lost = lost, 0
                    await response.write(_message(Event("events_lost", {"count": missed})))
        except (ConnectionError, asyncio.CancelledError):
            return response
        finally:
            unsubscribe()
            self._readers.discard(task)

    async def _next(self, queue: asyncio.Queue[Event]) -> bytes:
        try:
            return _message(await asyncio.wait_for(queue.get(), KEEPALIVE_S))
        except TimeoutError:
            return b": still here\n\n"

    def stop(self) -> None:
        """End all streams; the server would wait for them."""
        for reader in self._readers:
            reader.cancel()
