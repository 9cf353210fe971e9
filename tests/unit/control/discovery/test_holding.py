from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from l4lb.config import Backend
from l4lb.control.discovery.holding import EMPTY_HOLD_S, HoldDown

A, B, C, D = (Backend(f"10.0.0.{number}:80") for number in range(1, 5))


def test_without_hold_down_the_answer_is_what_holds() -> None:
    holding = HoldDown(0)
    assert holding.merged((A, B), (B, C), 100.0) == (B, C)
    assert (holding.held, holding.ends_next) == (0, None)


def test_what_is_missing_stays_in_its_place_until_the_time_is_over() -> None:
    holding = HoldDown(30)
    assert holding.merged((A, B, C), (A, C), 100.0) == (A, B, C)
    assert (holding.held, holding.ends_next) == (1, 130.0)
    assert holding.merged((A, B, C), (A, C), 129.9) == (A, B, C)
    assert holding.merged((A, B, C), (A, C), 130.0) == (A, C)
    assert (holding.held, holding.ends_next) == (0, None)


def test_each_has_its_own_time_and_one_that_is_back_begins_anew() -> None:
    holding = HoldDown(30)
    assert holding.merged((A, B, C), (B, C), 100.0) == (A, B, C)
    assert holding.merged((A, B, C), (C,), 110.0) == (A, B, C)
    assert holding.merged((A, B, C), (A, C), 120.0) == (A, B, C)  # A is back, B is missing since 110
    assert holding.ends_next == 140.0
    assert holding.merged((A, B, C), (C,), 139.0) == (A, B, C)
    assert holding.merged((A, B, C), (C,), 140.0) == (A, C)
    assert holding.merged((A, C), (C,), 169.0) == (C,)


def test_no_backend_at_all_is_believed_only_after_a_while() -> None:
    holding = HoldDown(0)
    assert holding.merged((A, B), (), 100.0) == (A, B)
    assert holding.ends_next == 100.0 + EMPTY_HOLD_S
    assert holding.merged((A, B), (), 100.0 + EMPTY_HOLD_S) == ()
    assert HoldDown(60).merged((A,), (), 0.0) == (A,)
    assert HoldDown(0).merged((), (), 0.0) == ()


def test_what_changed_at_the_same_address_is_not_missing() -> None:
    heavier = Backend(A.address, weight=9)
    named = Backend(B.address, id="b")
    assert HoldDown(30).merged((A, B), (heavier, named), 0.0) == (heavier, named)


def is_in_order(backends: Sequence[Backend]) -> bool:
    return list(backends) == sorted(backends, key=lambda one: one.address)


@example([set(), set(), set(), set(), set(), {B.address}, {A.address}])
@given(st.lists(st.sets(st.sampled_from([A.address, B.address, C.address, D.address])), max_size=8))
def test_an_answer_that_names_all_changes_nothing(answers: list[set[str]]) -> None:
    """And whatever comes between, nothing is there twice, and the order of what stays is kept."""
    holding, holds, now = HoldDown(5), (A, B, C, D), 0.0
    for answer in answers:
        found = tuple(one for one in (A, B, C, D) if one.address in answer)
        before, holds = holds, holding.merged(holds, found, now)
        assert len({one.address for one in holds}) == len(holds)
        if is_in_order(before):
            assert is_in_order([one for one in holds if one in before])
        assert {one.address for one in found} <= {one.address for one in holds}
        now += 1
    full = holding.merged(holds, (A, B, C, D), now)
    assert full == (A, B, C, D)
    assert holding.merged(full, (A, B, C, D), now + 100) == full
