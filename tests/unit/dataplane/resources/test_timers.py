"""The timer wheel against a plain list of deadlines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")
TICK_MS = 8


@given(
    start=st.integers(0, 2**40),
    delays=st.lists(st.one_of(st.integers(0, 600), st.integers(0, 10_000_000)), min_size=1, max_size=60),
    steps=st.lists(st.one_of(st.integers(1, 700), st.integers(1, 5_000_000)), max_size=30),
)
def test_each_timer_fires_once_not_early_and_at_most_a_tick_late(
    start: int, delays: list[int], steps: list[int]
) -> None:
    sessions = probe.Sessions(start)
    due = {}
    for delay in delays:
        index, _ = sessions.take()
        sessions.arm(index, start + delay)
        due[index] = start + delay
    now = start
    for step in [*steps, 20_000_000]:
        now += step
        fired = sessions.pop_due(now)
        for index in fired:
            assert due.pop(index) <= now
        assert all(deadline > now - 2 * TICK_MS for deadline in due.values())
    assert due == {}


@given(st.integers(0, 2**40), st.lists(st.integers(1, 30_000_000), min_size=1, max_size=40))
def test_next_ms_never_sleeps_past_a_deadline(start: int, delays: list[int]) -> None:
    sessions = probe.Sessions(start)
    for delay in delays:
        sessions.arm(sessions.take()[0], start + delay)
    first = min(delays)
    now = start
    for _ in range(40):  # follow its own advice until the first one fires
        wait = sessions.next_ms(now)
        assert 0 <= wait <= first - (now - start) + 2 * TICK_MS
        now += max(wait, 1)
        if sessions.pop_due(now):
            break
    assert now - start <= first + 2 * TICK_MS


def test_arming_again_replaces_and_disarming_removes() -> None:
    sessions = probe.Sessions(1000)
    kept, dropped = sessions.take()[0], sessions.take()[0]
    sessions.arm(kept, 1100)
    sessions.arm(kept, 5000)
    sessions.arm(dropped, 1100)
    sessions.disarm(dropped)
    sessions.disarm(dropped)
    assert sessions.pop_due(4990) == []
    assert sessions.pop_due(5010) == [kept]
    assert sessions.next_ms(5010) == -1


def test_a_timer_beyond_the_wheel_fires_early_for_its_owner_to_look_again() -> None:
    sessions = probe.Sessions(0)
    index, _ = sessions.take()
    sessions.arm(index, 10 * 24 * 3600 * 1000)
    assert sessions.pop_due(38 * 3600 * 1000) == [index]
