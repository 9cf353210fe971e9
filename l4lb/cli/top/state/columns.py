"""Columns of a list, and how they share the width of a terminal. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l4lb.cli.top.state.cells import Line, Span, fitted
from l4lb.cli.top.state.rates import Key
from l4lb.cli.top.state.seen import Seen

GAP = 1  # spaces between columns
ORDER = {False: "▲", True: "▼"}  # the arrow beside the heading that a list is sorted by: reversed, largest first


@dataclass(frozen=True, slots=True)
class Item:
    """A row: `data` is what the instance says of it, `parent` the key of the row that it can be folded into; `folded`
    is None for one into which nothing can be."""

    key: Key
    data: Mapping[str, Any] = field(compare=False)
    parent: Key = ()
    folded: bool | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """`value` is what it sorts by, None where that is unknown; `text` makes the cell of it, unless `cell` does so of
    the item. `width` is at least given, up to `most` if there is room. Columns with the highest `extra` are left out
    first where it is narrow; those with 0 stay. `large_first`: that is the order which is wanted at first."""

    heading: str
    width: int
    value: Callable[[Seen, Item], Any]
    text: Callable[[Any], str] = str
    cell: Callable[[Seen, Item, int], str] | None = None
    style: Callable[[Seen, Item], str] = lambda seen, item: ""
    most: int = 0
    extra: int = 0
    right: bool = True
    large_first: bool = True

    def shown(self, seen: Seen, item: Item, width: int) -> Span:
        if self.cell is not None:
            text = self.cell(seen, item, width)
        else:
            value = self.value(seen, item)
            nothing = "-" if item.folded is None else ""
            text = nothing if value is None else self.text(value)
        return fitted(text, width, self.right), self.style(seen, item)


Fitting = list[tuple[Column, int]]  # columns that are shown, and how wide


def fit(columns: Sequence[Column], width: int) -> Fitting:
    """All for which there is room, in their order; the first one takes what is left where even that is too little."""
    kept = list(columns)
    while _taken(kept) > width and any(one.extra for one in kept):
        last = max(one.extra for one in kept)
        kept = [one for one in kept if one.extra != last]
    widths = [one.width for one in kept]
    left = width - _taken(kept)
    for number, one in enumerate(kept):
        more = min(max(one.most - one.width, 0), max(left, 0))
        widths[number] += more
        left -= more
    if left < 0 and widths:
        widths[0] = max(1, widths[0] + left)
    return list(zip(kept, widths, strict=True))


def _taken(columns: Sequence[Column]) -> int:
    return sum(one.width for one in columns) + GAP * max(len(columns) - 1, 0)


def headings(fitting: Fitting, sort: str, reverse: bool) -> Line:
    """The line above the rows; an arrow marks the column `sort`."""
    line: Line = []
    for number, (column, width) in enumerate(fitting):
        chosen = column.heading == sort
        text = column.heading.upper() + (ORDER[reverse] if chosen else "")
        line.append(
            (" " * GAP * bool(number) + fitted(text, width, column.right), "bold underline" if chosen else "bold")
        )
    return line


def row(fitting: Fitting, seen: Seen, item: Item, style: str = "") -> Line:
    """`style` is added to that of each cell."""
    line: Line = []
    for number, (column, width) in enumerate(fitting):
        text, own = column.shown(seen, item, width)
        if number:
            line.append((" " * GAP, style))
        line.append((text, f"{own} {style}".strip()))
    return line
