"""All checkers: one per target, shared by the backends that have it; applies their results to the state."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from l4lb.config import HealthConfig, Pool
from l4lb.control.checks.checks import NotChecked, Target
from l4lb.control.checks.registry import check_of, is_datagram, needs_port, passes_pool_name
from l4lb.control.health.checker import Checker, Listener
from l4lb.control.health.rise_fall import Streak
from l4lb.control.state.events import Events, logger
from l4lb.control.state.state import BackendState, CheckResult, PoolState, State
from l4lb.errors import ConfigError, Problem
from l4lb.model.address import SocketAddress
from l4lb.model.states import Health
from l4lb.model.stats import Durations
from l4lb.net.address import parse_address, resolve_backend

LATE_S = 0.5  # a lag worth a report
REPORT_LATE_EVERY_S = 10.0
REPORT_WANT_EVERY_S = 60.0
SPREAD_A_TARGET_S = 0.0004  # 5,000 targets: their first checks take 2 s


def check_address(backend: SocketAddress, settings: HealthConfig) -> SocketAddress:
    """Where to check: the backend itself, another port of it (``:8081``), or another address.

    ValueError when there is no such address: a name that does not resolve, or no port.
    """
    other = parse_address(settings.address) if settings.address else None
    if other is None:
        address = backend
    elif other.kind == "ip" and not other.host:
        if backend.family == socket.AF_UNIX:
            raise ValueError(f"a port cannot be checked of {backend}")
        address = replace(backend, port=other.ports[0])
    else:
        address = resolve_backend(other)
    if address.family == socket.AF_UNIX:
        if is_datagram(settings.type):
            raise ValueError(f'{address} cannot be checked with type "{settings.type}": expected a host and port')
    elif not address.port and needs_port(settings.type):
        raise ValueError(f'{address} cannot be checked without a port; expected health.address, or health.type "none"')
    return address


def pool_targets(
    name: str, config: Pool, source: SocketAddress | None, addresses: Mapping[str, SocketAddress]
) -> dict[str, Target]:
    """The targets of a pool's backends, by id; empty for a pool without checks. ValueError for a missing address."""
    settings = config.health
    if settings.type == "none":
        return {}
    pool_name = name if passes_pool_name(settings.type) else ""
    return {
        id_: Target(check_address(address, settings), settings, source, pool_name) for id_, address in addresses.items()
    }


@dataclass(frozen=True, slots=True)
class _Watched:
    backend: BackendState
    checker: Checker
    on_result: Listener


