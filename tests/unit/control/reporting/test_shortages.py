"""What this host was short of is told at once, with what to do, and a flood of it in few lines."""

from __future__ import annotations

import logging

from l4lb.control.reporting.shortages import QUIET_LOOKS, Shortages
from l4lb.control.state.events import Event, Events
from l4lb.model.states import Shortage
from l4lb.model.stats import Stats


class Watched:
    def __init__(self) -> None:
        self.told: list[Event] = []
        events = Events()
        events.subscribe(self.told.append)
        self._shortages = Shortages(events)

    def look(self, counts: dict[Shortage, int]) -> list[tuple[object, object]]:
        self.told.clear()
        self._shortages.report(Stats(shortages=counts))
        return [(event.fields["kind"], event.fields["times"]) for event in self.told]

    def know(self, counts: dict[Shortage, int]) -> None:
        self._shortages.know(Stats(shortages=counts))


def test_told_once_with_what_to_do() -> None:
    watched = Watched()
    assert watched.look({}) == []
    assert watched.look({Shortage.PORTS: 3}) == [("ports", 3)]
    assert (watched.told[0].kind, watched.told[0].level) == ("backends_not_asked", logging.WARNING)
    assert "net.ipv4.ip_local_port_range" in str(watched.told[0].fields["reason"])
    assert watched.look({Shortage.PORTS: 3, Shortage.FILES: 1}) == [("files", 1)]
    assert watched.look({Shortage.PORTS: 3, Shortage.FILES: 1}) == []


def test_a_flood_is_a_line_now_and_then_and_nothing_is_lost() -> None:
    watched, lines = Watched(), []
    for count in range(1, 3 * QUIET_LOOKS + 1):
        lines += watched.look({Shortage.DENIED: 10 * count})
    assert lines == [("denied", 10), *[("denied", 10 * QUIET_LOOKS)] * 2]


def test_what_another_process_has_told_is_not_told_again() -> None:
    watched = Watched()
    watched.know({Shortage.PORTS: 3})
    assert watched.look({Shortage.PORTS: 3}) == []
    assert watched.look({Shortage.PORTS: 4}) == [("ports", 1)]
