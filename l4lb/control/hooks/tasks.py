"""Async hooks: tasks on an event loop of their own, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from l4lb.errors import EngineError
from l4lb.net.threads import name_this_thread, new_loop, started

TASKS_MAX = 4096
_JOIN_S = 1.0


def is_late(error: BaseException) -> bool:
    """Whether it is asyncio.timeout's own, not one that the hook raised."""
    return isinstance(error, TimeoutError) and isinstance(error.__cause__, asyncio.CancelledError)


def is_ending() -> bool:
    """Whether this task is to end, not one that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Tasks:
    """Between `start` and `stop`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="l4lb-hook-loop", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun = 0  # and not ended; also what the loop has not come to yet, which a call may hold up
        self._counting = threading.Lock()

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
        """Cancel what is under way, tasks that hooks began too. False: one does not return, and the thread ends with
        it."""
        loop = self._loop
        if loop is None:
            return True
        loop.call_soon_threadsafe(self._cancel_all)
        self._thread.join(_JOIN_S)
        return not self._thread.is_alive()

    def has_room(self) -> bool:
        return self._begun < TASKS_MAX

    def begin(self, work: Callable[[], Awaitable[Any]], ended: Callable[[], None] = lambda: None) -> bool:
        """Any thread but that of the loop. `ended` is called there, whatever comes of it. False: the loop has ended."""
        if self._loop is None:
            return False
        self._count(1)
        try:
            self._loop.call_soon_threadsafe(self._begin, work, ended)
        except RuntimeError:  # closed meanwhile
            self._count(-1)
            return False
        return True

    def _count(self, more: int) -> None:
        with self._counting:
            self._begun += more

    # ---- its thread ----

    def _run(self) -> None:
        assert self._loop is not None
        name_this_thread("l4lb-hook-loop")
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _begin(self, work: Callable[[], Awaitable[Any]], ended: Callable[[], None]) -> None:
        assert self._loop is not None

        async def run() -> None:
            await work()

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._count(-1))
        task.add_done_callback(lambda _: ended())

    def _cancel_all(self) -> None:
        assert self._loop is not None
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.create_task(self._end(tasks))

    async def _end(self, tasks: set[asyncio.Task[Any]]) -> None:
        assert self._loop is not None
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.stop()
