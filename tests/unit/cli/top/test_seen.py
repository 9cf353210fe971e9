"""What has been seen of the instance."""

from __future__ import annotations

import pytest

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


def test_what_cannot_be_understood_is_no_answer() -> None:
    found = seen()
    with pytest.raises(KeyError):
        found.answered({"pid": 1}, 2.0)
    assert found.status is not None, "what was known stays"
    found.not_understood(KeyError("pools"), 2.0)
    assert (found.status, found.lost_since) == (None, 2.0)
    assert "is it another version? KeyError('pools')" in found.lost


def test_an_error_of_a_part_leaves_what_was_known() -> None:
    found = Seen()
    found.set_part("bans", [1])
    found.set_part("bans", None, "no such thing")
    assert (found.part("bans"), found.errors["bans"]) == ([1], "no such thing")


def test_an_answer_is_forgotten_when_another_one_is_wanted() -> None:
    found = Seen()
    found.set_part("sessions", [1], query=("pool", "web"))
    found.forget_other("sessions", ("pool", "web"))
    assert found.part("sessions") == [1]
    found.forget_other("sessions", ())
    assert (found.part("sessions"), found.errors) == ((), {})


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
