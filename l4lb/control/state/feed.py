"""Events for those who iterate over them: a bounded queue between the thread where they happen and the reader's.

A reader that is slower than events come loses the newest ones once QUEUE_LENGTH of them wait for it, and is told how
many with an event of kind ``events_lost``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Self

from l4lb.control.state.events import Event
from l4lb.errors import L4lbError, UsageError

QUEUE_LENGTH = 1000
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def selection(level: str, pool: str) -> Callable[[Event], bool]:
    """Whether an event is at least of `level`, and about `pool` unless that is empty. UsageError for another level."""
    if level not in LEVELS:
        raise UsageError(f'level "{level}": expected {", ".join(LEVELS)}')
    return lambda event: event.level >= LEVELS[level] and (not pool or event.fields.get("pool") == pool)


class Feed:
    """The queue. `put` and `end` on any thread; `woken` is called, on that thread, when there may be something."""

    def __init__(self, wants: Callable[[Event], bool], length: int = QUEUE_LENGTH) -> None:
        self._wants = wants
        self._length = length
        self._changed = threading.Condition()
        self._queue: deque[Event] = deque()
        self._lost = 0
        self._ended = False
        self._error: L4lbError | None = None
        self.woken: Callable[[], None] = lambda: None

    def put(self, event: Event) -> None:
        if not self._wants(event):
            return
        with self._changed:
            if self._ended:
                return
            if len(self._queue) < self._length:
                self._queue.append(event)
            else:
                self._lost += 1
            self._changed.notify()
        self.woken()

    def end(self, error: L4lbError | None = None) -> None:
        """No more come. What waits is still read, then `error` is raised, if there is one."""
        with self._changed:
            if self._ended:
                return
            self._ended, self._error = True, error
            self._changed.notify_all()
        self.woken()

    def drop(self) -> None:
        """Nobody reads it any more."""
        self.end()
        with self._changed:
            self._queue.clear()
            self._lost, self._error = 0, None

    def take(self) -> Event | None:
        """The next one, or None when there is none now. StopIteration at the end."""
        with self._changed:
            if self._queue:
                return self._queue.popleft()
            if self._lost:
                lost, self._lost = self._lost, 0
                return Event("events_lost", {"count": lost}, logging.WARNING)
            if not self._ended:
                return None
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration

    def wait(self) -> Event:
        """The next one, once it is there. StopIteration at the end."""
        with self._changed:
            while (event := self.take()) is None:
                self._changed.wait()
            return event


class EventIterator(Iterator[Event]):
    """The events from when it was made until `close`, or until the load balancer ends. Close it, use it in a ``with``
    statement, or let it go: nothing stays behind. One thread reads; any may close."""

    def __init__(self, feed: Feed, unsubscribe: Callable[[], None]) -> None:
        self._feed = feed
        self._finalizer = weakref.finalize(self, unsubscribe)
        self._finalizer.atexit = False

    def __next__(self) -> Event:
        return self._feed.wait()

    def close(self) -> None:
        """End the iteration, also one that waits on another thread. Idempotent."""
        self._feed.drop()
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncEventIterator(AsyncIterator[Event]):
    """The same for one task of an asyncio loop. A cancelled wait loses no event.

    `wait_begun` may block until events are received, for ``async with``.
    """

    def __init__(
        self, feed: Feed, unsubscribe: Callable[[], None], wait_begun: Callable[[], None] = lambda: None
    ) -> None:
        self._feed = feed
        self._wait_begun = wait_begun
        self._finalizer = weakref.finalize(self, unsubscribe)
        self._finalizer.atexit = False

    async def __anext__(self) -> Event:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        self._feed.woken = lambda: _set(loop, woken)
        try:
            while True:
                woken.clear()
                if (event := self._feed.take()) is not None:
                    return event
                await woken.wait()
        except StopIteration:
            raise StopAsyncIteration from None
        finally:
            self._feed.woken = lambda: None

    async def aclose(self) -> None:
        """End the iteration. Idempotent."""
        self._feed.drop()
        await asyncio.to_thread(self._finalizer)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._wait_begun)
        except BaseException:
            await asyncio.shield(self.aclose())
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the reader's loop is closed: it will not read again
        loop.call_soon_threadsafe(event.set)
