"""Workers: the native threads, and how busy they are."""

from __future__ import annotations

from collections.abc import Sequence

from l4lb.cli.top.panes.pane import Pane, flat
from l4lb.cli.top.panes.shared import given, rate_of
from l4lb.cli.top.panes.texts import bytes_text
from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.listing import Branch
from l4lb.cli.top.state.rates import BARS
from l4lb.cli.top.state.seen import Seen

_BAR = 20


def _branches(seen: Seen) -> Sequence[Branch]:
    workers = seen.status["workers"] if seen.status else ()
    return flat([Item(("worker", str(one["worker"])), one) for one in workers])


def _bar(seen: Seen, item: Item, width: int) -> str:
    return (BARS[-1] * round(min(seen.rates.now(item.key, "busy_s"), 1.0) * width)).ljust(width)


def _columns(seen: Seen) -> Sequence[Column]:
    return [
        Column("worker", 6, given("worker"), large_first=False),
        Column("busy", 6, rate_of("busy_s"), lambda rate: f"{100 * min(rate, 1.0):.0f}%"),
        Column("sess", 7, given("sessions_active")),
        Column("spliced/s", 9, rate_of("spliced_bytes"), bytes_text, extra=1),
        Column("pauses", 7, given("accept_pauses"), extra=2),
        Column("handed over", 11, given("handed_over"), extra=3),
        Column("late answers", 12, given("late_answers"), extra=4),
        Column("load", _BAR, rate_of("busy_s"), cell=_bar, style=lambda seen, item: "cyan", extra=5, right=False),
    ]


WORKERS = Pane("workers", _columns, _branches, "no workers")
