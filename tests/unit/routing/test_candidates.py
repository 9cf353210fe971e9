from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.model.states import AdminState, Health
from l4lb.routing.candidates import Rules, Standing, candidacy

UP, DOWN, UNKNOWN = Health.UP, Health.DOWN, Health.UNKNOWN
READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT
STANDINGS = st.lists(
    st.builds(
        Standing,
        st.integers(0, 3),
        st.sampled_from(AdminState),
        st.sampled_from(Health),
        st.integers(0, 2),
        st.sampled_from(["", "a", "b"]),
    )
)
RULES = st.builds(Rules, st.integers(0, 100), st.booleans(), st.sampled_from(["", "a", "b"]))


@pytest.mark.parametrize(
    ("backends", "expected"),
    [
        ([], []),
        ([(1, READY, UP), (1, READY, DOWN), (1, READY, UP)], [0, 2]),
        ([(1, READY, UNKNOWN), (1, READY, UP)], [1]),
        ([(1, READY, UNKNOWN), (1, READY, DOWN)], [0]),
        ([(1, DRAIN, UP), (1, MAINT, UP), (0, READY, UP)], []),
        ([(1, DRAIN, UP), (1, READY, UNKNOWN)], [1]),
        ([(1, READY, DOWN), (1, READY, DOWN)], []),
        ([(1, READY, UP, 1), (1, READY, UP, 0), (1, READY, UP, 0)], [1, 2]),
        ([(1, READY, UP, 1), (1, READY, DOWN, 0), (1, MAINT, UP, 0)], [0]),
        ([(1, READY, UP, 2), (1, READY, UNKNOWN, 1), (1, READY, DOWN, 0)], [0]),
    ],
)
def test_usable(backends: list, expected: list[int]) -> None:
    assert candidacy([Standing(*backend) for backend in backends]).usable == expected


@pytest.mark.parametrize(
    ("threshold", "up", "down", "expected"),
    [(0, 1, 9, 1), (10, 1, 9, 1), (11, 1, 9, 10), (50, 5, 5, 5), (50, 4, 6, 10), (100, 9, 1, 10), (100, 10, 0, 10)],
)
def test_panic_threshold_uses_all_below_that_percentage(threshold: int, up: int, down: int, expected: int) -> None:
    backends = [Standing(1, READY, UP)] * up + [Standing(1, READY, DOWN)] * down + [Standing(1, MAINT, UP)]
    assert len(candidacy(backends, Rules(threshold)).usable) == expected


def test_when_all_are_down_use_all_still_obeys_the_operator_and_priorities() -> None:
    backends = [
        Standing(1, READY, DOWN, 1),
        Standing(1, READY, DOWN),
        Standing(1, DRAIN, DOWN),
        Standing(0, READY, DOWN),
    ]
    assert candidacy(backends).usable == []
    assert candidacy(backends, Rules(use_all_when_down=True)).usable == [1]
    one_up = [*backends, Standing(1, READY, UP, 1)]
    assert candidacy(one_up, Rules(use_all_when_down=True)).usable == [4]


@pytest.mark.parametrize(
    ("here", "elsewhere", "expected"),
    [
        ([UP, UP, UP, UP], [UP], [0, 1, 2, 3]),
        ([UP, UP, DOWN, DOWN], [UP], [0, 1]),  # half is enough
        ([UP, DOWN, DOWN, DOWN], [UP], [0, 4]),
        ([DOWN, DOWN, DOWN, DOWN], [UP], [4]),
    ],
)
def test_zone_is_preferred_while_enough_of_it_is_up(here: list, elsewhere: list, expected: list[int]) -> None:
    backends = [Standing(1, READY, health, 0, "a") for health in here]
    backends += [Standing(1, READY, health, 0, "b") for health in elsewhere]
    assert candidacy(backends, Rules(zone="a")).usable == expected


def test_each_is_told_why_it_was_passed_over() -> None:
    backends = [
        Standing(1, READY, UP, 0, "a"), Standing(1, READY, UP, 0, "b"), Standing(1, READY, UP, 3, "a"),
        Standing(1, READY, DOWN), Standing(0, READY, UP), Standing(1, DRAIN, UP),
    ]  # fmt: skip
    assert candidacy(backends, Rules(zone="a")).passed_over == {
        1: 'zone "b"', 2: "priority 3: 0 goes first", 3: "health down", 4: "weight 0", 5: "admin state drain",
    }  # fmt: skip


@given(STANDINGS, RULES)
def test_what_always_holds(backends: list[Standing], rules: Rules) -> None:
    found = candidacy(backends, rules)
    assert sorted([*found.usable, *found.passed_over]) == list(range(len(backends)))
    chosen = [backends[index] for index in found.usable]
    assert all(one.admin_state is READY and one.weight > 0 for one in chosen)
    assert len({one.priority for one in chosen}) <= 1
    wanted = [one for one in backends if one.admin_state is READY and one.weight > 0]
    if any(one.health is UP for one in wanted):
        assert chosen
        if not rules.panic_threshold:
            assert all(one.health is UP for one in chosen)
    if rules.use_all_when_down and wanted:
        assert chosen
