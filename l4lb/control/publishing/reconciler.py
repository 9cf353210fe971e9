"""Turns the state into snapshots and publishes them: every change of routing goes through here.

Control thread only, except that tables are built on the loop's executor. Bursts of changes become one snapshot; a table
is built again only when its candidates have changed. Changes that come while tables are built go into the next
snapshot.

With many pools, a change concerns few: only the pools that a request names are looked at again, and unchanged ones keep
the same `PoolView` and `PoolSpec` objects.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from l4lb.control.publishing.explaining import explain
from l4lb.control.publishing.listeners import ListenerSpecs, Now
from l4lb.control.publishing.pools import (
    PoolView,
    Table,
    are_of,
    build_tables,
    next_step_s,
    note_published,
    pool_spec,
    view,
)
from l4lb.control.publishing.refusing import Refusing
from l4lb.control.state.events import Events, logger
from l4lb.control.state.state import PoolState, State
from l4lb.errors import ConfigError, Problem
from l4lb.model.forwarder import Forwarding
from l4lb.model.snapshot import ListenerSpec, PoolSpec, Snapshot
from l4lb.model.states import ProcessState
from l4lb.model.stats import PoolStats
from l4lb.routing.explain import Explained
from l4lb.routing.hashing import Endpoint


@dataclass(frozen=True, slots=True)
class _Look:
    """The whole state at one moment, `at`. `number` orders looks; `refusing` are listeners that are to refuse clients,
    and why; `then` is called once the look is in use."""

    number: int
    at: float
    pools: Mapping[str, PoolView]
    listeners: tuple[ListenerSpec, ...]
    refusing: Mapping[str, str]
    then: list[Callable[[], None]]


class Reconciler:
    """Turns `state` into snapshots for `forwarder`.

    Calls `removed` with a pool's name, its on_backend_removed and the ids of backends that a snapshot no longer
    contains. `clock`: seconds, monotonic. `hooked` returns listeners with their hooks.
    """

    def __init__(
        self,
        state: State,
        forwarder: Forwarding,
        events: Events,
        removed: Callable[[str, str, list[str]], None] = lambda pool, way, backends: None,
        clock: Callable[[], float] = time.monotonic,
        hooked: Callable[[tuple[ListenerSpec, ...]], tuple[ListenerSpec, ...]] = lambda listeners: listeners,
    ) -> None:
        self.version = 0
        self._state = state
        self._forwarder = forwarder
        self._events = events
        self._removed = removed
        self._clock = clock
        self._hooked = hooked
        self._refusing = Refusing(state, forwarder, events)
        self._looks = 0
        self._dirty: set[str] = set()
        self._all_dirty = True
        self._views: Mapping[str, PoolView] = {}  # of the latest look
        self._seen: Mapping[str, PoolView] = {}  # of the published one
        self._then: list[Callable[[], None]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._tables: dict[str, tuple[Table, ...]] = {}
        self._specs: dict[str, PoolSpec] = {}
        self._specs_of = ListenerSpecs()
        self._published: tuple[tuple[PoolSpec, ...], tuple[ListenerSpec, ...]] | None = None
        self._requested = False
        self._task: asyncio.Task[None] | None = None
        self._growing: asyncio.TimerHandle | None = None
        self._retrying: asyncio.TimerHandle | None = None
        self._grows: set[str] = set()  # pools whose weights grow: looked at every time

    # ---- when ----

    def request(self, then: Callable[[], None] | None = None, pools: Iterable[str] | None = None) -> None:
        """Reconcile soon, once for all changes until then; call `then` when workers use the result.

        `pools`: those in which something may have changed; None: any.
        """
        if pools is None:
            self._all_dirty = True
        else:
            self._dirty.update(pools)
        if then is not None:
            self._then.append(then)
        self._requested = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._carry_out())

    async def carry_out(self, pools: Iterable[str]) -> None:
        """Request, and wait until workers use the result. Raises what publishing raises."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self.request(lambda: None if done.done() else done.set_result(None), pools)
        await done

    @property
    def settled(self) -> bool:
        """Nothing that was requested is still to be published."""
        return self._task is None

    async def _carry_out(self) -> None:
        """Look, build the missing tables off the loop, publish; repeat until nothing is requested."""
        loop = asyncio.get_running_loop()
        try:
            while self._requested:
                self._requested = False
                look = self._look()
                try:
                    if missing := self._missing(look):
                        self._keep(await loop.run_in_executor(None, self._build, missing))
                    if look.number == self._looks:
                        self._publish(look)
                    elif look.then:  # a later look without these was published meanwhile
                        self._requested = True
                finally:
                    self._then[:0] = look.then  # what was not called waits for the next look
        except Exception as error:  # a listener that cannot be opened, or a defect: the published snapshot stays
            self._failed(error)
        finally:
            self._task = None

    def _failed(self, error: Exception) -> None:
        """Report the error to those who wait, or else to the log."""
        waiting = [one for one in self._waiting if not one.done()]
        for one in waiting:
            one.set_exception(error)
        self._waiting.clear()
        if not waiting:
            logger.error("the routing state could not be published", exc_info=error)

    def reconcile(self) -> None:
        """The same within this call, for all pools: at the start and the end.

        ConfigError, with its place, when a listener cannot be opened, or a policy fails at the start.
        """
        self._requested, self._all_dirty = False, True
        look = self._look()
        try:
            self._keep(self._build(self._missing(look)))
            self._publish(look)
        finally:
            self._then[:0] = look.then

    def announce(self) -> None:
        """Emit where the listeners listen."""
        self._refusing.announce(self._state.listeners.keys() - self._state.refusing.keys())

    async def stop(self) -> None:
        for timer in (self._growing, self._retrying):
            if timer is not None:
                timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._refusing.stop()

    # ---- how ----

    def _look(self) -> _Look:
        self._looks += 1
        now, seed, share = self._clock(), self._state.config.global_.hash_seed, self._state.share
        views: dict[str, PoolView] = {}
        for name, pool in self._state.pools.items():
            known = self._views.get(name)
            if known is None or known.pool is not pool:
                views[name] = view(pool, seed, now, share)
            elif self._all_dirty or name in self._dirty or name in self._grows:
                views[name] = view(pool, seed, now, share, known)
            else:
                views[name] = known
        self._views, self._dirty, self._all_dirty = views, set(), False
        refusing = self._refusing.of(self._state.listeners, views)
        listeners = () if self._state.process is ProcessState.DRAINING else self._listener_specs(refusing)
        then, self._then = self._then, []
        return _Look(self._looks, now, views, listeners, refusing, then)

    def _listener_specs(self, refusing: Mapping[str, str]) -> tuple[ListenerSpec, ...]:
        state = self._state
        now = Now(state.drained, refusing, state.share)
        return self._hooked(self._specs_of.of(state.listeners, state.config.pools, now, state.banned))

    def _new(self, look: _Look) -> list[PoolView]:
        """Views that differ from the published ones."""
        return [seen for name, seen in look.pools.items() if self._seen.get(name) is not seen]

    def _missing(self, look: _Look) -> list[tuple[PoolView, tuple[Table, ...]]]:
        """Views whose tables differ from the published ones, with the published tables."""
        known = [(seen, self._tables.get(seen.pool.name, ())) for seen in self._new(look)]
        return [(seen, tables) for seen, tables in known if not are_of(tables, seen.orders)]

    def _build(self, missing: list[tuple[PoolView, tuple[Table, ...]]]) -> dict[str, tuple[Table, ...]]:
        """On any thread."""
        return {seen.pool.name: build_tables(seen.orders, tables, self._forwarder) for seen, tables in missing}

    def _keep(self, built: dict[str, tuple[Table, ...]]) -> None:
        for name, (table, *_) in built.items():
            before, *_ = self._tables.get(name, (None,))
            if table.error and self.version == 0:
                raise ConfigError([self._state.config.problem(("pools", name, "policy"), table.error)])
            if table.error and (before is None or before.error != table.error):
                fields: dict[str, object] = {"pool": name, "policy": table.order.policy, "reason": table.error}
                self._events.emit("policy_failed", fields, logging.ERROR)
        self._tables.update(built)

    def _changed_specs(self, look: _Look) -> dict[str, PoolSpec]:
        """The changed specs of pools that were looked at again; an equal spec stays the same object."""
        specs = {}
        for seen in self._new(look):
            name = seen.pool.name
            spec = pool_spec(seen, self._tables[name])
            specs[name] = self._specs[name] if self._specs.get(name) == spec else spec
        return specs

    def _publish(self, look: _Look) -> None:
        """Publish, unless nothing changed. Where a listener is to accept again and cannot, the rest is published after
        another look."""
        try:
            self._publish_whole(look)
        except ConfigError as error:
            if self.version == 0 or not self._refusing.note_failures(error, look.refusing):
                raise
            self.request()
        self._retry_later()

    def _retry_later(self) -> None:
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None
        if (wait_s := self._refusing.retry_s) is not None:
            self._retrying = asyncio.get_running_loop().call_later(wait_s, self.request, None, ())

    def _publish_whole(self, look: _Look) -> None:
        changed = self._changed_specs(look)
        pools = tuple(changed.get(name) or self._specs[name] for name in look.pools)
        if (pools, look.listeners) != self._published:
            try:
                self._forwarder.publish(Snapshot(self.version + 1, pools, look.listeners))
            except ConfigError as error:
                raise ConfigError([self._placed(problem) for problem in error.problems]) from error
            self.version += 1
            self._published = (pools, look.listeners)
        before, new = self._seen, self._new(look)
        self._note(look, changed)
        self._refusing.published(look.refusing)
        self._wait_for_growth(look.at)
        self._report_removed(before, new)
        then = look.then[:]
        look.then.clear()
        self._waiting = [one for one in self._waiting if not one.done()]
        for call in then:
            call()

    def _report_removed(self, before: Mapping[str, PoolView], new: list[PoolView]) -> None:
        """Report the backends that were in the previous snapshot and are not in this one."""
        fresh = {seen.pool.name for seen in new}
        for name, seen in before.items():
            if name in self._seen and name not in fresh:
                continue
            left = {one.id for one in self._seen[name].specs} if name in self._seen else set()
            if gone := [one.id for one in seen.specs if one.id not in left]:
                self._removed(name, seen.pool.config.on_backend_removed, gone)

    def _note(self, look: _Look, changed: Mapping[str, PoolSpec]) -> None:
        self._seen = look.pools
        for name in self._specs.keys() - look.pools.keys():
            del self._specs[name], self._tables[name]
        for name, spec in changed.items():
            self._specs[name] = spec
            note_published(look.pools[name], self._tables[name], spec)

    def _wait_for_growth(self, at: float) -> None:
        """Growing weights (slow_start) need a new snapshot at each further step."""
        waits = {name: wait for name, pool in self._state.pools.items() if (wait := next_step_s(pool, at)) > 0}
        self._grows = set(waits)
        if self._growing is not None:
            self._growing.cancel()
            self._growing = None
        if waits and self._state.process is not ProcessState.DRAINING:
            loop = asyncio.get_running_loop()
            wait_s = max(0.0, min(waits.values()) - (self._clock() - at))
            self._growing = loop.call_later(wait_s, self.request, None, tuple(waits))

    def _placed(self, problem: Problem) -> Problem:
        return self._state.config.problem(tuple(problem.path.split(".")), problem.message)

    # ---- why ----

    def explain(self, pool: PoolState, source: Endpoint, destination: Endpoint | None, stats: PoolStats) -> Explained:
        """What a worker would choose for that client now; `stats` are the pool's counters.

        ValueError for an invalid address, and when the pool's hash_key needs a destination.
        """
        name = pool.name
        return explain(self._seen[name], self._specs[name], self._tables[name], (source, destination), stats)
