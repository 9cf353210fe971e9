"""Text in the columns of a terminal: how wide it is, cut and aligned. Pure.

A line is spans of text, each with a style: words such as "bold red", see `terminal.py`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from l4lb.cli.shared.tables import printable

Span = tuple[str, str]  # text and its style
Line = list[Span]

CUT = "…"


def width_of(text: str) -> int:
    """In columns: East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_width_of_one(one) for one in text)


def _width_of_one(one: str) -> int:
    if unicodedata.combining(one) or unicodedata.category(one) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(one) in "WF" else 1


def cut(text: str, width: int) -> str:
    """At most `width` columns; what was cut ends with an ellipsis."""
    if width <= 0:
        return ""
    if width_of(text) <= width:
        return text
    return _start(text, width - 1) + CUT


def _start(text: str, width: int) -> str:
    """As much of it as `width` columns hold."""
    if text.isascii():
        return text[:width]
    taken = 0
    for number, one in enumerate(text):
        taken += _width_of_one(one)
        if taken > width:
            return text[:number]
    return text


def fitted(text: str, width: int, right: bool = False) -> str:
    """Exactly `width` columns. What would move the cursor is escaped."""
    shown = cut(printable(text), width)
    spaces = " " * (width - width_of(shown))
    return spaces + shown if right else shown + spaces


def clipped(line: Iterable[Span], width: int) -> Line:
    """A line of at most `width` columns."""
    found: Line = []
    for text, style in line:
        if width <= 0:
            break
        shown = cut(text, width)
        found.append((shown, style))
        width -= width_of(shown)
    return found


def text_of(line: Iterable[Span]) -> str:
    return "".join(text for text, _ in line)
