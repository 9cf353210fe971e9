from __future__ import annotations

import pytest

from l4lb.routing.ejection import duration_s, ejections_left, refusal


@pytest.mark.parametrize(
    ("wanted", "ejected", "usable", "percent", "may"),
    [
        (4, 0, 3, 50, True),
        (4, 1, 2, 50, True),
        (4, 2, 1, 50, False),  # half of them are out
        (3, 0, 2, 50, True),
        (3, 1, 1, 50, False),
        (1, 0, 0, 100, False),  # the last one
        (4, 0, 0, 100, False),  # the others are down
        (4, 3, 0, 100, False),
        (2, 0, 1, 50, True),
        (2, 0, 1, 49, False),
        (4, 0, 3, 0, False),
    ],
)
def test_who_may_be_ejected(wanted: int, ejected: int, usable: int, percent: int, may: bool) -> None:
    assert (refusal(wanted, ejected, usable, percent) == "") == may


def test_ejections_grow_longer_up_to_ten_times_and_are_forgotten_by_serving() -> None:
    assert [duration_s(number, 30) for number in (1, 2, 9, 10, 11)] == [30, 60, 270, 300, 300]
    assert [ejections_left(5, served, 30) for served in (0, 29, 30, 90, 1000)] == [5, 5, 4, 2, 0]
