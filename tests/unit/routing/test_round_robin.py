from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from l4lb.routing.round_robin import MAX_CYCLE, cycle, reduced


def test_equal_weights_take_plain_turns() -> None:
    assert list(cycle([3, 3, 3])) == [0, 1, 2]


def test_turns_are_spread() -> None:
    assert list(cycle([5, 1, 1])) == [0, 0, 0, 1, 2, 0, 0]
    assert list(cycle([2, 1])) == [0, 1, 0]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_each_backend_has_its_share_of_every_cycle(weights: list[int]) -> None:
    slots = cycle(weights)
    shares = reduced(weights)
    assert [slots.count(index) for index in range(len(weights))] == (
        shares if len(set(shares)) > 1 else [1] * len(shares)
    )


def test_a_cycle_has_a_limit_and_nobody_drops_out_of_it() -> None:
    slots = cycle([65535, 65533, 1])
    assert len(slots) <= MAX_CYCLE + 3
    assert slots.count(2) >= 1
