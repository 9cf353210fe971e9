"""How many sessions there may be is said once and when it changes, and each pause of accepting is."""

from __future__ import annotations

from l4lb.control.reporting.capacity import Capacity
from l4lb.control.state.events import Event, Events
from l4lb.model.stats import Stats, WorkerStats


def test_what_is_said_and_when() -> None:
    said: list[Event] = []
    events = Events()
    events.subscribe(said.append)
    capacity = Capacity(events)

    def look(most: int, *pauses: int) -> list[dict[str, object]]:
        said.clear()
        workers = tuple(WorkerStats(accept_pauses=count) for count in pauses)
        capacity.report(Stats(max_sessions=most, limited_by="local ports", workers=workers))
        return [{"kind": event.kind, **event.fields} for event in said]

    limited = {"kind": "sessions_limited", "by": "local ports"}
    assert look(10, 0, 0) == [{**limited, "max_sessions": 10}]
    assert look(10, 0, 0) == []
    assert look(20, 0, 0) == [{**limited, "max_sessions": 20}]
    (paused,) = look(20, 2, 1)
    assert (paused["kind"], paused["times"]) == ("accepting_paused", 3)
    assert look(20, 2, 1) == []
    (paused,) = look(20, 2, 2)
    assert paused["times"] == 1


def test_pauses_of_the_process_before_are_not_told_again() -> None:
    said: list[str] = []
    events = Events()
    events.subscribe(lambda event: said.append(event.kind))
    capacity = Capacity(events)
    stats = Stats(workers=(WorkerStats(accept_pauses=7),))
    capacity.know(stats)
    capacity.report(stats)
    assert "accepting_paused" not in said
