"""Reports clients that were refused, by address, for their PROXY header or at a limit of their source, in the log and
to `/v1/events`. Workers only count; the counters are read here now and then, so that a flood is one line per listener
each time. Control loop only."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from l4lb.control.state.events import Events
from l4lb.model.states import CloseReason, DropReason
from l4lb.model.stats import ListenerStats, Stats

QUIET_LOOKS = 10  # calls without another line of a kind for a listener after each line


class Refusals:
    def __init__(self, events: Events) -> None:
        self._headers = _Reports(events, "proxy_header_refused")
        self._denied = _Reports(events, "clients_denied")
        self._limited = _Reports(events, "sources_limited")

    def know(self, stats: Stats) -> None:
        """What was refused up to now has been reported."""
        self._headers.know(_headers(stats))
        self._denied.know(_all_denied(stats))
        self._limited.know(_limited(stats))

    def report(self, stats: Stats) -> None:
        """Report what was refused since the last line. Called at regular intervals."""
        self._headers.report(_headers(stats))
        self._denied.report(_all_denied(stats))
        self._limited.report(_limited(stats))


def _headers(stats: Stats) -> Mapping[str, Mapping[str, int]]:
    return {name: one.proxy_refused for name, one in stats.listeners.items()}


def _all_denied(stats: Stats) -> Mapping[str, Mapping[str, int]]:
    return {name: _denied(one) for name, one in stats.listeners.items()}


def _limited(stats: Stats) -> Mapping[str, Mapping[str, int]]:
    return {
        name: {str(limit): count for limit, count in one.source_limited.items()}
        for name, one in stats.listeners.items()
    }


def _denied(stats: ListenerStats) -> dict[str, int]:
    counts = {
        "sessions": stats.closed.get(CloseReason.DENIED, 0),
        "datagrams": stats.dropped.get(DropReason.DENIED, 0),
    }
    return {what: count for what, count in counts.items() if count}


class _Reports:
    """Of one kind."""

    def __init__(self, events: Events, event: str) -> None:
        self._events = events
        self._event = event
        self._reported: dict[str, dict[str, int]] = {}  # by listener: the counts up to the last line
        self._quiet: dict[str, int] = {}

    def know(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        self._reported = {name: dict(count) for name, count in counts.items()}

    def report(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        for name, count in counts.items():
            quiet = self._quiet.get(name, 0)
            if quiet:
                self._quiet[name] = quiet - 1
            elif count != self._reported.get(name, {}):
                self._report(name, count)
                self._quiet[name] = QUIET_LOOKS - 1
        for gone in self._reported.keys() - counts.keys():
            del self._reported[gone]
            self._quiet.pop(gone, None)

    def _report(self, name: str, counts: Mapping[str, int]) -> None:
        before = self._reported.get(name, {})
        new = {reason: count - before.get(reason, 0) for reason, count in counts.items()}
        reasons = ", ".join(f"{reason} {count}" for reason, count in new.items() if count > 0)
        self._reported[name] = dict(counts)
        if reasons:
            self._events.emit(self._event, {"listener": name, "reason": reasons}, logging.WARNING)
