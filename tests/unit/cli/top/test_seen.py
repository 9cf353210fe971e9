"""What has been seen of the instance."""

from __future__ import annotations

from l4lb.cli.top.state.seen import EVENTS_MAX, Seen
from l4lb.control.state.events import Event
from tests.unit.cli.top.samples import backend, pool, seen, status


def test_since_when_it_does_not_answer() -> None:
    found = Seen()
    for at in (5.0, 6.0):
        found.not_answered("gone", at)
    assert (found.lost_since, found.lost) == (5.0, "gone")
    found.answered(status(), 7.0)
    assert (found.lost_since, found.lost) == (None, "")


def test_an_error_of_a_part_leaves_what_was_known() -> None:
    found = Seen()
    found.set_part("bans", [1])
    found.set_part("bans", None, "no such thing")
    assert (found.part("bans"), found.errors["bans"]) == ([1], "no such thing")
    found.forget_part("bans")
    assert (found.part("bans"), found.errors) == ((), {})


def test_events_are_bounded_and_known_again() -> None:
    found = Seen()
    for number in range(EVENTS_MAX + 5):
        found.happened(Event("x", {"number": number}, time=float(number)))
    assert len(found.events) == EVENTS_MAX
    assert found.knows_event(Event("x", {"number": EVENTS_MAX}, time=float(EVENTS_MAX)))
    assert not found.knows_event(Event("x", {"number": 1}, time=float(EVENTS_MAX)))


def test_a_backend_with_its_checks_where_they_are_known() -> None:
    found = seen()
    assert "checks" not in (found.backend("web", "a") or {})
    found.set_part("pool", pool("web", backend("a", checks=[])))
    assert "checks" in (found.backend("web", "a") or {})
    assert found.backend("web", "b") is not None, "it is new in the status"
    assert found.backend("web", "x") is None
    assert found.backend("x", "a") is None
