"""Text in the columns of a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.cli.top.state.cells import clipped, cut, fitted, text_of, width_of


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("…", 1), ("東京", 4), ("e\u0301", 1), ("a\u200bb", 2)])
def test_width(text: str, width: int) -> None:
    assert width_of(text) == width


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("abcdef", 4, "abc…"), ("abcd", 4, "abcd"), ("東京都", 4, "東…"), ("abc", 1, "…"), ("abc", 0, ""), ("", 3, "")],
)
def test_what_is_cut_says_so(text: str, width: int, shown: str) -> None:
    assert cut(text, width) == shown


def test_nothing_in_it_moves_the_cursor() -> None:
    assert fitted("a\x1b[2Jb", 12) == "a\\x1b[2Jb   "
    assert fitted("a", 3, right=True) == "  a"


@given(st.text(), st.integers(0, 20), st.booleans())
def test_fitted_is_as_wide_as_was_asked(text: str, width: int, right: bool) -> None:
    shown = fitted(text, width, right)
    assert width_of(shown) == width
    assert shown.isprintable()


@given(st.lists(st.tuples(st.text(), st.just("bold"))), st.integers(0, 20))
def test_a_clipped_line_is_no_wider(line: list[tuple[str, str]], width: int) -> None:
    assert width_of(text_of(clipped(line, width))) <= width
