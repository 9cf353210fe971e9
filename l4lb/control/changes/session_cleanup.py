"""What happens to established sessions when their backend goes down or is removed. Control loop only.

`keep` leaves them, `reset` ends them now, `drain` ends those left after drain_timeout; a backend that is up again by
then keeps them. Workers end a few at a time, so that other sessions are not held up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from l4lb.control.state.events import Events
from l4lb.control.state.state import BackendState, PoolState, State
from l4lb.model.forwarder import SessionControl
from l4lb.model.states import CloseReason, Health


class SessionCleanup:
    def __init__(self, state: State, events: Events, forwarder: SessionControl) -> None:
        self._state = state
        self._events = events
        self._forwarder = forwarder
        self._drains: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._allowed: dict[tuple[str, str], float] = {}

    def health_changed(self, pool: PoolState, backend: BackendState) -> None:
        """Call this after the observed health of `backend` has changed."""
        if backend.observed is not Health.DOWN:
            self._keep(pool.name, backend.id)
        elif pool.config.on_backend_down == "reset":
            self._end(pool.name, [backend.id], CloseReason.BACKEND_DOWN)
        elif pool.config.on_backend_down == "drain":
            self._drain(pool.name, backend.id, CloseReason.BACKEND_DOWN)

    def allow_drain(self, pool: str, backend: str, drain_s: float | None) -> None:
        """The backend is about to be removed, and its sessions may go on for `drain_s`; None: as on_backend_removed
        says."""
        if drain_s is not None:
            self._allowed[pool, backend] = drain_s

    def keep_sessions(self, pool: str, backend: str) -> None:
        """The backend is back: its remaining sessions may stay."""
        self._keep(pool, backend)

    def removed(self, pool: str, way: str, backends: Sequence[str]) -> None:
        """After these backends have left `pool`, whose on_backend_removed is `way`."""
        for backend in [one for one in backends if (pool, one) in self._allowed]:
            self._drain(pool, backend, CloseReason.DRAIN, self._allowed.pop((pool, backend)))
            backends = [one for one in backends if one != backend]
        if way == "reset":
            self._end(pool, backends, CloseReason.ADMIN)
        elif way == "drain":
            for backend in backends:
                self._drain(pool, backend, CloseReason.DRAIN)

    def stop(self) -> None:
        for timer in self._drains.values():
            timer.cancel()
        self._drains.clear()

    def _keep(self, pool: str, backend: str) -> None:
        if (timer := self._drains.pop((pool, backend), None)) is not None:
            timer.cancel()

    def _drain(self, pool: str, backend: str, reason: CloseReason, drain_s: float | None = None) -> None:
        self._keep(pool, backend)
        timeout_s = self._state.config.global_.drain_timeout if drain_s is None else drain_s
        loop = asyncio.get_running_loop()
        self._drains[pool, backend] = loop.call_later(timeout_s, self._drained, pool, backend, reason)

    def _drained(self, pool: str, backend: str, reason: CloseReason) -> None:
        self._drains.pop((pool, backend), None)
        self._end(pool, [backend], reason)

    def _end(self, pool: str, backends: Sequence[str], reason: CloseReason) -> None:
        """One event for each backend that has sessions."""
        for backend in backends:
            active = self._forwarder.sessions_of(pool, backend)
            if active:
                fields: dict[str, object] = {
                    "pool": pool,
                    "backend": backend,
                    "sessions": active,
                    "reason": str(reason),
                }
                self._events.emit("sessions_ended", fields)
        self._forwarder.end_sessions(pool, backends, reason)
