"""Clients that are kept out at runtime."""

from __future__ import annotations

import time
from collections.abc import Sequence

from l4lb.cli.shared.texts import age_text
from l4lb.cli.top.panes.pane import Pane, flat
from l4lb.cli.top.panes.shared import given
from l4lb.cli.top.panes.texts import clock_text
from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.listing import Branch
from l4lb.cli.top.state.seen import Seen


def _branches(seen: Seen) -> Sequence[Branch]:
    return flat([Item(("ban", one["cidr"], one["listener"] or ""), one) for one in seen.part("bans")])


def _left(seen: Seen, item: Item) -> float:
    until = item.data["until"]
    return float("inf") if until is None else max(until - time.time(), 0.0)


def _columns(seen: Seen) -> Sequence[Column]:
    return [
        Column("clients", 18, given("cidr"), most=44, right=False, large_first=False),
        Column("listener", 12, lambda seen, item: item.data["listener"] or "all", most=24, right=False,
               large_first=False),
        Column("left", 7, _left, lambda left: "-" if left == float("inf") else age_text(left), large_first=False),
        Column("since", 19, given("since"), clock_text, extra=1, right=False),
        Column("reason", 16, given("reason"), most=400, extra=2, right=False, large_first=False),
    ]  # fmt: skip


BANS = Pane("bans", _columns, _branches, "nobody is banned", part="bans")
