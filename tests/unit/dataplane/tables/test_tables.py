"""What every hashing table promises, whoever builds it."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4lb.model.snapshot import TableKind
from l4lb.routing.ring import MAX_POINTS, POINTS_A_WEIGHT, points_of
from tests.support.tables import TWINS, native_table

KINDS = list(TableKind)


def table(kind: TableKind, ids: list[str], weights: list[int], size: int = 65537, seed: int = 0) -> array[int]:
    given = points_of(weights) if kind is TableKind.RING else weights
    return native_table(kind, ids, given, size, seed)


def names(count: int) -> list[str]:
    return sorted(f"10.0.{number // 250}.{number % 250}:80" for number in range(count))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(
    weights=st.dictionaries(st.text(max_size=40), st.integers(1, 100), min_size=1, max_size=8),
    size=st.sampled_from([13, 251, 1021]),
    seed=st.integers(0, 2**62),
)
def test_native_equals_python(kind: TableKind, weights: dict[str, int], size: int, seed: int) -> None:
    ids = sorted(weights)
    given = [weights[id_] for id_ in ids]
    assert native_table(kind, ids, given, size, seed) == TWINS[kind](ids, given, size, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_shares_go_by_weight(kind: TableKind) -> None:
    """To within what each method promises: Maglev 1 %, the others the noise of their draws."""
    weights = [1, 2, 4, 8, 16]
    slots = table(kind, names(5), weights)
    for index, weight in enumerate(weights):
        share = slots.count(index) / len(slots) * sum(weights) / weight
        assert share == pytest.approx(1, rel={"maglev": 0.01, "ring": 0.35, "rendezvous": 0.1}[kind])


@pytest.mark.parametrize(("kind", "stated"), [(TableKind.RING, 0.297), (TableKind.RENDEZVOUS, 0.495)])
def test_overprovision_of_a_thousand_is_as_the_maglev_paper_states(kind: TableKind, stated: float) -> None:
    """NSDI 2016, section 5.3 and figure 11: how far the fullest of 1,000 is above the mean, at 65537 slots."""
    slots = table(kind, names(1000), [1] * 1000)
    counts = [0] * 1000
    for slot in slots:
        counts[slot] += 1
    assert max(counts) / (65537 / 1000) - 1 == pytest.approx(stated, abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_of_ten_thousand_clients_the_loss_of_one_of_ten_moves_its_own_and_few_others(kind: TableKind) -> None:
    ids = names(10)
    full = table(kind, ids, [1] * 10)
    left = [id_ for id_ in ids if id_ != ids[3]]
    without = table(kind, left, [1] * 9)
    draw = random.Random(4)
    hashes = [draw.getrandbits(64) % 65537 for _ in range(10_000)]
    others = [hashed for hashed in hashes if full[hashed] != 3]
    moved = sum(ids[full[hashed]] != left[without[hashed]] for hashed in others)
    assert moved <= (0.02 * len(others) if kind is TableKind.MAGLEV else 0)
    assert table(kind, ids, [1] * 10) == full  # its return restores every one


def test_a_ring_has_160_points_a_weight_until_they_are_too_many() -> None:
    assert points_of([1, 3]) == [160, 480]
    many = points_of([100] * 1000 + [1])
    assert sum(many) <= MAX_POINTS
    assert many[0] == POINTS_A_WEIGHT * 100 >> 4
    assert many[-1] == 10
