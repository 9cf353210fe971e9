"""Reports refused PROXY headers in the log and to `/v1/events`. Workers only count; the counters are read here now and
then, so that a flood is one line per listener each time. Control loop only."""

from __future__ import annotations

import logging

from l4lb.control.state.events import Events
from l4lb.model.stats import Stats

QUIET_LOOKS = 10  # calls without another line for a listener after each line


class Refusals:
    def __init__(self, events: Events) -> None:
        self._events = events
        self._reported: dict[str, dict[str, int]] = {}  # by listener: the counts up to the last line
        self._quiet: dict[str, int] = {}

    def report(self, stats: Stats) -> None:
        """Report what was refused since the last line. Called at regular intervals."""
        for name, listener in stats.listeners.items():
            quiet = self._quiet.get(name, 0)
            if quiet:
                self._quiet[name] = quiet - 1
            elif listener.proxy_refused != self._reported.get(name, {}):
                self._report(name, listener.proxy_refused)
                self._quiet[name] = QUIET_LOOKS - 1
        for gone in self._reported.keys() - stats.listeners.keys():
            del self._reported[gone], self._quiet[gone]

    def _report(self, name: str, counts: dict[str, int]) -> None:
        before = self._reported.get(name, {})
        new = {reason: count - before.get(reason, 0) for reason, count in counts.items()}
        reasons = ", ".join(f"{reason} {count}" for reason, count in new.items() if count > 0)
        self._reported[name] = dict(counts)
        if reasons:
            self._events.emit("proxy_header_refused", {"listener": name, "reason": reasons}, logging.WARNING)
