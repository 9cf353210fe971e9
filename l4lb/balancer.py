"""`LoadBalancer`: the whole product as an object, for programs and for `l4lb serve`.

It runs the control plane on an event loop of its own, in one thread, and the native workers in theirs. Its methods may
be called from any thread; those that begin with ``a`` are awaitable from any asyncio loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Self, TypeVar

from l4lb.config import Config
from l4lb.control.plane import ControlPlane
from l4lb.control.process.host import Host
from l4lb.control.process.inheritance import Inheritance
from l4lb.control.reporting import shapes
from l4lb.control.sessions.sessions import SessionQuery
from l4lb.control.state.state_file import read_state
from l4lb.engine.making import native_forwarder, worker_count
from l4lb.errors import EngineError
from l4lb.model.changes import Changes
from l4lb.model.forwarder import Forwarder
from l4lb.model.sessions import LIMIT_DEFAULT, SourceOrder
from l4lb.model.stats import Stats
from l4lb.net.limits import expect_memory_for
from l4lb.net.resolving import Lookup, look_up
from l4lb.net.threads import REFUSED, expect_alive, name_this_thread, new_loop, no_thread, started
from l4lb.views import BansView, ListenerView, PoolView

T = TypeVar("T")
_OTHER_THREADS = 3  # the control loop's, one beside it, one for signals or the access log
_LOOK_AGAIN_S = 1.0
_FINISH_S = 1.0  # how long callers in other threads have to return from what `close` ends


class LoadBalancer:
    """A load balancer in this process.

    Use it as a context manager, plain or async, or call `start` and `close`. It installs no signal handlers and keeps
    no global state; several may run in one process. `forwarder_factory` makes the data plane; `load` reads the
    configuration again for `reload`, by default from the file that `config` was loaded from. `inheritance` comes from
    the process that this one replaces, `host` describes the process that this runs in, `lookup` resolves names.
    """

    def __init__(
        self,
        config: Config,
        *,
        forwarder_factory: Callable[[Config], Forwarder] = native_forwarder,
        load: Callable[[], Config] | None = None,
        inheritance: Inheritance | None = None,
        host: Host | None = None,
        lookup: Lookup = look_up,
    ) -> None:
        self._host = host
        self._lookup = lookup
        self._inheritance = inheritance
        self._started_with = config
        self._load = load
        self._forwarder_factory = forwarder_factory
        self._plane: ControlPlane | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._aside = ThreadPoolExecutor()  # the loop's, from `start` on
        self._life = threading.Lock()  # start and close exclude each other

    # ---- life ----

    def start(self) -> None:
        """Listen and forward. Raises `l4lb.errors.ConfigError` (port in use, ...) and leaves nothing behind."""
        with self._life:
            if self._plane is not None:
                raise EngineError("already started")
            expect_memory_for(worker_count(self._started_with) + _OTHER_THREADS)
            self._loop = new_loop()
            self._aside = ThreadPoolExecutor(
                thread_name_prefix="l4lb-aside", initializer=name_this_thread, initargs=("l4lb-aside",)
            )
            self._loop.set_default_executor(self._aside)
            try:
                thread = threading.Thread(target=self._run_loop, name="l4lb-control", daemon=True)
                self._thread = started(thread)
                self._plane = self.run(self._start())
            except BaseException as error:
                self._end_loop()
                if isinstance(error, RuntimeError) and str(error) == REFUSED:
                    raise no_thread() from error
                raise

    async def _start(self) -> ControlPlane:
        inheritance = self._inheritance or Inheritance(*read_state(self._started_with))
        forwarder = self._forwarder_factory(self._started_with)
        try:
            plane = ControlPlane(self._started_with, forwarder, self._load, inheritance, self._host, self._lookup)
        except BaseException:
            forwarder.close()
            raise
        await plane.start()
        return plane

    def close(self) -> None:
        """Stop at once: sessions that are still there are reset. Idempotent; leaves no thread and no fd behind."""
        with self._life:
            plane, self._plane = self._plane, None
            try:
                if plane is not None:
                    self.run(plane.stop())
            finally:
                self._end_loop()

    def reload(self, config: Config | None = None) -> Changes:
        """Apply `config`, or by default the file as it is now; return when workers use it.

        Established sessions, counters and unchanged listeners' sockets stay, and so do runtime changes that the new
        configuration does not contradict. Raises `l4lb.errors.ConfigError`, with every problem, when it cannot be used;
        nothing has changed then.
        """
        return self.run(self.plane.reload(config))

    def reopen_logs(self) -> None:
        """Open the access log's file again, after it was renamed. No line is split between the two files."""
        self.run(self._reopen_logs())

    async def _reopen_logs(self) -> None:
        self.plane.reopen_logs()

    def upgrade(self) -> int:
        """Let a new process take over the listening sockets, and return its pid. Call `drain` and `close` afterwards.

        Raises `l4lb.errors.UpgradeError` when it does not start; this process then goes on.
        """
        return self.run(self.plane.upgrade())

    def drain(self, timeout: float | None = None) -> bool:
        """Stop accepting and wait up to `timeout` seconds (default: drain_timeout) for the sessions to end.

        Returns True when none is left. Call `close` afterwards.
        """
        return self.run(self._drain(timeout))

    def wait_ready(self, timeout: float = 10.0) -> bool:
        """Wait until every backend has been checked and every pool has a usable one.

        Returns False when that takes longer than `timeout` seconds.
        """
        return self.run(self.plane.wait_ready(timeout))

    # ---- what is there ----

    @property
    def config(self) -> Config:
        """The desired configuration: the file's with the runtime changes."""
        plane = self._plane
        return self._started_with if plane is None else plane.state.config

    @property
    def plane(self) -> ControlPlane:
        """The running control plane; EngineError before `start` and after `close`."""
        if self._plane is None:
            raise EngineError("not started")
        return self._plane

    @property
    def listeners(self) -> dict[str, ListenerView]:
        return {name: ListenerView(self, state) for name, state in self.plane.state.listeners.items()}

    @property
    def pools(self) -> dict[str, PoolView]:
        return {name: PoolView(self, state) for name, state in self.plane.state.pools.items()}

    @property
    def bans(self) -> BansView:
        return BansView(self)

    @property
    def admin_address(self) -> str:
        """The address of the admin API; empty when it is off."""
        return self.plane.admin.address

    def stats(self) -> Stats:
        """All counters, read now."""
        return self.run(self._stats())

    def status(self) -> shapes.Status:
        """The answer of ``GET /v1/status``."""
        return self.run(self._status())

    def listener_addresses(self, name: str) -> list[str]:
        """The addresses on which listener `name` listens, with real port numbers."""
        return self.run(self._addresses(name))

    def explain(self, pool: str, source: str, to: str = "") -> shapes.Explanation:
        """See `PoolView.explain`. Raises KeyError for an unknown pool."""
        return self.run(self._explain(pool, source, to))

    def sessions(
        self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "", limit: int = LIMIT_DEFAULT
    ) -> list[shapes.Session]:
        """The current sessions, the oldest first, at most `limit`.

        A session must match everything that is given: `backend` is an id or address, `source` an address, address:port
        or network of clients. Raises `l4lb.errors.ChangeError` for an unknown name or an invalid source.
        """
        return self.run(self._sessions(SessionQuery(pool, backend, source, listener), limit))

    def sources(self, listener: str = "", by: SourceOrder = "sessions", limit: int = 20) -> list[shapes.Source]:
        """The heaviest sources of clients, where `per_source` limits them, by sessions, rate or bytes. Raises
        `l4lb.errors.ChangeError` for an unknown listener."""
        return self.run(self._sources(listener, by, limit))

    def kill_session(self, id: str) -> shapes.Session:
        """Reset the session with that id (close reason ``admin``) and return its last state.

        Raises `l4lb.errors.ChangeError` when there is none, or it is a flow in the kernel (`conflict`).
        """
        return self.run(self.plane.sessions.end(id))

    def kill_sessions(self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "") -> int:
        """Reset all sessions that match, as in `sessions`; with nothing given, every session. Returns their number;
        flows in the kernel are not among them, since they cannot be ended."""
        return self.run(self.plane.sessions.end_all(SessionQuery(pool, backend, source, listener)))["sessions"]

    async def _sessions(self, query: SessionQuery, limit: int) -> list[shapes.Session]:
        return (await self.plane.sessions.list(query, limit))[0]

    async def _sources(self, listener: str, by: SourceOrder, limit: int) -> list[shapes.Source]:
        return list(self.plane.sessions.sources(listener, by, limit)[0])

    async def _explain(self, pool: str, source: str, to: str) -> shapes.Explanation:
        return self.plane.status.explain(pool, source, to)

    async def _addresses(self, name: str) -> list[str]:
        return self.plane.addresses(name)

    async def _drain(self, timeout: float | None) -> bool:
        return await self.plane.drain(timeout)

    async def _stats(self) -> Stats:
        return self.plane.forwarder.stats()

    async def _status(self) -> shapes.Status:
        return self.plane.status.status()

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
        await asyncio.shield(asyncio.to_thread(self.close))

    async def adrain(self, timeout: float | None = None) -> bool:
        return await self.arun(self._drain(timeout))

    async def areload(self, config: Config | None = None) -> Changes:
        return await self.arun(self.plane.reload(config))

    async def asessions(
        self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "", limit: int = LIMIT_DEFAULT
    ) -> list[shapes.Session]:
        return await self.arun(self._sessions(SessionQuery(pool, backend, source, listener), limit))

    async def asources(self, listener: str = "", by: SourceOrder = "sessions", limit: int = 20) -> list[shapes.Source]:
        return await self.arun(self._sources(listener, by, limit))

    async def akill_session(self, id: str) -> shapes.Session:
        return await self.arun(self.plane.sessions.end(id))

    async def akill_sessions(self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "") -> int:
        ended = await self.arun(self.plane.sessions.end_all(SessionQuery(pool, backend, source, listener)))
        return ended["sessions"]

    async def await_ready(self, timeout: float = 10.0) -> bool:
        return await self.arun(self.plane.wait_ready(timeout))

    async def astats(self) -> Stats:
        return await self.arun(self._stats())

    async def astatus(self) -> shapes.Status:
        return await self.arun(self._status())

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

    # ---- the control loop's thread ----

    def _run_loop(self) -> None:
        assert self._loop is not None
        with contextlib.suppress(MemoryError):  # whoever waits for the loop hears of it: see `run`
            name_this_thread("l4lb-control")
            asyncio.set_event_loop(self._loop)
            self._loop.run_forever()

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin `coroutine` on the control loop. EngineError when the loop does not run."""
        try:
            if self._loop is not None:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # closed meanwhile by another thread
            pass
        coroutine.close()
        raise EngineError("not started")

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` on the control loop and wait for its result."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise EngineError("called from the control loop's own thread, which would wait for itself")
        thread, future = self._thread, self._submit(coroutine)
        while not wait([future], _LOOK_AGAIN_S).done:
            expect_alive(thread, coroutine)
        return future.result()

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The same, awaited on any loop."""
        thread, future = self._thread, asyncio.wrap_future(self._submit(coroutine))
        try:
            while not (await asyncio.wait([future], timeout=_LOOK_AGAIN_S))[0]:
                expect_alive(thread, coroutine)
        except BaseException:
            future.cancel()
            raise
        return await future

    def _end_loop(self) -> None:
        loop, thread = self._loop, self._thread
        if loop is None:
            return
        if thread is not None and thread.is_alive():
            self.run(_finish_tasks())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
        self._aside.shutdown()
        loop.close()
        self._loop = self._thread = None


async def _finish_tasks() -> None:
    """Let the other tasks of this loop end, and cancel those that do not."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, pending = await asyncio.wait(others, timeout=_FINISH_S)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
