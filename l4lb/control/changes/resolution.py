"""Decides which of its name's addresses a backend uses. Control loop only; changes wait for those that operators make.

A backend given by name is one backend, known by the name and port. It uses one address of the name's answer: the first
that accepts connections. It keeps a working address as long as the answer contains it, and moves on to the next when
checks find it down or, without checks, when every connect fails. Sessions stay where they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from l4lb.config import Config, Pool
from l4lb.config.rules.loops import leads_back
from l4lb.control.changes.names import Names
from l4lb.control.health.agent import Agents
from l4lb.control.health.monitor import Monitor, pool_targets
from l4lb.control.health.passive import Passive
from l4lb.control.publishing.reconciler import Reconciler
from l4lb.control.state.events import Events, logger
from l4lb.control.state.state import (
    BackendState,
    CheckResult,
    PoolState,
    State,
    first_health,
    located_at,
    unresolved_at,
)
from l4lb.model.forwarder import Forwarder
from l4lb.model.states import Health
from l4lb.model.stats import BackendStats, PoolStats, Stats
from l4lb.net.address import name_of

NEW_NAMES_WITHIN_S = 2.0


class NamesIn:
    """The names in a configuration's backend addresses. Pools that are the same object as before are not read again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Pool, frozenset[str]]] = {}

    def __call__(self, config: Config) -> set[str]:
        before, self._known = self._known, {}
        for name, pool in config.pools.items():
            known = before.get(name)
            if known is None or known[0] is not pool:
                known = (pool, frozenset(name_of(backend.address) for backend in pool.backends))
            self._known[name] = known
        return {name for _, names in self._known.values() for name in names if name}


@dataclass(frozen=True, slots=True)
class Watchers:
    """What watches a pool's backends: it is updated when one of them moves to another address."""

    monitor: Monitor
    agents: Agents
    passive: Passive


