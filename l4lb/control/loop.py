"""The control loop's thread: where the control plane of one `LoadBalancer` runs, and how other threads ask it.

A process that was forked from this one has a copy of the object and no such thread: every call there is an EngineError.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from l4lb.errors import EngineError
from l4lb.net.loops import cancel_others, new_loop, run_loop
from l4lb.net.threads import REFUSED, name_this_thread, no_thread, started

T = TypeVar("T")
_LOOK_AGAIN_S = 1.0
_CLOSED = "closed meanwhile, before this call was finished"
_FINISH_S = 1.0  # how long callers in other threads have to return from what `end` ends


class ControlLoop:
    """An event loop on a thread of its own, with threads beside it for what blocks. Started once."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._ending = False  # guarded by it
        self._over = False  # of the loop's thread
        self.loop: asyncio.AbstractEventLoop = new_loop()
        self.thread: threading.Thread | None = None
        self._aside = ThreadPoolExecutor(
            thread_name_prefix="l4lb-aside", initializer=name_this_thread, initargs=("l4lb-aside",)
        )
        self.loop.set_default_executor(self._aside)

    def start(self) -> None:
        self.thread = started(threading.Thread(target=self._run_loop, name="l4lb-control", daemon=True))

    def _run_loop(self) -> None:
        with contextlib.suppress(MemoryError):  # whoever waits for the loop hears of it: see `run`
            name_this_thread("l4lb-control")
            asyncio.set_event_loop(self.loop)
            run_loop(self.loop, lambda: self._over)

    def _stop(self) -> None:
        self._over = True
        self.loop.stop()

    @property
    def is_forked(self) -> bool:
        """In a child of the process that started it."""
        return os.getpid() != self._pid

    def expect_own_process(self) -> None:
        if self.is_forked:
            raise EngineError(
                f"this load balancer runs in process {self._pid}, from which this one was forked: start one of its own "
                "here, or use l4lb.Client"
            )

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin `coroutine` on the control loop. EngineError when the loop does not run, or another thread ends it."""
        try:
            self.expect_own_process()
            with self._lock:
                if self._ending:
                    raise EngineError("not started")
                return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except EngineError:
            coroutine.close()
            raise

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` on the control loop and wait for its result."""
        if threading.current_thread() is self.thread:
            coroutine.close()
            raise EngineError("called from the control loop's own thread, which would wait for itself")
        return self._result(self._submit(coroutine), coroutine)

    def _result(self, future: Future[T], coroutine: Coroutine[Any, Any, T]) -> T:
        while not wait([future], _LOOK_AGAIN_S).done:
            self._expect_alive(future, coroutine)
        try:
            return future.result()
        except CancelledError:
            raise EngineError(_CLOSED) from None

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The same, awaited on any loop."""
        submitted = self._submit(coroutine)
        future = asyncio.wrap_future(submitted)
        try:
            while not (await asyncio.wait([future], timeout=_LOOK_AGAIN_S))[0]:
                self._expect_alive(submitted, coroutine)
        except BaseException:
            future.cancel()
            raise
        if future.cancelled():
            raise EngineError(_CLOSED)
        return future.result()

    def _expect_alive(self, future: Future[T], coroutine: Coroutine[Any, Any, T]) -> None:
        """EngineError when this loop's thread has ended without a result of `coroutine`, and cannot finish it."""
        if (self.thread is None or not self.thread.is_alive()) and not future.done():
            coroutine.close()
            raise EngineError("the control loop has ended: out of memory, or closed meanwhile")

    def call_soon(self, call: Callable[[], object]) -> None:
        """Have `call` made on the control loop, unless that has ended."""
        if not self.is_forked:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(call)

    def end(self) -> None:
        """Finish what runs and end the threads. Called once."""
        with self._lock:
            self._ending = True
        if self.thread is not None and self.thread.is_alive():
            finish = _finish_tasks()
            self._result(asyncio.run_coroutine_threadsafe(finish, self.loop), finish)
            self.loop.call_soon_threadsafe(self._stop)
            self.thread.join()
        self._aside.shutdown()
        self.loop.close()


def refused_thread(error: BaseException) -> EngineError | None:
    """What to say instead, when a library could not start a thread."""
    return no_thread() if isinstance(error, RuntimeError) and str(error) == REFUSED else None


async def _finish_tasks() -> None:
    """Let the other tasks of this loop end, and cancel those that do not."""
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others, timeout=_FINISH_S)
    await cancel_others()
