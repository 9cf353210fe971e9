"""Maglev against published tables."""

from __future__ import annotations

from l4lb.model.snapshot import TableKind
from l4lb.routing.maglev import fill, maglev_slots
from tests.support.tables import native_table

KEYS = [f"127.0.0.1:{port}" for port in range(90, 96)]


def test_the_paper_table_1() -> None:
    """NSDI 2016, table 1: three backends with (offset, skip) given, before and after the removal of the second."""
    assert list(fill([(3, 4), (0, 2), (3, 1)], [1, 1, 1], 7)) == [1, 0, 1, 0, 2, 2, 0]
    assert [(0, 2)[index] for index in fill([(3, 4), (3, 1)], [1, 1], 7)] == [0, 0, 0, 0, 2, 2, 2]


def test_envoy_tables() -> None:
    """Envoy's maglev_lb_test.cc: the same hash and the same turns, so the same tables."""
    assert list(maglev_slots(KEYS, [1] * 6, 7, 0)) == [2, 4, 0, 1, 5, 0, 3]
    assert list(maglev_slots([str(port) for port in range(90, 96)], [1] * 6, 7, 0)) == [2, 5, 0, 3, 4, 1, 0]
    weighted = [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1]
    assert list(maglev_slots(KEYS[:2], [1, 2], 17, 0)) == weighted


def test_even_at_equal_weights_and_proportional_otherwise() -> None:
    ids = [f"10.0.0.{number}:80" for number in range(100)]
    slots = native_table(TableKind.MAGLEV, ids, [1] * 100, 65537, 0)
    counts = [slots.count(index) for index in range(100)]
    assert max(counts) - min(counts) <= 1
    weights = list(range(1, 101))
    slots = native_table(TableKind.MAGLEV, ids, weights, 655373, 0)
    for index, weight in enumerate(weights):
        share = weight * 655373 / sum(weights)
        assert abs(slots.count(index) - share) <= max(0.01 * share, 2)


def test_removing_one_of_ten_moves_little_else_and_its_return_restores_all() -> None:
    ids = [f"10.0.0.{number}:80" for number in range(10)]
    full = maglev_slots(ids, [1] * 10, 4093, 0)
    without = maglev_slots(ids[:3] + ids[4:], [1] * 9, 4093, 0)
    names = [*ids[:3], *ids[4:]]
    others = [slot for slot in range(4093) if ids[full[slot]] != ids[3]]
    moved = sum(ids[full[slot]] != names[without[slot]] for slot in others)
    assert moved / len(others) < 0.05
    assert maglev_slots(ids, [1] * 10, 4093, 0) == full
