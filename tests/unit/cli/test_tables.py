"""Tables: nothing in them is cut, whatever the width; what does not fit is left out or goes below."""

from __future__ import annotations

import pytest

from l4lb.cli.shared.tables import Column, Row, Table

ID = "[2001:db8:1234:5678:9abc:def0:1234:5678]:8443"
COLUMNS = (
    Column("backend"),
    Column("sessions", right=True),
    Column("up", right=True, extra=1, text=lambda count: f"{count} B"),
    Column("down", right=True, extra=1, text=lambda count: f"{count} B"),
    Column("zone", extra=2),
)
NOTE = "no new sessions: down for 5m3s (connect: connection refused)"
ROWS = (
    Row({"backend": ID, "sessions": 7, "up": 10, "down": 20, "zone": "a"}, NOTE, {"sessions": "red"}),
    Row({"backend": "one", "sessions": 1234, "up": None, "down": 5, "zone": ""}),
)
TABLE = Table(COLUMNS, ROWS)


def test_without_a_terminal_a_row_is_a_line_and_has_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert TABLE.lines(None) == [
        f"{'BACKEND':<{len(ID)}}  SESSIONS    UP  DOWN  ZONE  NOTE",
        f"{ID}         7  10 B  20 B  a     {NOTE}",
        f"{'one':<{len(ID)}}      1234     -   5 B  -",
    ]


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (200, ["BACKEND", "SESSIONS", "UP", "DOWN", "ZONE"]),
        (len(ID) + 28, ["BACKEND", "SESSIONS", "UP", "DOWN", "ZONE"]),
        (len(ID) + 27, ["BACKEND", "SESSIONS", "UP", "DOWN"]),
        (len(ID) + 21, ["BACKEND", "SESSIONS"]),
        (20, ["BACKEND", "SESSIONS"]),
    ],
)
def test_a_narrow_terminal_has_fewer_columns(width: int, headings: list[str]) -> None:
    lines = TABLE.lines(width)
    assert lines[0].split() == headings
    assert any(ID in line for line in lines)
    if width >= len(ID) + 10:
        assert max(map(len, lines)) <= width + len("\033[31m\033[0m")


def test_a_note_that_does_not_fit_goes_below_its_row() -> None:
    assert TABLE.lines(80)[2] == f"      {NOTE}"
    assert NOTE in TABLE.lines(200)[1]
    assert [line.strip() for line in TABLE.lines(40)[2:4]] == [
        "no new sessions: down for 5m3s",
        "(connect: connection refused)",
    ]


def test_for_scripts_values_stand_as_they_are_with_tabs_between_them() -> None:
    assert TABLE.plain() == [f"{ID}\t7\t10\t20\ta\t{NOTE}", "one\t1234\t\t5\t\t"]


def test_what_others_wrote_cannot_move_the_cursor_or_separate_cells() -> None:
    table = Table([Column("id"), Column("why")], [Row({"id": "a\tb", "why": "\033[2Jx\ny"}, "z\r")])
    for lines in (table.lines(None), table.lines(80), table.plain()):
        assert all(line.replace("\t", "").isprintable() for line in lines)
    assert table.plain() == ["a\\tb\t\\x1b[2Jx\\ny\tz\\r"]
    assert len(table.lines(None)) == 2


def test_an_empty_table_has_its_headings() -> None:
    assert Table(COLUMNS, []).lines(80) == ["BACKEND  SESSIONS  UP  DOWN  ZONE"]
    assert Table(COLUMNS, []).plain() == []
