"""The one function through which everything that changes routing goes: state in, snapshot out, published.

Control thread only, except that tables are built on the loop's executor. Bursts of changes become one snapshot; a table
is built again only when its candidates have changed. What changes while tables are built is the next snapshot's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from l4lb.control.events import Events, logger
from l4lb.control.listeners import listener_spec
from l4lb.control.pools import (
    Order,
    PoolView,
    Table,
    build_table,
    next_step_s,
    note_published,
    pool_spec,
    view,
)
from l4lb.control.state import PoolState, State
from l4lb.errors import ConfigError, Problem
from l4lb.model.forwarder import Forwarder
from l4lb.model.snapshot import ListenerSpec, PoolSpec, Snapshot
from l4lb.model.states import ProcessState
from l4lb.model.stats import PoolStats
from l4lb.routing.explain import Candidate, Choice, explain_hash, explain_selection, hash_of, load_limit
from l4lb.routing.hashing import Endpoint


@dataclass(frozen=True, slots=True)
class _Look:
    """The whole state at one moment. `number` tells a later look from an earlier one."""

    number: int
    pools: tuple[PoolView, ...]
    listeners: tuple[ListenerSpec, ...]


class Reconciler:
    """Turns `state` into snapshots for `forwarder`.

    `removed` is called with a pool's name, its on_backend_removed and the ids of backends that a snapshot does not name
    any more. `clock`: seconds, monotonic.
    """

    def __init__(
        self,
        state: State,
        forwarder: Forwarder,
        events: Events,
        removed: Callable[[str, str, list[str]], None] = lambda pool, way, backends: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.version = 0
        self._state = state
        self._forwarder = forwarder
        self._events = events
        self._removed = removed
        self._clock = clock
        self._looks = 0
        self._seen: tuple[PoolView, ...] = ()
        self._then: list[Callable[[], None]] = []
        self._tables: dict[str, Table] = {}
        self._specs: dict[str, PoolSpec] = {}
        self._published: tuple[tuple[PoolSpec, ...], tuple[ListenerSpec, ...]] | None = None
        self._requested = False
        self._task: asyncio.Task[None] | None = None
        self._growing: asyncio.TimerHandle | None = None

    # ---- when ----

    def request(self, then: Callable[[], None] | None = None) -> None:
        """Reconcile soon, once for all the changes until then; call `then` when workers go by it."""
        if then is not None:
            self._then.append(then)
        self._requested = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._carry_out())

    @property
    def settled(self) -> bool:
        """Nothing that was requested is still to be published."""
        return self._task is None

    async def _carry_out(self) -> None:
        """Until nothing is requested: look, build the missing tables off the loop, publish."""
        loop = asyncio.get_running_loop()
        try:
            while self._requested:
                self._requested = False
                look = self._look()
                if missing := self._missing(look):
                    self._keep(await loop.run_in_executor(None, self._build, missing))
                if look.number == self._looks:
                    self._publish(look)
        except Exception:  # of a listener that cannot be had, or a defect: what is published stays
            logger.exception("the routing state could not be published")
        finally:
            self._task = None

    def reconcile(self) -> None:
        """The same at once, in this call: at the start and the end.

        ConfigError, with its place, when a listener cannot be had, or a policy fails at the start.
        """
        self._requested = False
        look = self._look()
        self._keep(self._build(self._missing(look)))
        self._publish(look)

    def preview(self) -> None:
        """The same without publishing: `explain` then answers as if it had been. Needs no running loop."""
        look = self._look()
        self._keep(self._build(self._missing(look)))
        self._note(look, tuple(pool_spec(seen, self._tables[seen.pool.name]) for seen in look.pools))

    async def stop(self) -> None:
        if self._growing is not None:
            self._growing.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ---- how ----

    def _look(self) -> _Look:
        self._looks += 1
        now, seed = self._clock(), self._state.config.global_.hash_seed
        pools = tuple(view(pool, seed, now) for pool in self._state.pools.values())
        draining = self._state.process is ProcessState.DRAINING
        listeners = () if draining else tuple(listener_spec(one) for one in self._state.listeners.values())
        return _Look(self._looks, pools, listeners)

    def _missing(self, look: _Look) -> list[tuple[str, Order]]:
        known = self._tables
        return [
            (seen.pool.name, seen.order)
            for seen in look.pools
            if seen.pool.name not in known or known[seen.pool.name].order != seen.order
        ]

    def _build(self, missing: list[tuple[str, Order]]) -> dict[str, Table]:
        """On any thread."""
        return {name: build_table(order, self._forwarder) for name, order in missing}

    def _keep(self, built: dict[str, Table]) -> None:
        for name, table in built.items():
            before = self._tables.get(name)
            if table.error and self.version == 0:
                raise ConfigError([self._state.config.problem(("pools", name, "policy"), table.error)])
            if table.error and (before is None or before.error != table.error):
                fields: dict[str, object] = {"pool": name, "policy": table.order.policy, "reason": table.error}
                self._events.emit("policy_failed", fields, logging.ERROR)
        self._tables.update(built)

    def _publish(self, look: _Look) -> None:
        """Unless it is what is published already."""
        pools = tuple(pool_spec(seen, self._tables[seen.pool.name]) for seen in look.pools)
        if (pools, look.listeners) != self._published:
            try:
                self._forwarder.publish(Snapshot(self.version + 1, pools, look.listeners))
            except ConfigError as error:
                raise ConfigError([self._placed(problem) for problem in error.problems]) from error
            self.version += 1
            self._published = (pools, look.listeners)
        before = self._seen
        self._note(look, pools)
        self._wait_for_growth()
        self._follow(before)

    def _follow(self, before: tuple[PoolView, ...]) -> None:
        """What is to be done once the new state holds."""
        for seen in before:
            spec = self._specs.get(seen.pool.name)
            left = {backend.id for backend in spec.backends} if spec else set()
            if gone := [id_ for id_ in seen.ids if id_ not in left]:
                self._removed(seen.pool.name, seen.pool.config.on_backend_removed, gone)
        then, self._then = self._then, []
        for call in then:
            call()

    def _note(self, look: _Look, pools: tuple[PoolSpec, ...]) -> None:
        self._seen = look.pools
        self._specs = {spec.name: spec for spec in pools}
        for seen, spec in zip(look.pools, pools, strict=True):
            note_published(seen, self._tables[spec.name], spec)

    def _wait_for_growth(self) -> None:
        """Weights that grow (slow_start) are a new snapshot at each step."""
        waits = [wait for pool in self._state.pools.values() if (wait := next_step_s(pool, self._clock())) > 0]
        if self._growing is not None:
            self._growing.cancel()
            self._growing = None
        if waits and self._state.process is not ProcessState.DRAINING:
            self._growing = asyncio.get_running_loop().call_later(min(waits), self.request)

    def _placed(self, problem: Problem) -> Problem:
        return self._state.config.problem(tuple(problem.path.split(".")), problem.message)

    # ---- why ----

    def explain(self, pool: PoolState, source: Endpoint, destination: Endpoint | None, stats: PoolStats) -> Choice:
        """What a worker would choose for that client now; `stats` are the pool's counters.

        ValueError for an address that is none, and when the pool's hash_key needs a destination.
        """
        config, spec, table = pool.config, self._specs[pool.name], self._tables[pool.name]
        backends = [spec.backends[index] for index in spec.usable]
        counts = {id_: one.sessions_active for id_, one in stats.backends.items()}
        total = sum(one.weight for one in backends)
        after = stats.sessions_active + 1
        candidates = [
            Candidate(
                one.id,
                one.weight,
                counts.get(one.id, 0),
                load_limit(spec.bounded_load, after, one.weight, total, one.max_sessions),
            )
            for one in backends
        ]
        if not table.policy.hashes:
            return explain_selection(spec.selection, candidates)
        prefixes = {"prefix_v4": config.hash_prefix_v4, "prefix_v6": config.hash_prefix_v6}
        hashed = hash_of(spec.hash_key, source, destination, seed=spec.hash_seed, **prefixes)
        return explain_hash(candidates, spec.slots, hashed)
