"""`LoadBalancer`: the whole product as an object, for programs and for `l4lb serve`.

It runs the control plane on an event loop of its own, in one thread, and the native workers in theirs. Its methods may
be called from any thread; those that begin with ``a`` are awaitable from any asyncio loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from l4lb.config import Config
from l4lb.control.hooking import Hooking
from l4lb.control.process.host import Host
from l4lb.control.process.inheritance import Inheritance
from l4lb.control.reporting import part_shapes, shapes
from l4lb.control.sessions.sessions import SessionQuery
from l4lb.control.state.feed import AsyncEventIterator, EventIterator, Feed, selection
from l4lb.engine.making import native_forwarder
from l4lb.errors import UsageError
from l4lb.model.changes import Changes
from l4lb.model.forwarder import Forwarder
from l4lb.model.hints import Named, shown_names, unknown_name
from l4lb.model.sessions import LIMIT_DEFAULT, SourceOrder
from l4lb.model.stats import Stats
from l4lb.net.resolving import Lookup, look_up
from l4lb.views import BansView, ListenerView, PoolView


class LoadBalancer(Hooking):
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
        if not isinstance(config, Config):
            raise _no_config(config)
        super().__init__(config, forwarder_factory, load, inheritance, host, lookup)

    def __repr__(self) -> str:
        control, plane = self._control, self._plane
        if control is not None and control.is_forked:
            state = "of another process"
        else:
            state = "not running" if plane is None else plane.state.process.value
        config = self._config
        names = f"{shown_names('listeners', config.listeners)}; {shown_names('pools', config.pools)}"
        return f"<LoadBalancer {state}: {names}>"

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
    def listeners(self) -> dict[str, ListenerView]:
        """By name. ``[]`` with another name raises `l4lb.errors.UnknownNameError`, a KeyError."""
        states = self.plane.state.listeners
        return Named("listener", ((name, ListenerView(self, state)) for name, state in states.items()))

    @property
    def pools(self) -> dict[str, PoolView]:
        """By name. ``[]`` with another name raises `l4lb.errors.UnknownNameError`, a KeyError."""
        return Named("pool", ((name, PoolView(self, state)) for name, state in self.plane.state.pools.items()))

    @property
    def bans(self) -> BansView:
        """Who is kept out at runtime."""
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

    def fleet(self) -> part_shapes.Fleet:
        """The answer of ``GET /v1/fleet``: all nodes, as this one knows them. Raises `l4lb.errors.ChangeError`
        (`not_found`) when this process belongs to no fleet."""
        return self.run(self._fleet())

    def listener_addresses(self, name: str) -> list[str]:
        """The addresses on which listener `name` listens, with real port numbers; none while it drains. Raises
        `l4lb.errors.UnknownNameError`."""
        return self.run(self._addresses(name))

    def explain(self, pool: str, source: str, to: str = "") -> shapes.Explanation:
        """See `PoolView.explain`. Raises `l4lb.errors.UnknownNameError` for an unknown pool."""
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

    def events(self, *, level: str = "info", pool: str = "", last: int = 0, follow: bool = True) -> EventIterator:
        """What happens from now on: ``for event in lb.events(level="warning"): print(event.kind, event.fields)``.

        Only events of at least `level` (debug, info, warning, error) and, with `pool`, about that pool; first of all
        the latest `last` events of the past, of which 200 are kept. Up to 1,000 events wait for a slow reader; an event
        of kind ``events_lost`` then says how many did not find room. The iteration ends with the load balancer, and
        without `follow` after those of the past.
        Raises `l4lb.errors.UsageError` for another level.
        """
        feed = Feed(selection(level, pool))
        return EventIterator(feed, self._follow(feed, last, follow))

    def aevents(self, *, level: str = "info", pool: str = "", last: int = 0, follow: bool = True) -> AsyncEventIterator:
        """The same for ``async for``."""
        feed = Feed(selection(level, pool))
        return AsyncEventIterator(feed, self._follow(feed, last, follow))

    async def _sessions(self, query: SessionQuery, limit: int) -> list[shapes.Session]:
        return (await self.plane.sessions.list(query, limit))[0]

    async def _sources(self, listener: str, by: SourceOrder, limit: int) -> list[shapes.Source]:
        return list(self.plane.sessions.sources(listener, by, limit)[0])

    async def _explain(self, pool: str, source: str, to: str) -> shapes.Explanation:
        if pool not in self.plane.state.pools:
            raise unknown_name("pool", pool, self.plane.state.pools)
        return self.plane.status.explain(pool, source, to)

    async def _addresses(self, name: str) -> list[str]:
        if name not in self.plane.state.listeners:
            raise unknown_name("listener", name, self.plane.state.listeners)
        return self.plane.addresses(name)

    async def _drain(self, timeout: float | None) -> bool:
        return await self.plane.drain(timeout)

    async def _stats(self) -> Stats:
        return self.plane.forwarder.stats()

    async def _status(self) -> shapes.Status:
        return self.plane.status.status()

    async def _fleet(self) -> part_shapes.Fleet:
        return self.plane.status.fleet()

    # ---- the same under asyncio ----

    async def adrain(self, timeout: float | None = None) -> bool:
        """See `drain`."""
        return await self.arun(self._drain(timeout))

    async def areload(self, config: Config | None = None) -> Changes:
        """See `reload`."""
        return await self.arun(self.plane.reload(config))

    async def asessions(
        self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "", limit: int = LIMIT_DEFAULT
    ) -> list[shapes.Session]:
        """See `sessions`."""
        return await self.arun(self._sessions(SessionQuery(pool, backend, source, listener), limit))

    async def asources(self, listener: str = "", by: SourceOrder = "sessions", limit: int = 20) -> list[shapes.Source]:
        """See `sources`."""
        return await self.arun(self._sources(listener, by, limit))

    async def akill_session(self, id: str) -> shapes.Session:
        """See `kill_session`."""
        return await self.arun(self.plane.sessions.end(id))

    async def akill_sessions(self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "") -> int:
        """See `kill_sessions`."""
        ended = await self.arun(self.plane.sessions.end_all(SessionQuery(pool, backend, source, listener)))
        return ended["sessions"]

    async def await_ready(self, timeout: float = 10.0) -> bool:
        """See `wait_ready`."""
        return await self.arun(self.plane.wait_ready(timeout))

    async def areopen_logs(self) -> None:
        """See `reopen_logs`."""
        await self.arun(self._reopen_logs())

    async def aupgrade(self) -> int:
        """See `upgrade`."""
        return await self.arun(self.plane.upgrade())

    async def alisteners(self) -> dict[str, ListenerView]:
        """See `listeners`."""
        return self.listeners

    async def apools(self) -> dict[str, PoolView]:
        """See `pools`."""
        return self.pools

    async def alistener_addresses(self, name: str) -> list[str]:
        """See `listener_addresses`."""
        return await self.arun(self._addresses(name))

    async def aexplain(self, pool: str, source: str, to: str = "") -> shapes.Explanation:
        """See `explain`."""
        return await self.arun(self._explain(pool, source, to))

    async def astats(self) -> Stats:
        """See `stats`."""
        return await self.arun(self._stats())

    async def astatus(self) -> shapes.Status:
        """See `status`."""
        return await self.arun(self._status())

    async def afleet(self) -> part_shapes.Fleet:
        """See `fleet`."""
        return await self.arun(self._fleet())


def _no_config(given: object) -> UsageError:
    if isinstance(given, str | os.PathLike):
        return UsageError(f'expected a Config: LoadBalancer(Config.load("{os.fspath(given)!s}")) reads a file')
    if isinstance(given, dict):
        return UsageError("expected a Config: LoadBalancer(Config(**settings)) takes what a file would have as a dict")
    return UsageError(f"expected a Config, not {type(given).__name__}")
