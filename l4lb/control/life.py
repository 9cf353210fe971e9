"""The life of a load balancer in this process: start, what runs on its control loop, close.

It ends with the interpreter at the latest, and belongs to the process that started it: in a child that was forked from
that, every call is an EngineError, and `close` does nothing.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from l4lb.config import Config
from l4lb.control.loop import ControlLoop, refused_thread
from l4lb.control.plane import ControlPlane
from l4lb.control.process.host import Host
from l4lb.control.process.inheritance import Inheritance
from l4lb.control.state.feed import Feed
from l4lb.control.state.state_file import read_state
from l4lb.errors import EngineError
from l4lb.model.forwarder import Forwarder
from l4lb.net.cpus import worker_count
from l4lb.net.limits import expect_memory_for
from l4lb.net.resolving import Lookup

T = TypeVar("T")
_OTHER_THREADS = 3  # the control loop's, one beside it, one for signals or the access log
_running: set[Life] = set()  # to be closed when the interpreter ends


def _close_all() -> None:
    """A process that ends without `close` still ends in order. In a forked child, `close` does nothing."""
    for balancer in list(_running):
        with contextlib.suppress(Exception):
            balancer.close()


# Before the threads of executors end, without which nothing can be closed in order: atexit, which Python documents,
# would be too late. RuntimeError: imported while the interpreter ends, when no thread can be started either.
with contextlib.suppress(RuntimeError):
    getattr(threading, "_register_atexit", atexit.register)(_close_all)


class Life:
    """What `l4lb.LoadBalancer` adds its verbs to; the arguments are explained there."""

    def __init__(
        self,
        config: Config,
        forwarder_factory: Callable[[Config], Forwarder],
        load: Callable[[], Config] | None,
        inheritance: Inheritance | None,
        host: Host | None,
        lookup: Lookup,
    ) -> None:
        self._host = host
        self._lookup = lookup
        self._inheritance = inheritance
        self._started_with = config
        self._load = load
        self._forwarder_factory = forwarder_factory
        self._plane: ControlPlane | None = None
        self._control: ControlLoop | None = None
        self._feeds: weakref.WeakSet[Feed] = weakref.WeakSet()
        self._life = threading.Lock()  # start and close exclude each other

    def start(self) -> None:
        """Listen and forward. Raises `l4lb.errors.ConfigError` (port in use, ...) or `EngineError` (out of memory,
        ...), and leaves nothing behind then."""
        self._expect_own_process()
        with self._life:
            if self._plane is not None:
                raise EngineError("already started")
            expect_memory_for(worker_count(self._started_with.global_.workers) + _OTHER_THREADS)
            self._control = ControlLoop()
            try:
                self._control.start()
                self._plane = self.run(self._start())
            except BaseException as error:
                self._end_loop()
                if (refused := refused_thread(error)) is not None:
                    raise refused from error
                raise
            _running.add(self)

    async def _start(self) -> ControlPlane:
        inheritance = self._inheritance or Inheritance(*read_state(self._started_with))
        forwarder = self._forwarder_factory(self._started_with)
        try:
            plane = ControlPlane(self._started_with, forwarder, self._load, inheritance, self._host, self._lookup)
        except BaseException:
            forwarder.close()
            raise
        try:
            await self._prepare(plane)
        except BaseException:
            await plane.stop()
            raise
        await plane.start()
        return plane

    async def _prepare(self, plane: ControlPlane) -> None:
        """Before it starts, on its loop."""

    def close(self) -> None:
        """Stop at once: sessions that are still there are reset. Idempotent; leaves no thread and no file descriptor
        behind. In a child that was forked, it does nothing: the load balancer is the parent's."""
        if self._control is not None and self._control.is_forked:
            return
        with self._life:
            plane, self._plane = self._plane, None
            try:
                if plane is not None:
                    self.run(plane.stop())
            finally:
                self._end_loop()

    def _end_loop(self) -> None:
        control, self._control = self._control, None
        try:
            if control is not None:
                control.end()
        finally:
            _running.discard(self)
            for feed in list(self._feeds):
                feed.end()

    def _expect_own_process(self) -> None:
        if self._control is not None:
            self._control.expect_own_process()

    # ---- the same under asyncio ----

    async def astart(self) -> None:
        """Like `start`. When it is cancelled while starting, it closes what it has opened before it re-raises."""
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            if not starting.cancelled() and starting.exception() is None:
                await asyncio.to_thread(self.close)
            raise

    async def aclose(self) -> None:
        """See `close`. It is finished even when it is cancelled."""
        await asyncio.shield(asyncio.to_thread(self.close))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.astart()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # ---- what is there ----

    @property
    def config(self) -> Config:
        """The desired configuration: the file's with the runtime changes."""
        self._expect_own_process()
        return self._config

    @property
    def _config(self) -> Config:
        plane = self._plane
        return self._started_with if plane is None else plane.state.config

    @property
    def plane(self) -> ControlPlane:
        """The running control plane; EngineError before `start` and after `close`."""
        self._expect_own_process()
        if self._plane is None:
            raise EngineError("not started")
        return self._plane

    # ---- on the control loop ----

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine`, of this object's own, on the control loop and wait for its result."""
        return self._loop_for(coroutine).run(coroutine)

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The same, awaited on any loop."""
        return await self._loop_for(coroutine).arun(coroutine)

    def _loop_for(self, coroutine: Coroutine[Any, Any, Any]) -> ControlLoop:
        control = self._control
        if control is None:
            coroutine.close()
            raise EngineError("not started")
        return control

    def _follow(self, feed: Feed, last: int, follow: bool) -> Callable[[], None]:
        """Have `feed` filled. Returns what ends that. Nobody waits: what happens after this call comes after it on the
        control loop."""
        events, control = self.plane.events, self._control
        if control is None:
            raise EngineError("not started")
        self._feeds.add(feed)
        control.call_soon(lambda: events.follow(feed.put, last))
        if not follow:
            control.call_soon(feed.end)
        return lambda: control.call_soon(lambda: events.unsubscribe(feed.put))
