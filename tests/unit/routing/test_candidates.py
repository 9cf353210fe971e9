from __future__ import annotations

import pytest

from l4lb.model.states import AdminState, Health
from l4lb.routing.candidates import Standing, usable

UP, DOWN, UNKNOWN = Health.UP, Health.DOWN, Health.UNKNOWN
READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT


@pytest.mark.parametrize(
    ("backends", "expected"),
    [
        ([], []),
        ([(1, READY, UP), (1, READY, DOWN), (1, READY, UP)], [0, 2]),
        ([(1, READY, UNKNOWN), (1, READY, UP)], [1]),
        ([(1, READY, UNKNOWN), (1, READY, DOWN)], [0]),
        ([(1, DRAIN, UP), (1, MAINT, UP), (0, READY, UP)], []),
        ([(1, DRAIN, UP), (1, READY, UNKNOWN)], [1]),
    ],
)
def test_usable(backends: list[tuple[int, AdminState, Health]], expected: list[int]) -> None:
    assert usable([Standing(*backend) for backend in backends]) == expected