class Resolution:
    """Hears from `names` what has changed, and of checks from the monitor that is `watchers`. `one_at_a_time` is held
    while something changes here."""

    def __init__(
        self,
        state: State,
        events: Events,
        names: Names,
        one_at_a_time: asyncio.Lock,
        watchers: Watchers,
        reconciler: Reconciler,
        forwarder: Forwarder,
    ) -> None:
        self._state = state
        self._events = events
        self._names = names
        self._lock = one_at_a_time
        self._watchers = watchers
        self._reconciler = reconciler
        self._forwarder = forwarder
        self._failed: set[tuple[str, str]] = set()  # whose address does not take connections
        self._counted: dict[tuple[str, str], tuple[int, int, int]] = {}
        self._stale: set[str] = set()
        self._requested = False
        self._task: asyncio.Task[None] | None = None
        names.subscribe(self.changed)
        watchers.monitor.subscribe(self.checked)

    # ---- what comes in ----

    def changed(self, name: str) -> None:
        """What is known of a name has changed."""
        known = self._names.known(name)
        if known.hosts and known.error and name not in self._stale:
            self._stale.add(name)
            fields: dict[str, object] = {"name": name, "reason": f"{known.error}: its last answer stays"}
            self._events.emit("name_stale", fields, logging.WARNING)
        elif known.hosts and not known.error:
            self._stale.discard(name)
        self._request()

    def checked(self, pool: PoolState, backend: BackendState, result: CheckResult) -> None:
        """A health check of a backend is over."""
        if not result.ok and backend.health is Health.DOWN:
            self._fails(pool, backend)

    def know(self, stats: Stats) -> None:
        """What connects came to up to now says nothing about the addresses of now."""
        for pool in self._state.pools.values():
            for id_, counted in stats.pools.get(pool.name, PoolStats()).backends.items():
                self._counted[pool.name, id_] = _connects(counted)

    def sample(self) -> None:
        """About once a second. In pools without checks, connects decide: an address is given up when every connect
        since the last call has failed."""
        for pool in self._state.pools.values():
            if pool.config.health.type == "none" and (named := list(_named(pool))):
                self._sample_backends(pool, named, self._forwarder.pool_stats(pool.name))

    def _sample_backends(self, pool: PoolState, named: Iterable[BackendState], stats: PoolStats) -> None:
        for backend in named:
            counted = stats.backends.get(backend.id)
            if counted is None or backend.unresolved:
                continue
            now = _connects(counted)
            before = self._counted.get((pool.name, backend.id), (0, 0, 0))
            self._counted[pool.name, backend.id] = now
            failed, begun, answered = (new - old for new, old in zip(now, before, strict=True))
            if failed > 0 and begun <= failed and not answered:  # of UDP, what is refused had begun
                self._fails(pool, backend)

    def _fails(self, pool: PoolState, backend: BackendState) -> None:
        if backend.name and len(self._names.known(backend.name).hosts) > 1:
            self._failed.add((pool.name, backend.id))
            self._request()

    # ---- what is done ----

    def _request(self) -> None:
        self._requested = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._carry_out())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _carry_out(self) -> None:
        try:
            while self._requested:
                async with self._lock:
                    self._requested = False
                    await self.update_addresses()
        except Exception as error:  # a defect: addresses stay as they are
            logger.error("addresses could not be followed", exc_info=error)
        finally:
            self._task = None

    async def update_addresses(self) -> None:
        """Move every backend to an address that its name has now. The caller holds the lock, or nothing runs yet."""
        failed, self._failed = self._failed, set()
        for pool in self._state.pools.values():
            moved = [one for one in _named(pool) if self._move(pool, one, (pool.name, one.id) in failed)]
            if moved:
                await self._update_watchers(pool)
                self._reconciler.request(pools=(pool.name,))

    def _move(self, pool: PoolState, backend: BackendState, failed: bool) -> bool:
        """Whether anything changed."""
        known = self._names.known(backend.name)
        hosts = [host for host in known.hosts if not self._leads_back(pool, backend, host)]
        if not hosts:
            error = "it leads back to this process" if known.hosts else known.error
            return self._note_unresolved(pool, backend, error)
        at = (backend.address.family, backend.address.host)
        index = hosts.index(at) if at in hosts else -1
        if index >= 0 and not failed and not backend.unresolved:
            return False
        host = hosts[(index + 1) % len(hosts)] if failed else hosts[0]
        if host == at and not backend.unresolved:
            return False
        self._locate(pool, backend, host, failed)
        return True

    def _leads_back(self, pool: PoolState, backend: BackendState, host: tuple[int, str]) -> bool:
        """A name may come to mean this process long after its configuration was sound."""
        address = located_at(backend.config.address, host).address
        return bool(leads_back(self._state.config, pool.name, str(address)))

    def _note_unresolved(self, pool: PoolState, backend: BackendState, error: str) -> bool:
        """Only for a backend that never had an address: names keep their last answer."""
        place = unresolved_at(backend.config.address, error)
        if not backend.unresolved or backend.unresolved == place.unresolved:
            return False
        backend.unresolved = place.unresolved
        fields: dict[str, object] = {"pool": pool.name, "backend": backend.id, "reason": place.unresolved}
        self._events.emit("backend_down", fields, logging.WARNING)
        return True

    def _locate(self, pool: PoolState, backend: BackendState, host: tuple[int, str], failed: bool) -> None:
        fields: dict[str, object] = {"pool": pool.name, "backend": backend.id}
        if not backend.unresolved:
            fields["before"] = str(backend.address)
        was_unresolved = bool(backend.unresolved)
        backend.address, backend.unresolved = located_at(backend.config.address, host)
        if was_unresolved or not failed:  # nothing is known about this address; else it has to prove that it is up
            backend.set_health(first_health(pool.config))
        self._forwarder.forgive(pool.name, backend.id)  # what failed was of another address
        reason = "the address before takes no connections" if failed and not was_unresolved else "its name resolves so"
        self._events.emit("backend_resolved", fields | {"address": str(backend.address), "reason": reason})

    async def _update_watchers(self, pool: PoolState) -> None:
        """Off the loop, since health.address may be a name that has to be looked up."""
        addresses = {one.id: one.address for one in pool.backends.values() if not one.unresolved}
        try:
            targets = await asyncio.to_thread(pool_targets, pool.name, pool.config, pool.source, addresses)
        except ValueError as error:  # health.address, which resolved before, does not
            logger.warning("not checked", extra={"fields": {"pool": pool.name, "reason": str(error)}})
            targets = {}
        self._watchers.monitor.update_pool(pool, targets)
        self._watchers.agents.update_pool(pool)
        self._watchers.passive.update_pool(pool)


def _connects(counted: BackendStats) -> tuple[int, int, int]:
    """Failed, begun, and the bytes that came of them."""
    return counted.connect_failures, counted.sessions_total, counted.bytes_down


def _named(pool: PoolState) -> Iterator[BackendState]:
    return (one for one in pool.backends.values() if one.name)
