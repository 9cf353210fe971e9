"""Refused headers are told at once, and a flood of them in few lines."""

from __future__ import annotations

import logging

from l4lb.control.reporting.refusals import QUIET_LOOKS, Refusals
from l4lb.control.state.events import Event, Events
from l4lb.model.stats import ListenerStats, Stats


class Watched:
    def __init__(self) -> None:
        self.told: list[Event] = []
        self._events = Events()
        self._events.subscribe(self.told.append)
        self._refusals = Refusals(self._events)

    def look(self, **listeners: dict[str, int]) -> list[str]:
        """What is told when these are the counts."""
        self.told.clear()
        self._refusals.report(self._stats(listeners))
        return [f"{event.fields['listener']}: {event.fields['reason']}" for event in self.told]

    def know(self, **listeners: dict[str, int]) -> None:
        self._refusals.know(self._stats(listeners))

    def _stats(self, listeners: dict[str, dict[str, int]]) -> Stats:
        return Stats(listeners={name: ListenerStats(proxy_refused=one) for name, one in listeners.items()})


def test_told_once_with_the_reasons() -> None:
    watched = Watched()
    assert watched.look(web={}) == []
    assert watched.look(web={"untrusted": 3, "timeout": 1}, other={}) == ["web: untrusted 3, timeout 1"]
    assert (watched.told[0].kind, watched.told[0].level) == ("proxy_header_refused", logging.WARNING)
    assert watched.look(web={"untrusted": 3, "timeout": 1}, other={}) == []


def test_a_flood_is_a_line_now_and_then_and_nothing_is_lost() -> None:
    watched, lines = Watched(), []
    for count in range(1, 10 * QUIET_LOOKS + 1):
        lines += watched.look(web={"bad_signature": 1000 * count})
    assert lines == ["web: bad_signature 1000"] + [f"web: bad_signature {1000 * QUIET_LOOKS}"] * 9


def test_listeners_are_told_apart() -> None:
    watched = Watched()
    assert watched.look(a={"timeout": 1}, b={}) == ["a: timeout 1"]
    assert watched.look(a={"timeout": 2}, b={"timeout": 1}) == ["b: timeout 1"]


def test_a_listener_that_is_gone_and_comes_back_counts_anew() -> None:
    watched = Watched()
    watched.look(web={"timeout": 5})
    assert watched.look() == []
    assert watched.look(web={"timeout": 1}) == ["web: timeout 1"]


def test_what_another_process_has_told_is_not_told_again() -> None:
    watched = Watched()
    watched.know(web={"timeout": 5}, other={"untrusted": 1})
    assert watched.look(web={"timeout": 5}, other={"untrusted": 1}) == []
    assert watched.look(web={"timeout": 7}) == ["web: timeout 2"]
