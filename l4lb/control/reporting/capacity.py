"""Events about how many sessions there may be, and about workers that cannot accept for a while. Workers only count;
their counts are compared at regular intervals. Control loop only."""

from __future__ import annotations

import logging

from l4lb.control.state.events import Events
from l4lb.model.stats import Stats


class Capacity:
    def __init__(self, events: Events) -> None:
        self._events = events
        self._limit = 0  # of sessions, as last reported
        self._pauses = 0

    def know(self, stats: Stats) -> None:
        """Pauses up to now have been reported."""
        self._pauses = _pauses(stats)

    def report(self, stats: Stats) -> None:
        """Emit what has changed since the last call. Called at the start, and at regular intervals."""
        if stats.max_sessions != self._limit:  # with the backends, or at the start
            self._limit = stats.max_sessions
            self._events.emit("sessions_limited", {"max_sessions": stats.max_sessions, "by": stats.limited_by})
        pauses = _pauses(stats)
        if pauses > self._pauses:
            reason = "out of file descriptors or memory; established sessions go on"
            self._events.emit("accepting_paused", {"times": pauses - self._pauses, "reason": reason}, logging.ERROR)
        self._pauses = pauses


def _pauses(stats: Stats) -> int:
    return sum(worker.accept_pauses for worker in stats.workers)
