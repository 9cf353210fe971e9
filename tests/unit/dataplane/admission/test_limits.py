"""Token buckets: sessions per second and bytes per second, held to what the words promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

probe = pytest.importorskip("_l4lb_probe_worker", reason="the probe modules are not built (L4LB_PROBE=1)")
SECOND_NS = 1_000_000_000


def test_without_limits_everything_passes() -> None:
    plane = probe.Plane()
    assert all(plane.session_rate_take(0) for _ in range(1000))
    assert probe.Bucket(plane).room(0) == -1


def test_a_burst_passes_and_then_the_rate() -> None:
    plane = probe.Plane()
    plane.set_limits(session_rate=10, burst_ns=SECOND_NS)
    now = 5 * SECOND_NS
    assert [plane.session_rate_take(now) for _ in range(13)] == [True] * 11 + [False] * 2
    for _ in range(5):
        now += SECOND_NS // 10
        assert plane.session_rate_take(now)
        assert not plane.session_rate_take(now)


@given(rate=st.integers(1, 100_000), steps=st.lists(st.integers(0, SECOND_NS), min_size=1, max_size=60))
def test_never_more_sessions_than_rate_and_burst_allow(rate: int, steps: list[int]) -> None:
    plane = probe.Plane()
    plane.set_limits(session_rate=rate, burst_ns=SECOND_NS // 2)
    start = now = SECOND_NS
    taken = 0
    for step in steps:
        now += step
        for _ in range(3):
            taken += plane.session_rate_take(now)
        assert taken <= rate * (now - start + SECOND_NS // 2) / SECOND_NS + 2


def test_bandwidth_of_a_session_and_of_all_together() -> None:
    plane = probe.Plane()
    plane.set_limits(own=1_000_000, total=1_500_000)
    one, other = probe.Bucket(plane), probe.Bucket(plane)
    now = SECOND_NS
    room = one.room(now)
    assert 0 < room <= 1_000_000 * 0.06 + 4096
    one.pay(now, room)
    assert one.room(now) < 1024
    assert 0 <= other.room(now) < 1_500_000 * 0.06 + 4096 - room + 1024, "what one moved is gone for all"
    waited = now + one.wait_ms(now) * 1_000_000
    assert one.room(waited) >= 1024, "the wait is long enough"


@given(
    rate=st.integers(1000, 10**9),
    turns=st.lists(st.tuples(st.integers(0, 10**8), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_never_more_bytes_than_the_bandwidth_allows(rate: int, turns: list[tuple[int, float]]) -> None:
    plane = probe.Plane()
    plane.set_limits(own=rate)
    bucket = probe.Bucket(plane)
    start = now = SECOND_NS
    moved = 0
    for step, share in turns:
        now += step
        part = int(bucket.room(now) * share)
        bucket.pay(now, part)
        moved += part
        burst = max(rate * 0.05, 4096)
        assert moved <= (now - start) / SECOND_NS * rate + burst * 1.001 + 1
