"""Passive ejection: a backend that fails real traffic gets no sessions for a while. Control loop only.

Workers count failed connects and resets before the first byte in a row, and report a backend that reaches its pool's
limit. An ejected backend returns when its time is over, or when `rise` checks in a row have passed. Its health, which
checks decide, does not change.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from l4lb.control.state.events import Events
from l4lb.control.state.state import BackendState, CheckResult, Ejection, PoolState, State
from l4lb.model.forwarder import SessionControl
from l4lb.model.states import AdminState
from l4lb.routing.ejection import duration_s, ejections_left, refusal


class Passive:
    """Ejects and readmits backends, and calls `changed` after either."""

    def __init__(
        self,
        state: State,
        events: Events,
        forwarder: SessionControl,
        changed: Callable[[PoolState], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._events = events
        self._forwarder = forwarder
        self._changed = changed
        self._clock = clock
        self._fd = -1
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._withheld: set[tuple[str, str]] = set()

    def start(self) -> None:
        self._fd = self._forwarder.notice_fd
        asyncio.get_running_loop().add_reader(self._fd, self.look)

    def stop(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._fd = -1
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def update_pool(self, pool: PoolState) -> None:
        """Call this after its backends or settings have changed. Forgets removed backends; readmits ejected ones when
        ejection is now off."""
        for name, id_ in [key for key in self._timers if key[0] == pool.name]:
            backend = pool.backends.get(id_)
            if backend is None or not backend.ejected:
                self._timers.pop((name, id_)).cancel()
            elif not pool.config.passive.failures:
                self._return(pool, backend, "ejection was turned off")
        self._withheld = {one for one in self._withheld if one[0] != pool.name}

    def remove_pool(self, pool: str) -> None:
        """The pool is gone."""
        for key in [key for key in self._timers if key[0] == pool]:
            self._timers.pop(key).cancel()

    def look(self) -> None:
        """Handle the workers' reports."""
        for failing in self._forwarder.failing():
            pool = self._state.pools.get(failing.pool)
            backend = pool.backends.get(failing.backend) if pool else None
            if pool and backend and not backend.ejected:
                self._consider(pool, backend, failing.failures)

    def _consider(self, pool: PoolState, backend: BackendState, failures: int) -> None:
        settings = pool.config.passive
        wanted = [one for one in pool.backends.values() if one.admin_state is AdminState.READY and one.config.weight]
        ejected = sum(one.ejected for one in wanted)
        left = sum(one is not backend and not one.ejected for one in self._usable(pool))
        fields: dict[str, object] = {"pool": pool.name, "backend": backend.id, "failures": failures}
        if reason := refusal(len(wanted), ejected, left, settings.max_ejected_percent):
            if (pool.name, backend.id) not in self._withheld:  # reported once, until something changes
                self._withheld.add((pool.name, backend.id))
                self._events.emit("ejection_withheld", fields | {"reason": reason}, logging.WARNING)
            return
        self._eject(pool, backend, fields)

    @staticmethod
    def _usable(pool: PoolState) -> list[BackendState]:
        """Usable backends of every priority, as published; some may have been ejected or removed since."""
        return [backend for id_ in pool.usable if (backend := pool.backends.get(id_)) is not None]

    def _eject(self, pool: PoolState, backend: BackendState, fields: dict[str, object]) -> None:
        settings, now, before = pool.config.passive, self._clock(), backend.ejection
        number = 1
        if before is not None:
            number += ejections_left(before.number, now - before.until, settings.eject_for)
        for_s = duration_s(number, settings.eject_for)
        backend.ejection = Ejection(number, now + for_s)
        backend.ejected = True
        key = (pool.name, backend.id)
        self._withheld = {one for one in self._withheld if one[0] != pool.name}
        self._timers[key] = asyncio.get_running_loop().call_later(
            for_s, self._return, pool, backend, "its time is over"
        )
        reason = "connects failed or were reset before the first byte"
        self._events.emit(
            "backend_ejected", fields | {"reason": reason, "for_s": for_s, "ejections": number}, logging.WARNING
        )
        self._changed(pool)

    def checked(self, pool: PoolState, backend: BackendState, result: CheckResult) -> None:
        """A health check of a backend is over: enough passes readmit an ejected backend."""
        if not backend.ejected or backend.ejection is None:
            return
        backend.ejection.passed = backend.ejection.passed + 1 if result.ok else 0
        if backend.ejection.passed >= pool.config.health.rise:
            self._return(pool, backend, f"{backend.ejection.passed} checks in a row passed")

    def _return(self, pool: PoolState, backend: BackendState, reason: str) -> None:
        if (timer := self._timers.pop((pool.name, backend.id), None)) is not None:
            timer.cancel()
        if not backend.ejected or backend.ejection is None:
            return
        backend.ejected = False
        backend.ejection.until = backend.returned_at = self._clock()
        self._withheld = {one for one in self._withheld if one[0] != pool.name}
        self._forwarder.forgive(pool.name, backend.id)
        self._events.emit("backend_readmitted", {"pool": pool.name, "backend": backend.id, "reason": reason})
        self._changed(pool)
