"""Pools, into which their backends can be folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from l4lb.cli.shared.output import joined
from l4lb.cli.shared.texts import ADMIN_COLOUR, HEALTH_COLOUR, backend_note, discovery_text, serves
from l4lb.cli.top.panes.pane import Pane
from l4lb.cli.top.panes.shared import traffic, trend
from l4lb.cli.top.panes.texts import seconds_text
from l4lb.cli.top.state.cells import cut
from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.listing import Branch
from l4lb.cli.top.state.seen import Seen


def _branches(seen: Seen) -> Sequence[Branch]:
    pools = seen.status["pools"] if seen.status else ()
    return [(_pool(one), [_backend(one["name"], backend) for backend in one["backends"]]) for one in pools]


def _pool(pool: Mapping[str, Any]) -> Item:
    return Item(("pool", pool["name"]), pool, folded=False)


def _backend(pool: str, backend: Mapping[str, Any]) -> Item:
    return Item(("backend", pool, backend["id"]), backend, ("pool", pool))


def is_pool(item: Item) -> bool:
    return item.key[0] == "pool"


# ---- cells ----


def _name(seen: Seen, item: Item) -> str:
    if is_pool(item):
        return f"{item.data['name']} ({item.data['policy']})"
    return str(item.data["id"])


def _name_cell(seen: Seen, item: Item, width: int) -> str:
    mark = "  " if not is_pool(item) else "▸ " if item.folded else "▾ "
    return cut(mark + _name(seen, item), width)


def _name_style(seen: Seen, item: Item) -> str:
    if not is_pool(item):
        return ""
    return "bold" if item.data["usable"] else "bold red"


def health_word(backend: Mapping[str, Any]) -> str:
    """Its health, or else why it gets no new session although it is up."""
    health = str(backend["fleet_health"] or backend["health"])
    if backend["ejected"]:
        return "ejected"
    if health != "up" or backend["admin_state"] != "ready" or serves(backend):
        return health
    return "no new" if backend["passed_over"] else "full"


def _health(seen: Seen, item: Item) -> Any:
    """A pool counts those that can be used."""
    return item.data["usable"] if is_pool(item) else health_word(item.data)


def _health_cell(seen: Seen, item: Item, width: int) -> str:
    if is_pool(item):
        return f"{item.data['usable']}/{len(item.data['backends'])} up"
    return health_word(item.data)


def _health_style(seen: Seen, item: Item) -> str:
    if not is_pool(item):
        return HEALTH_COLOUR.get(health_word(item.data), "red")
    usable = item.data["usable"]
    return "bold red" if not usable else "bold yellow" if usable < len(item.data["backends"]) else "bold"


def _admin_style(seen: Seen, item: Item) -> str:
    return "" if is_pool(item) else ADMIN_COLOUR.get(item.data["admin_state"], "")


def p90(backend: Mapping[str, Any], what: str) -> float | None:
    """Of the latest minute or so; None where there was nothing, or the instance does not say."""
    found: float | None = ((backend.get("latency") or {}).get(what) or {}).get("p90_s")
    return found


def _latency(what: str, heading: str, extra: int) -> Column:
    """A pool has that of its slowest backend."""

    def value(seen: Seen, item: Item) -> float | None:
        if not is_pool(item):
            return p90(item.data, what)
        return max((known for one in item.data["backends"] if (known := p90(one, what)) is not None), default=None)

    def style(seen: Seen, item: Item) -> str:
        """The instance finds it slow, beside others; the note says what."""
        return "yellow" if item.data.get("slow") else ""

    return Column(heading, 8, value, seconds_text, style=style, extra=extra)


def _says_latency(seen: Seen) -> bool:
    pools = seen.status["pools"] if seen.status else ()
    return any("latency" in one for pool in pools for one in pool["backends"][:1])


def _columns(seen: Seen) -> Sequence[Column]:
    latency = [_latency("connect", "conn p90", 6), _latency("first_byte", "byte p90", 3)] if _says_latency(seen) else []
    return [
        Column("pool, backend", 16, _name, cell=_name_cell, style=_name_style, most=44, right=False, large_first=False),
        Column("health", 8, _health, cell=_health_cell, style=_health_style, right=False, large_first=False),
        Column("admin", 6, lambda seen, item: item.data.get("admin_state"), style=_admin_style, extra=1, right=False,
               large_first=False),
        Column("weight", 6, lambda seen, item: item.data.get("weight"), extra=5),
        *latency,
        *traffic(extra=4),
        trend(extra=8),
        Column("note", 24, note, most=400, extra=9, right=False, large_first=False),
    ]  # fmt: skip


def note(seen: Seen, item: Item) -> str:
    if not is_pool(item):
        return backend_note(item.data)
    error = item.data["policy_error"]
    nobody = "no usable backend: new clients get none" if not item.data["usable"] else ""
    return joined((nobody, f"policy: {error}" if error else "", discovery_text(item.data["discovery"])), "; ")


POOLS = Pane("pools", _columns, _branches, "no pools", note=note)