class Monitor:
    """Owns the checkers. Calls `checked` after each check of a backend, `changed` after its health has changed.

    Raises one ConfigError for all backends whose check has no address.
    """

    def __init__(
        self,
        state: State,
        events: Events,
        changed: Callable[[PoolState, BackendState], None],
        checked: Callable[[PoolState, BackendState, CheckResult], None],
    ) -> None:
        self.check_time = Durations()  # of all checks, including those of removed targets
        self._state = state
        self._events = events
        self._changed = changed
        self._subscribers = [checked]
        self._checkers: dict[Target, Checker] = {}
        self._watched: dict[str, dict[str, _Watched]] = {}  # by pool and id
        self._new: list[Checker] = []  # that were not started yet
        self._tasks: dict[Target, asyncio.Task[None]] = {}
        self._started = False
        self._late_reported = -REPORT_LATE_EVERY_S
        self._wants_reported: dict[str, float] = {}  # by reason, when
        self._prepare()

    def subscribe(self, checked: Callable[[PoolState, BackendState, CheckResult], None]) -> None:
        """Call `checked` too after each check of a backend, in the order in which they subscribed."""
        self._subscribers.append(checked)

    @property
    def checkers(self) -> list[Checker]:
        return list(self._checkers.values())

    def _prepare(self) -> None:
        problems: list[Problem] = []
        for name, pool in self._state.pools.items():
            addresses = {id_: one.address for id_, one in pool.backends.items() if not one.unresolved}
            try:
                self.update_pool(pool, pool_targets(name, pool.config, pool.source, addresses))
            except ValueError as error:
                path = ("pools", name, "health") + (("address",) if pool.config.health.address else ())
                problems.append(self._state.config.problem(path, str(error)))
        if problems:
            raise ConfigError(problems)

    # ---- which there are ----

    def update_pool(self, pool: PoolState, targets: Mapping[str, Target]) -> None:
        """From now on check these targets of `pool`, by backend id, and no others. Unchanged checks keep their
        count."""
        self.update_backends(pool, pool.backends, targets)

    def update_backends(self, pool: PoolState, backends: Iterable[str], targets: Mapping[str, Target]) -> None:
        """The same for these `backends` of `pool` alone, by id, and for those that are gone: the others are checked as
        before."""
        watched = self._watched.setdefault(pool.name, {})
        left = [watched.pop(id_) for id_ in watched.keys() - pool.backends.keys()]
        for id_ in backends:
            known, target, backend = watched.get(id_), targets.get(id_), pool.backends[id_]
            if known is not None:
                if known.backend is backend and known.checker.target == target:
                    continue
                left.append(watched.pop(id_))
            if target is not None:
                watched[id_] = self._watch(pool, backend, target)
        for known in left:  # after the others, which may have the same target
            self._leave(known)
        self._start_new()

    def remove_pool(self, pool: str) -> None:
        """The pool is gone."""
        for known in self._watched.pop(pool, {}).values():
            self._leave(known)

    def start(self) -> None:
        self._started = True
        self._start_new()

    def _start_new(self) -> None:
        """Start the checkers that do not run yet, spread over a time that grows with their number."""
        if not self._started:
            return
        new, self._new = self._new, []
        spread_s = len(new) * SPREAD_A_TARGET_S
        for checker in new:
            if not checker.listeners:  # left at once
                continue
            first_s = random.uniform(0, min(spread_s, checker.target.settings.interval))
            task = asyncio.create_task(checker.run(first_s))
            task.add_done_callback(self._ended)
            self._tasks[checker.target] = task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Checkers run until they are cancelled: any other end is a defect, and must be logged."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a health checker ended", exc_info=error)

    async def stop(self) -> None:
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _watch(self, pool: PoolState, backend: BackendState, target: Target) -> _Watched:
        settings = target.settings
        checker = self._checkers.get(target)
        if checker is None:
            streak = Streak(settings.rise, settings.fall, backend.health)
            checker = Checker(
                target, check_of(settings.type), streak, check_time=self.check_time, wanting=self._wanting
            )
            self._checkers[target] = checker
            self._new.append(checker)
        elif checker.streak.health not in (Health.UNKNOWN, backend.health):  # found for another pool already
            backend.set_health(checker.streak.health)

        def on_result(source: Checker, result: CheckResult, changed: bool) -> None:
            if source.lag_s > LATE_S:
                self._report_late(source.lag_s)
            backend.last_check = result
            backend.checks.append(result)
            backend.checks_passed += result.ok
            backend.checks_failed += not result.ok
            if changed:
                self._health_changed(pool, backend, source, result)
            for checked in self._subscribers:
                checked(pool, backend, result)

        checker.listeners.append(on_result)
        return _Watched(backend, checker, on_result)

    def _leave(self, known: _Watched) -> None:
        checker = known.checker
        checker.listeners.remove(known.on_result)
        if not checker.listeners:
            del self._checkers[checker.target]
            if (task := self._tasks.pop(checker.target, None)) is not None:
                task.cancel()

    # ---- what they find ----

    def _report_late(self, lag_s: float) -> None:
        """At most one report per REPORT_LATE_EVERY_S: this process is late, not a backend."""
        now = time.monotonic()
        if now - self._late_reported < REPORT_LATE_EVERY_S:
            return
        self._late_reported = now
        reason = "this process was busy; no backend is judged by it"
        self._events.emit("checks_late", {"lag_s": round(lag_s, 2), "reason": reason}, logging.WARNING)

    def _wanting(self, want: NotChecked) -> None:
        """A check was impossible: that counts against no backend, and its reason is reported now and then."""
        now, reason = time.monotonic(), str(want)
        self._wants_reported = {one: at for one, at in self._wants_reported.items() if now - at < REPORT_WANT_EVERY_S}
        if reason not in self._wants_reported:
            self._wants_reported[reason] = now
            self._events.emit("checks_not_made", {"reason": reason}, logging.WARNING)

    def _health_changed(self, pool: PoolState, backend: BackendState, source: Checker, result: CheckResult) -> None:
        before, health = backend.health, source.streak.health
        backend.set_health(health)
        fields: dict[str, object] = {"pool": pool.name, "backend": backend.id}
        if health is Health.DOWN:
            fields["reason"] = f"{result.step}: {result.reason}"
        fields["latency_ms"] = round(result.latency_s * 1000, 1)
        fields["checks"] = 1 if before is Health.UNKNOWN else source.streak.needed(health)
        level = logging.WARNING if health is Health.DOWN else logging.INFO
        self._events.emit(f"backend_{health}", fields, level)
        self._changed(pool, backend)
        if health is Health.DOWN and all(one.health is Health.DOWN for one in pool.backends.values()):
            self._events.emit("pool_down", {"pool": pool.name, "backends": len(pool.backends)}, logging.ERROR)
