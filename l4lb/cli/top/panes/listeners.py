"""Listeners: where clients come in."""

from __future__ import annotations

from collections.abc import Sequence

from l4lb.cli.shared.output import joined
from l4lb.cli.shared.texts import counts_text, drain_text, place_text
from l4lb.cli.top.panes.pane import Pane, flat
from l4lb.cli.top.panes.shared import given, rate_of, trend
from l4lb.cli.top.panes.texts import rate_text
from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.listing import Branch
from l4lb.cli.top.state.seen import Seen


def _branches(seen: Seen) -> Sequence[Branch]:
    listeners = seen.status["listeners"] if seen.status else ()
    return flat([Item(("listener", one["name"]), one) for one in listeners])


def _closed(item: Item) -> str:
    """Why it takes no client now."""
    return drain_text(item.data["drain"]) or ("refuses clients" if item.data["refusing"] else "")


def _packets(seen: Seen, item: Item) -> float | None:
    """Of both directions; None for one that the kernel does not forward."""
    if not seen.rates.knows(item.key, "packets_up"):
        return None
    return sum(seen.rates.now(item.key, f"packets_{one}") for one in ("up", "down"))


def _columns(seen: Seen) -> Sequence[Column]:
    return [
        Column("listener", 12, given("name"), most=24, right=False, large_first=False),
        Column("address", 20, lambda seen, item: _closed(item) or place_text(item.data), most=48, right=False,
               style=lambda seen, item: "yellow" if _closed(item) else "", large_first=False),
        Column("pool", 10, given("pool"), most=20, extra=2, right=False, large_first=False),
        Column("sess", 6, given("sessions_active")),
        Column("new/s", 6, rate_of("sessions_total"), rate_text),
        Column("pkt/s", 6, _packets, rate_text, extra=3),
        trend(extra=4),
        Column("note", 24, note, most=400, extra=5, right=False, large_first=False),
    ]  # fmt: skip


def note(seen: Seen, item: Item) -> str:
    dropped = counts_text({reason: count for reason, count in item.data["dropped"].items() if count})
    said = (
        drain_text(item.data["drain"]),
        f"refuses clients: {item.data['refusing']}" if item.data["refusing"] else "",
        f"dropped: {dropped}" if dropped else "",
    )
    return joined(said, "; ")


LISTENERS = Pane("listeners", _columns, _branches, "no listeners", note=note)
