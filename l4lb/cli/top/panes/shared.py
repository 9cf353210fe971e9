"""Columns that several panes have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from l4lb.cli.top.panes.texts import bytes_text, rate_text
from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.rates import spark
from l4lb.cli.top.state.seen import Seen

TREND_WIDTH = 20


def given(name: str) -> Callable[[Seen, Item], Any]:
    """The value that the instance gives."""
    return lambda seen, item: item.data[name]


def rate_of(counter: str) -> Callable[[Seen, Item], float]:
    return lambda seen, item: seen.rates.now(item.key, counter)


def traffic(extra: int = 0) -> list[Column]:
    """Sessions and bytes, now and a second."""
    return [
        Column("sess", 6, given("sessions_active")),
        Column("new/s", 6, rate_of("sessions_total"), rate_text, extra=2),
        Column("up/s", 6, rate_of("bytes_up"), bytes_text, extra=extra),
        Column("down/s", 6, rate_of("bytes_down"), bytes_text, extra=extra),
    ]


def trend(extra: int) -> Column:
    """New sessions a second, in bars."""

    def bars(seen: Seen, item: Item, width: int) -> str:
        return spark(seen.rates.history(item.key, "sessions_total"), width)

    return Column(
        "trend", TREND_WIDTH, rate_of("sessions_total"), cell=bars, style=lambda seen, item: "cyan", extra=extra
    )
