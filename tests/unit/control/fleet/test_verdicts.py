"""What most nodes say of a backend, and what others may write there."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from l4lb.control.fleet.verdicts import parse_view, verdict_on, view_value
from l4lb.model.states import Health

KEY = ("web", "one")
UP, DOWN = Health.UP, Health.DOWN


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        ([], None),
        ([DOWN], None),
        ([DOWN, DOWN], None),
        ([DOWN, DOWN, UP], DOWN),
        ([DOWN, UP, UP], UP),
        ([DOWN, DOWN, UP, UP], None),
        ([DOWN, DOWN, None, UP], DOWN),
        ([DOWN, None, None, UP], None),
        ([UP] * 3, UP),
    ],
)
def test_more_than_half_of_three_or_more_decide(votes: Sequence[Health | None], verdict: Health | None) -> None:
    views = [{KEY: vote} if vote is not None else {("web", "other"): DOWN} for vote in votes]
    assert verdict_on(KEY, views) is verdict


def test_what_is_written_is_read_again() -> None:
    view = {KEY: UP, ("web", "two"): DOWN, ("api", "one"): DOWN}
    assert parse_view(view_value(view)) == view
    assert parse_view(view_value({})) == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "Invalid JSON"),
        (b"[]", "should be"),
        (json.dumps({}).encode(), "pools: Field required"),
        (json.dumps({"pools": {"web": {"up": []}}}).encode(), r"pools\.web\.down: Field required"),
        (json.dumps({"pools": {"web": {"up": [1], "down": []}}}).encode(), r"pools\.web\.up\.0: "),
        (b" " * (4 << 20) + b"{}", "larger than 4 MiB"),
    ],
)
def test_hostile_values_are_refused(value: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_view(value)
