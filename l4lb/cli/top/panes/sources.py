"""The heaviest sources of clients, at listeners that limit them. The instance chooses by what the list is sorted by."""

from __future__ import annotations

from collections.abc import Sequence

from l4lb.cli.top.panes.pane import Pane, flat
from l4lb.cli.top.panes.shared import given
from l4lb.cli.top.panes.texts import bytes_text, rate_text
from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.listing import Branch
from l4lb.cli.top.state.seen import Seen
from l4lb.model.sessions import SourceOrder


def order_of(sort: str) -> SourceOrder:
    """Which sources are wanted most, by the column that they are sorted by."""
    return "rate" if sort == "new/s" else "bytes" if sort in ("up", "down") else "sessions"


def _branches(seen: Seen) -> Sequence[Branch]:
    return flat([Item(("source", one["listener"], one["source"]), one) for one in seen.part("sources")])


def _columns(seen: Seen) -> Sequence[Column]:
    return [
        Column("source", 18, given("source"), most=44, right=False, large_first=False),
        Column("listener", 12, given("listener"), most=24, right=False, large_first=False),
        Column("sess", 6, given("sessions_active")),
        Column("new/s", 6, given("session_rate"), rate_text),
        Column("over", 7, given("limited"), style=lambda seen, item: "yellow" if item.data["limited"] else "", extra=1),
        Column("total", 8, given("sessions_total"), extra=3),
        Column("up", 6, given("bytes_up"), bytes_text, extra=2),
        Column("down", 6, given("bytes_down"), bytes_text, extra=2),
    ]


SOURCES = Pane("sources", _columns, _branches, "no sources: no listener with clients has per_source", part="sources")
