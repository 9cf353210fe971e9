from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.model.states import AdminState, Health
from l4lb.routing.candidates import Candidacy, Rules, Standing, candidacy, standby

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
        ([(1, READY, UP, 1), (1, READY, UP, 0), (1, READY, UP, 0)], [0, 1, 2]),
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


def tiers(found: Candidacy) -> list[tuple[int, ...]]:
    return [tier.members for tier in found.tiers]


@pytest.mark.parametrize(
    ("backends", "expected"),
    [
        ([], [()]),
        ([(1, READY, DOWN)], [()]),
        ([(1, READY, UP)], [(0,)]),
        ([(1, READY, UP, 1), (1, READY, UP, 0), (1, READY, UP, 0)], [(1, 2), (0,)]),
        ([(1, READY, UP, 7), (1, READY, UP, 3), (1, READY, UP, 300)], [(1,), (0,), (2,)]),
        ([(1, READY, DOWN, 0), (1, READY, UP, 1), (0, READY, UP, 0), (1, READY, UP, 2)], [(1,), (3,)]),
    ],
)
def test_tiers_are_priorities_with_a_usable_backend_the_lowest_number_first(backends: list, expected: list) -> None:
    assert tiers(candidacy([Standing(*backend) for backend in backends])) == expected


def test_an_ejected_one_is_out_while_any_other_is_usable_of_whatever_priority() -> None:
    primary, backup = Standing(1, READY, UP, ejected=True), Standing(1, READY, UP, 1)
    assert tiers(candidacy([primary, backup])) == [(1,)]
    assert tiers(candidacy([primary, replace(backup, ejected=True)])) == [(0,), (1,)]


@pytest.mark.parametrize("rules", [Rules(panic_threshold=60), Rules(panic_threshold=60, use_all_when_down=True)])
def test_panic_does_not_put_a_priority_that_is_down_before_one_that_is_not(rules: Rules) -> None:
    down, up = Standing(1, READY, DOWN), Standing(1, READY, UP, 1)
    found = candidacy([down, up], rules)
    assert tiers(found) == [(1,)]
    assert found.passed_over == {0: "health down"}
    assert tiers(candidacy([down, replace(up, health=DOWN)], rules)) == [(0,), (1,)]
    few = [down, down, replace(down, health=UP), replace(up, health=DOWN), replace(up, health=DOWN)]
    assert tiers(candidacy(few, rules)) == [(0, 1, 2)]  # health is ignored where not all are down


def test_when_all_are_down_use_all_still_obeys_the_operator_and_priorities() -> None:
    backends = [
        Standing(1, READY, DOWN, 1),
        Standing(1, READY, DOWN),
        Standing(1, DRAIN, DOWN),
        Standing(0, READY, DOWN),
    ]
    assert candidacy(backends).usable == []
    assert tiers(candidacy(backends, Rules(use_all_when_down=True))) == [(1,), (0,)]
    one_up = [*backends, Standing(1, READY, UP, 1)]
    assert candidacy(one_up, Rules(use_all_when_down=True)).usable == [4]


@pytest.mark.parametrize(
    ("here", "elsewhere", "expected"),
    [
        ([UP, UP, UP, UP], [UP], [(0, 1, 2, 3), (4,)]),
        ([UP, UP, DOWN, DOWN], [UP], [(0, 1), (4,)]),  # half is enough
        ([UP, UP], [DOWN], [(0, 1)]),
        ([UP, DOWN, DOWN, DOWN], [UP], [(0, 4)]),
        ([DOWN, DOWN, DOWN, DOWN], [UP], [(4,)]),
    ],
)
def test_zone_is_preferred_while_enough_of_it_is_up(here: list, elsewhere: list, expected: list) -> None:
    backends = [Standing(1, READY, health, 0, "a") for health in here]
    backends += [Standing(1, READY, health, 0, "b") for health in elsewhere]
    assert tiers(candidacy(backends, Rules(zone="a"))) == expected


def test_zones_are_preferred_within_each_priority() -> None:
    places = [(1, "b"), (0, "b"), (1, "a"), (0, "a"), (2, "b")]
    found = candidacy([Standing(1, READY, UP, priority, zone) for priority, zone in places], Rules(zone="a"))
    assert [str(tier) for tier in found.tiers] == [
        'priority 0, zone "a"', 'priority 0, not zone "a"', 'priority 1, zone "a"', 'priority 1, not zone "a"',
        "priority 2",
    ]  # fmt: skip
    assert tiers(found) == [(3,), (1,), (2,), (0,), (4,)]
    assert [standby(tier, found.tiers[0]) for tier in found.tiers] == [
        "", 'zone "a" goes first', "priority 1: 0 goes first", "priority 1: 0 goes first", "priority 2: 0 goes first",
    ]  # fmt: skip


def test_each_is_told_why_it_was_passed_over() -> None:
    backends = [
        Standing(1, READY, UP, 0, "a"), Standing(1, READY, UP, 0, "b"), Standing(1, READY, UP, 3, "a"),
        Standing(1, READY, DOWN), Standing(0, READY, UP), Standing(1, DRAIN, UP),
    ]  # fmt: skip
    found = candidacy(backends, Rules(zone="a"))
    assert found.passed_over == {3: "health down", 4: "weight 0", 5: "admin state drain"}
    assert tiers(found) == [(0,), (1,), (2,)]


@given(STANDINGS, RULES)
def test_what_always_holds(backends: list[Standing], rules: Rules) -> None:
    found = candidacy(backends, rules)
    assert sorted([*found.usable, *found.passed_over]) == list(range(len(backends)))
    chosen = [backends[index] for index in found.usable]
    assert all(one.admin_state is READY and one.weight > 0 for one in chosen)
    assert sorted(index for tier in found.tiers for index in tier.members) == found.usable
    for tier in found.tiers:
        assert {backends[index].priority for index in tier.members} <= {tier.priority}
    assert [tier.priority for tier in found.tiers] == sorted(tier.priority for tier in found.tiers)
    wanted = [one for one in backends if one.admin_state is READY and one.weight > 0]
    if any(one.health is UP for one in wanted):
        assert chosen
        if not rules.panic_threshold:
            assert all(one.health is UP for one in chosen)
    if rules.use_all_when_down and wanted:
        assert chosen
