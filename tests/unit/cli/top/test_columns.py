"""How columns share the width of a terminal."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from l4lb.cli.top.state.cells import text_of, width_of
from l4lb.cli.top.state.columns import Column, Item, fit, headings, row
from l4lb.cli.top.state.seen import Seen


def column(heading: str, width: int, **options: Any) -> Column:
    return Column(heading, width, lambda seen, item: item.data.get(heading), **options)


COLUMNS = [
    column("name", 10, most=30, right=False),
    column("a", 5),
    column("b", 5, extra=1),
    column("c", 5, extra=2),
    column("note", 8, most=100, extra=3, right=False),
]


def names(width: int) -> list[str]:
    return [one.heading for one, _ in fit(COLUMNS, width)]


def test_the_least_important_columns_are_left_out_first() -> None:
    assert names(37) == ["name", "a", "b", "c", "note"]
    assert names(36) == ["name", "a", "b", "c"]
    assert names(27) == ["name", "a", "b"]
    assert names(21) == ["name", "a"]
    assert names(3) == ["name", "a"]


def test_what_is_left_goes_to_those_that_can_use_it() -> None:
    assert [width for _, width in fit(COLUMNS, 40)] == [13, 5, 5, 5, 8]
    assert [width for _, width in fit(COLUMNS, 80)] == [30, 5, 5, 5, 31]
    assert [width for _, width in fit(COLUMNS, 12)] == [6, 5]


@given(st.integers(8, 300))
def test_rows_and_headings_fit(width: int) -> None:
    fitting = fit(COLUMNS, width)
    item = Item(("x",), {"name": "東京" * 40, "a": 123456789, "note": "\t" * 50})
    shown = text_of(row(fitting, Seen(), item))
    assert width_of(shown) <= width
    assert width_of(text_of(headings(fitting, "name", False))) == width_of(shown)


def test_an_arrow_shows_the_order() -> None:
    fitting = fit(COLUMNS, 40)
    assert "NAME▲" in text_of(headings(fitting, "name", False))
    assert "A▼" in text_of(headings(fitting, "a", True))


def test_what_is_not_known_is_a_dash() -> None:
    assert text_of(row(fit(COLUMNS[:2], 16), Seen(), Item(("x",), {"name": "x"}))) == "x              -"
    assert text_of(row(fit(COLUMNS[:2], 16), Seen(), Item(("x",), {"name": "x"}, folded=False))).split() == ["x"]
