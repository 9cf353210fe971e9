"""Events, the newest first."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from l4lb.cli.top.panes.pane import Pane, flat
from l4lb.cli.top.panes.shared import given
from l4lb.cli.top.panes.texts import short_clock_text
from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.listing import Branch
from l4lb.cli.top.state.seen import Seen
from l4lb.control.state.events import Event
from l4lb.model.logfmt import quoted

_STYLE = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


def _branches(seen: Seen) -> Sequence[Branch]:
    return flat([Item(("event", str(number)), _data(event)) for number, event in reversed(seen.events)])


def _data(event: Event) -> Mapping[str, Any]:
    return {"time": event.time, "level": event.level, "event": event.message, **event.fields}


def level_text(level: int) -> str:
    return logging.getLevelName(level).lower()


def level_style(level: int) -> str:
    return _STYLE.get(level, "")


def _text(seen: Seen, item: Item) -> str:
    return sentence(item.data)


def sentence(data: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """As in the log."""
    fields = ((name, value) for name, value in data.items() if name not in ("time", "level", "event", *without))
    return " ".join([data["event"], *(f"{name}={quoted(value)}" for name, value in fields)])


def events_of(seen: Seen, **fields: str) -> Sequence[Mapping[str, Any]]:
    """Those with these fields, the newest first."""
    found = (event for _, event in reversed(seen.events))
    return [_data(one) for one in found if all(one.fields.get(name) == value for name, value in fields.items())]


def _columns(seen: Seen) -> Sequence[Column]:
    return [
        Column("time", 12, given("time"), short_clock_text, right=False),
        Column("level", 8, given("level"), level_text, extra=1, right=False,
               style=lambda seen, item: level_style(item.data["level"])),
        Column("event", 12, _text, most=1000, right=False, large_first=False),
    ]  # fmt: skip


EVENTS = Pane("events", _columns, _branches, "nothing has happened", note=_text)
