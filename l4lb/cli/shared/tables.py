"""Tables as plain text. Nothing is drawn around cells, and no cell is cut or wrapped: what it has can be pasted.

Where there is a terminal, columns that it is too narrow for are left out, and the note of a row goes on lines of its
own when it does not fit beside it. Elsewhere every column is shown, and a row is one line.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import click

GAP = "  "
_INDENT = " " * 6
_NOTE = "note"


@dataclass(frozen=True, slots=True)
class Column:
    """`text` makes a cell of a value for people. `extra`: those with 0 are always shown; of the others, those with the
    highest number are left out first."""

    heading: str
    right: bool = False
    extra: int = 0
    text: Callable[[Any], str] = str

    def cell(self, value: Any) -> str:
        return "-" if value is None or value == "" else printable(self.text(value))


@dataclass(frozen=True, slots=True)
class Row:
    """Values by heading, what is to be known about them in words, and colours by heading."""

    values: Mapping[str, Any]
    note: str = ""
    colours: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Row]

    def lines(self, width: int | None) -> list[str]:
        """For people, at most `width` columns wide as far as that is possible; None: no limit."""
        columns, widths = self._fitting(width)
        heading = GAP.join(
            _aligned(column, column.heading.upper(), widths[column.heading]) for column in columns
        ).rstrip()
        found = [heading if not any(row.note for row in self.rows) or width else f"{heading}{GAP}{_NOTE.upper()}"]
        for row in self.rows:
            found += _row_lines(row, columns, widths, width)
        return found

    def plain(self) -> list[str]:
        """For scripts: every value as it is, with tabs between them, and the note at the end."""
        return [
            "\t".join([*(_raw(row.values.get(column.heading)) for column in self.columns), printable(row.note)])
            for row in self.rows
        ]

    def _fitting(self, width: int | None) -> tuple[list[Column], dict[str, int]]:
        """The columns to show, and how wide each is."""
        columns = list(self.columns)
        widths = {
            one.heading: max(len(one.heading), *(len(one.cell(row.values.get(one.heading))) for row in self.rows), 0)
            for one in columns
        }
        while width is not None and _taken(columns, widths) > width:
            last = max(one.extra for one in columns)
            if not last:
                break
            columns = [one for one in columns if one.extra != last]
        return columns, widths


def _taken(columns: Sequence[Column], widths: Mapping[str, int]) -> int:
    return sum(widths[one.heading] for one in columns) + len(GAP) * (len(columns) - 1)


def _row_lines(row: Row, columns: Sequence[Column], widths: Mapping[str, int], width: int | None) -> list[str]:
    cells = []
    for column in columns:
        text = _aligned(column, column.cell(row.values.get(column.heading)), widths[column.heading])
        colour = row.colours.get(column.heading)
        cells.append(click.style(text, fg=colour) if colour and coloured() else text)
    line = GAP.join(cells)
    note = printable(row.note)
    if not note or width is None or _taken(columns, widths) + len(GAP) + len(note) <= width:
        return [f"{line}{GAP}{note}".rstrip()]
    below = textwrap.wrap(note, max(width - len(_INDENT), 20), break_long_words=False, break_on_hyphens=False)
    return [line.rstrip(), *(_INDENT + one for one in below)]


def _aligned(column: Column, text: str, width: int) -> str:
    return text.rjust(width) if column.right else text.ljust(width)


def is_terminal(stream: IO[str] | None) -> bool:
    """None is a standard stream that was closed."""
    return stream is not None and stream.isatty()


def terminal_width() -> int | None:
    """How wide a table may be there; None where there is no terminal, and a table is as wide as it is."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None


def coloured() -> bool:
    """See no-color.org. `click.echo` removes colours where there is no terminal."""
    return not os.environ.get("NO_COLOR")


def _raw(value: Any) -> str:
    return "" if value is None else printable(str(value))


def printable(text: str) -> str:
    """Backends and other systems wrote parts of it: what would move the cursor, end the line or separate cells is
    escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
