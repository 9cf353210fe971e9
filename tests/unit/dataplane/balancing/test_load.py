"""What a busy backend is, as workers see it: bounded loads and latencies."""

from __future__ import annotations

import random
from collections import Counter
from math import ceil, exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb._native.snapshots import SELECTIONS
from l4lb.model.snapshot import TableKind
from l4lb.routing.explain import load_limit
from l4lb.routing.ring import points_of
from tests.support.tables import native_table

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")


def bounded_pool(kind: TableKind, weights: list[int], bounded_load: float, limits: list[int] | None = None):
    count = len(weights)
    given = points_of(weights) if kind is TableKind.RING else weights
    slots = native_table(kind, [f"b{i}" for i in range(count)], given, 1021, 0)
    backends = list(zip(weights, limits or [0] * count, strict=True))
    return probe.Pool(SELECTIONS["hash"], backends, list(range(count)), list(slots), bounded_load)


def skewed(count: int) -> list[int]:
    """Hashes of `count` sessions of few clients, some of whom have far more of them than others (Zipf)."""
    draw = random.Random(3)
    clients = [draw.getrandbits(64) for _ in range(1000)]
    return draw.choices(clients, [1 / (rank + 1) for rank in range(1000)], k=count)


@pytest.mark.parametrize("kind", list(TableKind))
def test_no_backend_exceeds_its_bound_under_ten_thousand_skewed_clients(kind: TableKind) -> None:
    """Mirrokni, Thorup, Zadimoghaddam 2016: ceil(c * average), at every moment, and without c far more."""
    pool, free = bounded_pool(kind, [1] * 10, 1.25), bounded_pool(kind, [1] * 10, 0)
    for sessions, hashed in enumerate(skewed(10_000), start=1):
        assert pool.pick(hashed) is not None
        free.pick(hashed)
        if sessions % 97 == 0:
            assert max(pool.active()) <= ceil(1.25 * sessions / 10)
    assert max(pool.active()) <= 1250
    assert max(free.active()) > 1500


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=12),
    st.sampled_from([1.01, 1.1, 1.25, 2.0, 10.0]),
    st.integers(1, 300),
)
def test_one_client_alone_fills_everybody_by_weight_and_never_above(
    weights: list[int], bound: float, count: int
) -> None:
    pool = bounded_pool(TableKind.MAGLEV, weights, bound)
    for sessions in range(1, count + 1):
        chosen = pool.pick(42)
        assert chosen is not None
        limit = load_limit(bound, sessions, weights[chosen], sum(weights), 0)
        assert pool.active()[chosen] <= limit


def test_what_one_cannot_take_goes_everywhere_and_not_to_a_neighbour() -> None:
    """Chen et al., "Revisiting Consistent Hashing with Bounded Loads", 2019: walking on from a full backend overloads
    the next one; drawing again does not."""
    count, clients = 20, 4000
    draw = random.Random(8)
    limits = [1] + [0] * (count - 1)
    pool = bounded_pool(TableKind.MAGLEV, [1] * count, 0, limits)
    table = bounded_pool(TableKind.MAGLEV, [1] * count, 0)
    elsewhere: Counter[int] = Counter()
    pool_full = False
    for _ in range(clients * count):
        hashed = draw.getrandbits(64)
        first = table.pick(hashed)
        got = pool.pick(hashed)
        if first == 0 and pool_full:
            elsewhere[got] += 1
        pool_full = pool_full or got == 0
    expected = sum(elsewhere.values()) / (count - 1)
    assert set(elsewhere) == set(range(1, count))
    assert all(abs(got - expected) < 6 * expected**0.5 for got in elsewhere.values()), elsewhere


def test_the_bound_gives_way_when_the_rest_refused_or_is_full() -> None:
    pool = bounded_pool(TableKind.MAGLEV, [1, 1, 1], 1.25, [1, 1, 0])
    assert sorted(pool.pick(7, tried=(0,)) for _ in range(4)) == [1, 2, 2, 2]


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.integers(0, 2**32 - 1), st.integers(1, 60_000))
def test_a_peak_is_believed_at_once_and_fades(low: float, high: float, start: int, later: int) -> None:
    """Finagle's Peak EWMA with its decay of 10 s; the clock may wrap."""
    low, high = sorted((low, high))
    pool = probe.Pool(SELECTIONS["peak_ewma"], [(1, 0)], [0], [0])
    pool.answered(0, low, low, start)
    pool.answered(0, high, high, start)
    assert pool.latency_us(0, start)[0] == pytest.approx(high, rel=1e-5)
    now = (start + later) % 2**32
    left = exp(-later / 10_000)
    assert pool.latency_us(0, now)[1] == pytest.approx(high * left, rel=1e-4)
    pool.answered(0, low, low, now)
    expected = high * left + low * (1 - left) if low <= high else low
    assert pool.latency_us(0, now)[0] == pytest.approx(expected, rel=1e-4)


def test_a_clock_that_is_behind_changes_nothing() -> None:
    pool = probe.Pool(SELECTIONS["peak_ewma"], [(1, 0)], [0], [0])
    pool.answered(0, 500, 0, 100_000)
    assert pool.latency_us(0, 99_990) == pytest.approx((500, 0))


def test_sessions_go_where_answers_come_soon_and_to_others_as_those_fill() -> None:
    """Costs even out: with latencies 1, 1 and 9 ms held sessions settle near 9 : 9 : 1."""
    draw = random.Random(2)
    pool = probe.Pool(SELECTIONS["peak_ewma"], [(1, 0)] * 3, [0, 1, 2], [0, 1, 2])
    for index, latency_us in enumerate((1000, 1000, 9000)):
        pool.answered(index, 0, latency_us, 5)
    for _ in range(1900):
        pool.pick(draw.getrandbits(64), (), 5)
    quick, also_quick, slow = pool.active()
    assert quick == pytest.approx(also_quick, rel=0.05)
    assert slow == pytest.approx(quick / 9, rel=0.2)


def test_nothing_known_is_plain_two_choices() -> None:
    draw = random.Random(2)
    pool = probe.Pool(SELECTIONS["peak_ewma"], [(1, 0), (3, 0)], [0, 1], [0, 1])
    for _ in range(400):
        pool.pick(draw.getrandbits(64))
    assert pool.active() == pytest.approx([100, 300], abs=5)
