"""The slab of sessions."""

from __future__ import annotations

import pytest

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")


def test_a_freed_slot_comes_back_with_another_generation() -> None:
    sessions = probe.Sessions()
    index, generation = sessions.take()
    sessions.give(index)
    assert sessions.take() == (index, generation + 1)


def test_indices_are_distinct_over_many_blocks() -> None:
    sessions = probe.Sessions()
    taken = [sessions.take()[0] for _ in range(1000)]
    assert sorted(taken) == list(range(1000))
    assert sessions.active == 1000
    for index in taken:
        sessions.give(index)
    assert sessions.active == 0


def test_a_session_is_small() -> None:
    assert probe.SESSION_BYTES <= 320
