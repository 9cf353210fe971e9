"""Async hooks: tasks on an event loop of their own, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from l4lb.errors import EngineError
from l4lb.net.loops import cancel_others, new_loop, run_loop
from l4lb.net.threads import name_this_thread, started

TASKS_MAX = 4096
_JOIN_S = 1.0


class Tasks:
    """Between `start` and `stop`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="l4lb-hook-loop", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()  # guards the two below
        self._begun = 0  # and not ended; also what the loop has not come to yet, which a call may hold up
        self._stopping = False
        self._over = False  # of the loop's thread

    def start(self) -> None:
        """EngineError when there can be no loop or thread."""
        self._loop = new_loop()
        try:
            started(self._thread)
        except EngineError:
            self._loop.close()
            self._loop = None
            raise

    def stop(self) -> bool:
        """Begin nothing more, and cancel what is under way, tasks that hooks began too. False: one does not return, and
        the thread ends with it."""
        loop = self._loop
        if loop is None:
            return True
        with self._lock:
            if not self._stopping:
                self._stopping = True
                loop.call_soon_threadsafe(self._end)  # after all that was begun
        self._thread.join(_JOIN_S)
        return not self._thread.is_alive()

    def has_room(self) -> bool:
        return self._begun < TASKS_MAX

    def begin(self, work: Callable[[], Awaitable[Any]], ended: Callable[[], None] = lambda: None) -> bool:
        """Any thread but that of the loop. `ended` is called there, whatever comes of it. False: not started, or
        stopping."""
        with self._lock:
            if self._loop is None or self._stopping:
                return False
            self._begun += 1
            self._loop.call_soon_threadsafe(self._begin, work, ended)
        return True

    # ---- its thread ----

    def _run(self) -> None:
        assert self._loop is not None
        name_this_thread("l4lb-hook-loop")
        asyncio.set_event_loop(self._loop)
        run_loop(self._loop, lambda: self._over)
        self._loop.run_until_complete(cancel_others())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _end(self) -> None:
        assert self._loop is not None
        self._over = True
        self._loop.stop()

    def _begin(self, work: Callable[[], Awaitable[Any]], ended: Callable[[], None]) -> None:
        assert self._loop is not None

        async def run() -> None:
            await work()

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        task.add_done_callback(lambda _: ended())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with self._lock:
            self._begun -= 1
