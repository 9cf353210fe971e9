from __future__ import annotations

from l4lb.cli.addresses.hysteresis import Hysteresis, Level

DOWN, DRAINS, UP = Level.WITHDRAWN, Level.DRAINING, Level.NORMAL


def levels(hysteresis: Hysteresis, *seen: tuple[float, Level]) -> list[Level]:
    return [hysteresis.see(level, now) for now, level in seen]


def test_the_first_announcement_waits_for_nothing() -> None:
    assert levels(Hysteresis(10, 0), (0, DOWN), (1, UP)) == [DOWN, UP]


def test_addresses_that_come_back_have_to_be_fit_all_the_time() -> None:
    seen = [(0, UP), (1, DOWN), (2, UP), (11.9, UP), (12, UP)]
    assert levels(Hysteresis(10, 0), *seen) == [UP, DOWN, DOWN, DOWN, UP]
    flapping = [(0, UP), (1, DOWN), (2, UP), (9, DOWN), (10, UP), (19, UP), (20, UP)]
    assert levels(Hysteresis(10, 0), *flapping) == [UP, DOWN, DOWN, DOWN, DOWN, DOWN, UP]


def test_a_short_failure_may_be_borne() -> None:
    seen = [(0, UP), (1, DOWN), (2, UP), (3, DOWN), (5.9, DOWN), (6, DOWN)]
    assert levels(Hysteresis(0, 3), *seen) == [UP, UP, UP, UP, UP, DOWN]


def test_an_instance_that_is_gone_is_not_borne() -> None:
    hysteresis = Hysteresis(0, 3)
    assert levels(hysteresis, (0, UP), (1, DOWN)) == [UP, UP]
    assert hysteresis.see(DOWN, 1, at_once=True) is DOWN


def test_a_drain_begins_and_ends_at_once() -> None:
    assert levels(Hysteresis(10, 10), (0, UP), (1, DRAINS), (2, UP), (3, DRAINS)) == [UP, DRAINS, UP, DRAINS]


def test_a_drain_is_no_way_around_the_wait() -> None:
    seen = [(0, UP), (1, DOWN), (2, DRAINS), (3, UP), (11.9, DRAINS), (12, DRAINS)]
    assert levels(Hysteresis(10, 0), *seen) == [UP, DOWN, DOWN, DOWN, DOWN, DRAINS]


def test_a_drain_that_was_borne_over_is_shown_as_it_is() -> None:
    assert levels(Hysteresis(0, 3), (0, UP), (1, DOWN), (2, DRAINS)) == [UP, UP, DRAINS]
