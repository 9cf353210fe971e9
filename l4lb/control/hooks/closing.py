"""Hooks that get records of sessions that have ended: which there are, and who calls them. Control loop only, except
where it says otherwise.

Each is an outlet of the stream of records, with a queue and a thread of its own (`l4lb.net.output.record_sink`). A
plain one is called there, an async one on the hooks' event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from l4lb.config.rules.hooks import no_record_for
from l4lb.control.hooks.failures import Failures
from l4lb.control.hooks.given import expect_free
from l4lb.control.hooks.tasks import Tasks
from l4lb.control.reporting.access_format import Formatter
from l4lb.control.state.hooked import Hook, Hooks, added, configured_as, first_of, without
from l4lb.control.state.state import State
from l4lb.model.hooks import CloseCounts
from l4lb.net.loops import is_ending
from l4lb.net.output.line_writer import Losing
from l4lb.net.output.record_sink import CLOSE_WITHIN_S, PluginSink
from l4lb.net.output.record_stream import Outlet, RecordStream

AT_ONCE = 64  # calls of one async hook that are under way
_NOT_AWAITED = "returned a coroutine; expected an async function, or a plain one that awaits nothing"


class Returned:
    """How many calls of all hooks came back. Any thread."""

    def __init__(self) -> None:
        self.delivered = 0
        self.failed = 0
        self._lock = threading.Lock()

    def add(self, *, failed: bool) -> None:
        with self._lock:
            self.failed += failed
            self.delivered += not failed


class Caller:
    """A `RecordSink` that calls one hook. `tasks` are those of an async one."""

    def __init__(self, hook: Hook, tasks: Tasks | None, returned: Returned, failures: Failures) -> None:
        self._hook = hook
        self._tasks = tasks
        self._returned = returned
        self._failures = failures
        self._room = threading.Semaphore(AT_ONCE)

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        for record in records:
            if self._tasks is not None:
                self._begin(self._tasks, record)
            else:
                self._call(record)

    def close(self) -> None:
        """Wait for calls that are under way."""
        deadline = time.monotonic() + CLOSE_WITHIN_S
        for _ in range(AT_ONCE):
            if not self._room.acquire(timeout=max(0.0, deadline - time.monotonic())):
                return

    def _call(self, record: dict[str, Any]) -> None:
        try:
            said = self._hook.call(record)
            if inspect.iscoroutine(said):
                said.close()
                raise TypeError(_NOT_AWAITED)
        except BaseException as error:  # SystemExit too: it must lose this record, not end the thread
            self._failed(record, error)
        else:
            self._returned.add(failed=False)

    def _begin(self, tasks: Tasks, record: dict[str, Any]) -> None:
        self._room.acquire()
        if not tasks.begin(lambda: self._await(record), self._room.release):
            self._room.release()
            raise RuntimeError("the event loop of hooks has ended")

    async def _await(self, record: dict[str, Any]) -> None:
        try:
            await self._hook.call(record)  # type: ignore[misc]
        except asyncio.CancelledError as error:
            if is_ending():
                raise
            self._failed(record, error)
        except BaseException as error:  # SystemExit too: it must lose this record, not end the loop
            self._failed(record, error)
        else:
            self._returned.add(failed=False)

    def _failed(self, record: dict[str, Any], error: BaseException) -> None:
        self._returned.add(failed=True)
        self._failures.add(self._hook.name, f"{type(error).__name__}: {error}", listener=record["listener"])


class _Outlet(Outlet):
    """Of a hook."""

    def __init__(self, sink: PluginSink, losing: Callable[[Losing], None], wants: Callable[[str], bool]) -> None:
        super().__init__(sink, Formatter("json").lines, losing, wants)
        self.sink = sink

    def finish(self) -> None:
        self.writer.flush()
        self.sink.finish()


@dataclass(frozen=True, slots=True, eq=False)
class _Served:
    hook: Hook
    outlet: _Outlet


class Closing:
    """`open_tasks` gives those of async hooks, or raises EngineError."""

    def __init__(
        self, state: State, records: RecordStream, failures: Failures, open_tasks: Callable[[], Tasks]
    ) -> None:
        self._state = state
        self._records = records
        self._failures = failures
        self._open_tasks = open_tasks
        self.hooks: Hooks = ()
        self._served: tuple[_Served, ...] = ()
        self._returned = Returned()
        self._dropping: tuple[int, tuple[_Served, ...]] = (0, ())  # dropped before, and by these
        self._used = False
        self._started = False
        self._lock = asyncio.Lock()

    @property
    def counts(self) -> CloseCounts | None:
        """Since the start; None: there never was such a hook. Any thread."""
        if not self._used:
            return None
        before, by = self._dropping
        return CloseCounts(self._returned.delivered, self._returned.failed, before + _dropped(by))

    # ---- which ----

    def add(self, hook: Hook) -> Callable[[], Hooks]:
        """For `change`."""

        def with_it() -> Hooks:
            expect_free(hook, self.hooks, self._state.listeners, no_record_for, "on_close")
            return added(self.hooks, hook)

        return with_it

    def remove(self, listeners: Collection[str] | None) -> Callable[[], Hooks]:
        """For `change`: the hooks of these listeners; None: all hooks."""
        return lambda: without(self.hooks, listeners)

    async def change(self, make: Callable[[], Hooks]) -> None:
        """Return when records go to the hooks that `make` says. ChangeError, or EngineError when there can be no
        thread: nothing has changed."""
        async with self._lock, self._replaced(make()):
            pass

    @contextlib.asynccontextmanager
    async def configured(self, hook: Hook | None) -> AsyncIterator[None]:
        """Afterwards `hook` is the one of the configuration; if what is done meanwhile fails, it is not. EngineError
        when there can be no thread."""
        async with self._lock, self._replaced(configured_as(self.hooks, hook)):
            yield

    async def start(self, hook: Hook | None) -> None:
        """Before the forwarder starts. EngineError."""
        self._started = True
        async with self.configured(hook):
            pass

    @contextlib.asynccontextmanager
    async def _replaced(self, hooks: Hooks) -> AsyncIterator[None]:
        if not self._started:
            yield
            self.hooks = hooks
            return
        kept = [one for one in self._served if one.hook in hooks]
        known = [one.hook for one in kept]
        wanted = [one for one in hooks if one not in known]
        new = await asyncio.to_thread(self._open, wanted) if wanted else []
        try:
            yield
        except BaseException:
            await asyncio.to_thread(self._discard, new)
            raise
        gone = [one for one in self._served if one not in kept]
        if new or gone:
            await asyncio.to_thread(self._use, hooks, (*kept, *new), new, gone)

    def _open(self, hooks: Iterable[Hook]) -> list[_Served]:
        """Any thread."""
        opened: list[_Served] = []
        try:
            for hook in hooks:
                opened.append(self._serve(hook))
            self._records.open()
        except BaseException:
            self._discard(opened)
            raise
        return opened

    def _serve(self, hook: Hook) -> _Served:
        tasks = self._open_tasks() if hook.is_async else None
        sink = PluginSink(hook.name, Caller(hook, tasks, self._returned, self._failures), batch_max=1)
        return _Served(hook, _Outlet(sink, partial(self._losing, hook), partial(self._is_of, hook)))

    def _is_of(self, hook: Hook, listener: str) -> bool:
        """On the stream's thread."""
        return first_of(self.hooks, listener) is hook

    def _discard(self, opened: Sequence[_Served]) -> None:
        for one in opened:
            one.outlet.close()
        self._records.close_if_unused()

    def _use(self, hooks: Hooks, served: tuple[_Served, ...], new: list[_Served], gone: list[_Served]) -> None:
        """Any thread. Nothing here fails."""

        before = self._dropping[0]

        def at_once() -> None:
            self.hooks, self._served, self._used = hooks, served, True
            self._dropping = (before, (*served, *gone))

        self._records.change([one.outlet for one in new], [one.outlet for one in gone], at_once)
        self._dropping = (before + _dropped(gone), served)

    def _losing(self, hook: Hook, losing: Losing) -> None:
        """On the stream's thread, or that which closes the outlet."""
        if losing.reason:
            self._failures.add(hook.name, f"records are dropped: {losing.reason}")

    def hanging(self) -> int:
        """How many did not return, once the stream has stopped. Asked once."""
        served, self._served = self._served, ()
        return sum(one.outlet.sink.abandoned for one in served)


def _dropped(served: Iterable[_Served]) -> int:
    return sum(one.outlet.writer.dropped for one in served)
