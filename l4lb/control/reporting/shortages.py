"""Reports local shortages that kept workers from connecting to backends, with a remedy, in the log and to `/v1/events`.
Workers only count; the counters are read here now and then, so that a flood is one line per kind each time. Control
loop only."""

from __future__ import annotations

import logging

from l4lb.control.state.events import Events
from l4lb.model.states import Shortage
from l4lb.model.stats import Stats
from l4lb.model.verdicts import ADVICE

QUIET_LOOKS = 60  # calls without another line of its kind after each line


class Shortages:
    def __init__(self, events: Events) -> None:
        self._events = events
        self._reported: dict[Shortage, int] = {}  # the counts up to the last line
        self._quiet: dict[Shortage, int] = {}

    def know(self, stats: Stats) -> None:
        """What was short up to now has been reported."""
        self._reported = dict(stats.shortages)

    def report(self, stats: Stats) -> None:
        """Report what was short since the last line. Called at regular intervals."""
        for kind, count in stats.shortages.items():
            quiet = self._quiet.get(kind, 0)
            if quiet:
                self._quiet[kind] = quiet - 1
            elif times := count - self._reported.get(kind, 0):
                self._reported[kind] = count
                self._quiet[kind] = QUIET_LOOKS - 1
                fields: dict[str, object] = {"kind": kind, "times": times, "reason": ADVICE[kind]}
                self._events.emit("backends_not_asked", fields, logging.WARNING)
