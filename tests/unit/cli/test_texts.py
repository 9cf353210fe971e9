"""What tables say of a backend: its health, in a fleet and without one, and why it gets no session."""

from __future__ import annotations

import time
from typing import Any

import pytest

from l4lb.cli.shared.texts import backend_note, health_colour, health_text, latency_text, serves


@pytest.mark.parametrize(
    ("own", "fleet", "text", "colour"),
    [
        ("up", None, "up", "green"),
        ("down", "down", "down", "red"),
        ("down", "up", "down, fleet: up", "green"),
        ("unknown", "down", "unknown, fleet: down", "red"),
    ],
)
def test_what_counts_decides_the_colour(own: str, fleet: str | None, text: str, colour: str) -> None:
    backend = {"health": own, "fleet_health": fleet}
    assert (health_text(backend), health_colour(backend)) == (text, colour)


def backend(**changed: Any) -> dict[str, Any]:
    """One that is up and ready, as the API shows it, as far as notes look at it."""
    agent = {"percent": 100}
    usual = {"passed_over": "", "standby": "", "health": "up", "fleet_health": None, "health_since": time.time()}
    counts = {"weight": 2, "effective_weight": 2.0, "max_sessions": 0, "sessions_active": 3, "path_errors": {}}
    return {**usual, **counts, "last_check": None, "agent": agent, "ejected": False, "resolved": None, **changed}


FAILED = {"ok": False, "step": "connect", "reason": "connection refused", "latency_ms": 0.3}


@pytest.mark.parametrize(
    ("changed", "note", "served"),
    [
        ({}, "", True),
        ({"passed_over": "weight 0"}, "no new sessions: weight 0", False),
        (
            {"passed_over": "ejected for 9 s more, by failures of real traffic", "ejected": True},
            "no new sessions: ejected for 9 s more, by failures of real traffic",
            False,
        ),
        ({"max_sessions": 3}, "no new sessions: has its max_sessions, 3", False),
        ({"max_sessions": 4}, "", True),
        ({"standby": "priority 1: 0 goes first"}, "standby: priority 1: 0 goes first", True),
        ({"effective_weight": 0.5}, "slow start: weight 0.5 of 2", True),
        ({"effective_weight": 1.0, "agent": {"percent": 50}}, "agent: 50% of its weight", True),
        (
            {"effective_weight": 0.1, "agent": {"percent": 50}},
            "agent: 50% of its weight; slow start: weight 0.1 of 1",
            True,
        ),
        (
            {"slow": "first byte p50 is 240 ms, 8 times its pool's"},
            "slow: first byte p50 is 240 ms, 8 times its pool's",
            True,
        ),
        ({"ejected": True}, "ejected, but the pool has no other", True),
        ({"health": "down"}, "down, but the pool ignores health now", True),
        ({"last_check": FAILED}, "last check failed: connect: connection refused", True),
        ({"path_errors": {"host_unreachable": 3}}, "path errors: 3 host_unreachable", True),
    ],
)
def test_the_note_says_why(changed: dict[str, Any], note: str, served: bool) -> None:
    one = backend(**changed)
    assert (backend_note(one), serves(one)) == (note, served)


def test_of_one_that_is_down_it_says_since_when_and_why() -> None:
    one = backend(passed_over="health down", health="down", health_since=time.time() - 7300, last_check=FAILED)
    assert backend_note(one) == "no new sessions: down for 2h1m (connect: connection refused)"


def test_a_name_that_was_not_found_again() -> None:
    resolved = {"address": "10.0.0.1:80", "answer": ["10.0.0.1"], "error": "SERVFAIL"}
    assert backend_note(backend(resolved=resolved)).endswith("the last answer counts: SERVFAIL")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.000122, "0.1 ms"), (0.00996, "10.0 ms"), (0.0104, "10 ms"), (0.24, "240 ms"), (1.0, "1.0 s"), (90.0, "90.0 s")],
)
def test_a_latency_has_as_many_digits_as_it_needs(seconds: float, text: str) -> None:
    assert latency_text(seconds) == text
