"""Makes the running state what is wanted: a reload, a change of one backend. Control loop only, one at a time.

Everything that can fail comes first: the configuration's own rules, names, checks, listening sockets. Then the state is
changed in one step without waiting, checks, agents and ejections are updated, and one snapshot is published. Backends,
pools and listeners that stay keep their counters, health and sessions; listeners keep their sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from l4lb.config import Backend, Config
from l4lb.control.changes.names import Names
from l4lb.control.changes.planning import Plan, PoolPlan, needs_restart, plan_changes
from l4lb.control.changes.resolution import NEW_NAMES_WITHIN_S, NamesIn
from l4lb.control.changes.session_cleanup import SessionCleanup
from l4lb.control.health.agent import Agents
from l4lb.control.health.monitor import Monitor
from l4lb.control.health.passive import Passive
from l4lb.control.publishing.listeners import (
    listener_specs,
    now_still,
    prepare_listeners,
    refuse_clients_elsewhere,
)
from l4lb.control.publishing.reconciler import Reconciler
from l4lb.control.reporting.outputs import Outputs, Prepared
from l4lb.control.state.actor import by_whom
from l4lb.control.state.bans import Bans
from l4lb.control.state.desired import Desired, Discovered
from l4lb.control.state.events import Events
from l4lb.control.state.state import BackendState, ListenerState, PoolState, State, first_health, new_backend
from l4lb.control.state.state_file import Saving
from l4lb.errors import ChangeError, ConfigError
from l4lb.model.changes import Changes
from l4lb.model.forwarder import Forwarding
from l4lb.model.snapshot import ListenerSpec
from l4lb.model.states import ProcessState

_ADOPTED_WITHIN_S = 1.0
_POLL_S = 0.001


@dataclass(frozen=True, slots=True)
class Subsystems:
    """What a change of the state is passed on to."""

    monitor: Monitor
    agents: Agents
    passive: Passive
    cleanup: SessionCleanup
    outputs: Outputs


class Applying:
    """Owns the desired state. `save` writes the new desired state to disk before each change, and raises when it
    cannot. While somebody holds `one_at_a_time`, nothing changes."""

    def __init__(
        self,
        desired: Desired,
        state: State,
        forwarder: Forwarding,
        reconciler: Reconciler,
        events: Events,
        subsystems: Subsystems,
        save: Callable[[Desired], Awaitable[Saving]],
        names: Names,
    ) -> None:
        self.desired = desired
        self._save = save
        self._started = state.config
        self._state = state
        self._forwarder = forwarder
        self._reconciler = reconciler
        self._events = events
        self._subsystems = subsystems
        self._names = names
        self._names_in = NamesIn()
        self.one_at_a_time = asyncio.Lock()

    async def reload(self, file: Config, discovered: Discovered | None = None) -> Changes:
        """Apply `file`, what new sources in it `discovered`, and the runtime changes that neither contradicts; return
        when workers use the result. ConfigError, with every problem, when that is impossible; nothing has changed
        then."""
        async with self.one_at_a_time:
            self._expect_running()
            desired = await asyncio.to_thread(self.desired.reloaded, file, discovered)
            changes = await self._make(desired, everything=True)
            self._names.refresh()
        self._events.emit("reloaded", {**changes.counts(), **by_whom()})
        if changes.needs_restart:
            keys = ", ".join(changes.needs_restart)
            reason = "these keys hold from the next upgrade or restart on"
            self._events.emit("reload_incomplete", {"keys": keys, "reason": reason}, logging.WARNING)
        return changes

    async def begin_with(self, discovered: Discovered) -> None:
        """Before the first snapshot, which has what was `discovered` until then. ConfigError for conflicts."""
        if not discovered:
            return
        desired = self.desired.reloaded(self.desired.file, discovered)
        names = self._names_in(desired.config)
        await self._names.look_up_new(names, NEW_NAMES_WITHIN_S)
        self._apply(plan_changes(desired.config, self._state, self._names, everything=False))
        self.desired = desired

    async def set_discovered(self, pool: str, backends: tuple[Backend, ...]) -> None:
        """Another answer of a pool's source; return when workers use it. ChangeError when that is impossible;
        nothing has changed then."""
        async with self.one_at_a_time:
            self._expect_running()
            await self._change(await asyncio.to_thread(self.desired.with_discovered, pool, backends))

    async def read_lists_again(self) -> bool:
        """Refuse clients by the listeners' files as they are now. Returns whether any had changed. ConfigError when one
        is broken; nothing has changed then. ChangeError when the process is not running."""
        async with self.one_at_a_time:
            self._expect_running()
            desired = await asyncio.to_thread(self.desired.with_lists_read)
            if desired is self.desired:
                return False
            await self._make(desired, everything=False)
            return True

    async def put_backend(
        self, pool: str, backend: str, settings: Mapping[str, Any], *, add: bool = True
    ) -> tuple[str, bool]:
        """Set keys of a backend, found by id or address, or (with `add`) add one at that address; return when workers
        use the change.

        Returns its id, and whether it was added. ChangeError when that is impossible; nothing has changed then.
        """
        async with self.one_at_a_time:
            self._expect_running()
            known = set(self._state.pools[pool].backends) if pool in self._state.pools else set()
            there = self.desired.find(pool, backend)
            if there is None and not add:
                raise ChangeError("not_found", f'no backend "{backend}" in pool "{pool}"')
            await self._change(self.desired.with_backend(pool, backend, settings))
            key = there.key if there else next(key for key in self._state.pools[pool].backends if key not in known)
        set_keys: dict[str, object] = {name: str(value) for name, value in settings.items()}
        self._events.emit("backend_set", {**set_keys, "pool": pool, "backend": backend, **by_whom()})
        return key, there is None

    async def remove_backend(self, pool: str, backend: str, drain_s: float | None = None) -> Backend:
        """Take it out of the pool: it gets no new session from now on. Its sessions may go on for `drain_s`; None: as
        the pool's on_backend_removed says. Returns what was removed. ChangeError when there is no such backend."""
        async with self.one_at_a_time:
            self._expect_running()
            desired, removed = self.desired.without_backend(pool, backend), self.desired.find(pool, backend)
            assert removed is not None
            await self._change(desired, lambda: self._subsystems.cleanup.allow_drain(pool, removed.key, drain_s))
        self._events.emit("backend_removed", {"pool": pool, "backend": backend, **by_whom()})
        return removed

    async def drain_listener(self, listener: str) -> None:
        """Stop accepting; sessions go on. ChangeError when there is no such listener."""
        await self._set_drained(listener, drained=True)

    async def resume_listener(self, listener: str) -> None:
        """Accept again. ChangeError when there is no such listener, or its addresses are not available."""
        await self._set_drained(listener, drained=False)

    async def _set_drained(self, listener: str, *, drained: bool) -> None:
        async with self.one_at_a_time:
            self._expect_running()
            await self._change(self.desired.with_drained(listener, drained=drained))

    async def change_bans(self, change: Callable[[Bans], Bans], *, save: bool = True) -> None:
        """Return when workers use the bans that `change` makes of those that hold. Those that are over need not be
        saved: a later process leaves them out. ChangeError when that is impossible; nothing has changed then."""
        async with self.one_at_a_time:
            self._expect_running()
            bans = change(self.desired.bans)
            if bans is self.desired.bans:
                return
            desired = replace(self.desired, bans=bans)
            banned = await asyncio.to_thread(bans.ranges)
            if save:
                await (await self._save(desired)).commit()
            self._drop_banned(banned)
            self.desired = desired
            self._state.bans, self._state.banned = len(bans), banned
            await self._reconciler.carry_out(())
            await adopted(self._forwarder)

    def _drop_banned(self, banned: Mapping[str, bytes]) -> None:
        """Where refused clients get no answer, that is what the sockets' filters do. Otherwise workers refuse them."""
        if not any(one.config.drops for one in self._state.listeners.values()):
            return
        try:
            now = now_still(self._state, self._state.listeners, self.desired.drained)
            specs = listener_specs(self._state.listeners, self._state.config.pools, now, banned)
            prepare_listeners(self._forwarder, self._state.config, specs)
        except ConfigError as error:  # ENOMEM, EPERM without CAP_NET_ADMIN
            reason = f"{error.problems[0].message}: banned clients are reset"
            self._events.emit("bans_not_dropped", {"reason": reason}, logging.WARNING)

    def _expect_running(self) -> None:
        if self._state.process is not ProcessState.RUNNING:
            raise ChangeError("conflict", f"the process is {self._state.process}: nothing can be changed")

    async def _change(self, desired: Desired, first: Callable[[], None] = lambda: None) -> None:
        try:
            await self._make(desired, everything=False, first=first)
        except ConfigError as error:
            raise ChangeError("invalid", error.problems[0].message, error.problems[0].path) from error

    async def _make(self, desired: Desired, *, everything: bool, first: Callable[[], None] = lambda: None) -> Changes:
        """Calls `first` once nothing can fail any more. New names get a moment to resolve."""
        names = self._names_in(desired.config)
        await self._names.look_up_new(names, NEW_NAMES_WITHIN_S)
        plan = await asyncio.to_thread(plan_changes, desired.config, self._state, self._names, everything=everything)
        kept = desired.bans is self.desired.bans
        banned = self._state.banned if kept else await asyncio.to_thread(desired.bans.ranges)
        now = now_still(self._state, plan.listeners, desired.drained)
        listeners = listener_specs(plan.listeners, plan.config.pools, now, banned)
        outputs = await self._prepare_outputs(plan)
        try:
            await self._open_and_save(desired, plan, listeners)
        except BaseException:
            outputs.discard() if outputs else None
            raise
        await refuse_clients_elsewhere(self._forwarder, listeners)
        seed_before = self._state.config.global_.hash_seed
        first()
        changes = self._apply(plan)
        self._names.keep_only(names)
        self._state.drained = frozenset(desired.drained)
        self._state.bans, self._state.banned = len(desired.bans), banned
        self.desired = desired
        everything = plan.config.global_.hash_seed != seed_before
        await self._reconciler.carry_out(self._state.pools if everything else [one.name for one in plan.pools])
        if outputs is not None:
            await self._subsystems.outputs.commit(outputs)
        await adopted(self._forwarder)
        return changes

    async def _open_and_save(self, desired: Desired, plan: Plan, listeners: Sequence[ListenerSpec]) -> None:
        """Open the sockets of `listeners` and save the desired state, or do neither."""
        saving = await self._save(desired)
        try:
            prepare_listeners(self._forwarder, plan.config, listeners)
        except BaseException:
            await saving.discard()
            raise
        try:
            await saving.commit()
        except ChangeError:
            self._forwarder.forget_prepared()
            with contextlib.suppress(ConfigError):  # back to the options from before
                now = now_still(self._state, self._state.listeners, self.desired.drained)
                before = listener_specs(self._state.listeners, self._state.config.pools, now, self._state.banned)
                prepare_listeners(self._forwarder, self._state.config, before)
            raise

    async def _prepare_outputs(self, plan: Plan) -> Prepared | None:
        """None when their settings did not change."""
        if plan.config.global_ == self._state.config.global_:
            return None
        return await asyncio.to_thread(self._subsystems.outputs.prepare, plan.config)

    # ---- in one step: nothing here waits or fails ----

    def _apply(self, plan: Plan) -> Changes:
        state = self._state
        gone = [pool for name, pool in state.pools.items() if name not in plan.config.pools]
        new = [one for one in plan.pools if one.name not in state.pools]
        counts = _Counts()
        changed = {one.name: self._apply_pool(one, counts) for one in plan.pools}
        counts.removed += sum(len(pool.backends) for pool in gone)
        listeners = _compare(state.listeners, plan.listeners)
        state.pools = {name: changed.get(name) or state.pools[name] for name in plan.config.pools}
        state.listeners = dict(plan.listeners)
        state.config = plan.config
        self._update_subsystems(plan.pools, gone)
        pools = (len(new), len(gone), len(plan.pools) - len(new))
        restart = tuple(needs_restart(self._started, plan.config))
        return Changes(pools, (counts.added, counts.removed, counts.changed), listeners, restart)

    def _apply_pool(self, plan: PoolPlan, counts: _Counts) -> PoolState:
        pool = self._state.pools.get(plan.name)
        if pool is None:
            pool = PoolState(plan.name, plan.config, plan.source, {})
        looked_at = {key: self._backend(pool, plan, key, counts) for key in plan.backends}
        backends = {key: looked_at.get(key) or pool.backends[key] for key in plan.positions}
        for backend, position in zip(backends.values(), plan.positions.values(), strict=True):
            backend.position = position
        counts.removed += len(pool.backends.keys() - backends.keys())
        if (pool.config.health.type == "none") != (plan.config.health.type == "none"):
            for backend in backends.values():  # checks begin or end here
                if not backend.unresolved:
                    backend.set_health(first_health(plan.config))
        pool.backends, pool.config, pool.source = backends, plan.config, plan.source
        return pool

    def _backend(self, pool: PoolState, plan: PoolPlan, key: str, counts: _Counts) -> BackendState:
        wanted, known = plan.backends[key], pool.backends.get(key)
        if known is not None and known.address == wanted.place.address:
            counts.changed += known.config != wanted.config
            known.config, known.admin_state = wanted.config, wanted.config.admin_state
            return known
        backend = new_backend(wanted.config, wanted.place, first_health(plan.config), plan.positions[key])
        if known is None:
            counts.added += 1
            if backend.unresolved:
                fields: dict[str, object] = {"pool": pool.name, "backend": key, "reason": backend.unresolved}
                self._events.emit("backend_down", fields, logging.WARNING)
            self._subsystems.cleanup.keep_sessions(pool.name, key)
        else:  # the same id at another address: what was observed was about the old one
            counts.changed += 1
        return backend

    def _update_subsystems(self, changed: Iterable[PoolPlan], gone: Iterable[PoolState]) -> None:
        subsystems = self._subsystems
        for plan in changed:
            pool = self._state.pools[plan.name]
            subsystems.monitor.update_backends(pool, plan.backends, plan.targets)
            subsystems.agents.update_pool(pool)
            subsystems.passive.update_pool(pool)
        for pool in gone:
            subsystems.monitor.remove_pool(pool.name)
            subsystems.agents.remove_pool(pool.name)
            subsystems.passive.remove_pool(pool.name)


async def adopted(forwarder: Forwarding) -> None:
    """Wait until no worker goes by an older snapshot; not forever, since one may be long in its turn."""
    deadline = time.monotonic() + _ADOPTED_WITHIN_S
    while not forwarder.adopted() and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_S)


@dataclass(slots=True)
class _Counts:
    """Of backends."""

    added: int = 0
    removed: int = 0
    changed: int = 0


def _compare(before: Mapping[str, ListenerState], after: Mapping[str, ListenerState]) -> tuple[int, int, int]:
    """How many were added, removed and changed."""
    changed = sum(name in before and before[name] is not one for name, one in after.items())
    return len(after.keys() - before.keys()), len(before.keys() - after.keys()), changed
