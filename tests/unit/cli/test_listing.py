"""The columns of tables, and the notes of listeners in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from l4lb.cli.instance import ban, session, source
from l4lb.cli.shared.listing import backend_table, listener_table, pool_table
from l4lb.model.states import CloseReason

LISTENER: dict[str, Any] = {
    "name": "web",
    "protocol": "tcp",
    "engine": "proxy",
    "addresses": ["127.0.0.1:80"],
    "pool": "web",
    "sessions_active": 0,
    "sessions_total": 9,
    "dropped": {},
    "in_kernel": None,
    "drain": None,
    "refusing": "",
}


def note(**closed: int) -> str:
    every = dict.fromkeys(CloseReason, 0)
    (row,) = listener_table([{**LISTENER, "closed": every | closed}]).rows
    return row.note


def test_who_was_not_served_is_in_the_note_and_nobody_else() -> None:
    assert note() == ""
    assert note(normal=5, client_abort=1, admin=2, drain=3) == ""
    assert note(denied=3, no_backend=1, normal=5) in (
        "not served: 3 denied, 1 no_backend", "not served: 1 no_backend, 3 denied"
    )  # fmt: skip


def test_the_columns_for_scripts_are_those_that_are_documented() -> None:
    page = Path("docs/command-line.md").read_text(encoding="utf-8")
    table = page.partition("| `-o plain` of | columns |\n")[2].partition("\n\n")[0]
    documented = re.findall(r"^\| `.*?(\w+)(?: list)?` \| (.*) \|$", table, re.MULTILINE)
    tables = {
        "backend": backend_table([], every=True).columns,
        "pool": pool_table([], every=True).columns,
        "listener": listener_table([], every=True).columns,
        "session": session._COLUMNS,
        "source": source._COLUMNS,
        "ban": ban._COLUMNS,
    }
    assert documented == [(name, ", ".join([*(one.heading for one in columns), "note"]))
                          for name, columns in tables.items()]  # fmt: skip
