"""The first lines of the screen: which instance it is, how it is, and what it does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from l4lb.cli.shared.connection import sessions
from l4lb.cli.shared.listing import needs_attention
from l4lb.cli.shared.output import joined
from l4lb.cli.shared.texts import age_text, drain_text, fleet_text, usage_text
from l4lb.cli.top.panes.texts import bytes_text, rate_text
from l4lb.cli.top.state.cells import Line
from l4lb.cli.top.state.rates import spark
from l4lb.cli.top.state.seen import Seen

_TOTALS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("new", "sessions_total", rate_text),
    ("up", "bytes_up", bytes_text),
    ("down", "bytes_down", bytes_text),
)


def head(seen: Seen, read_only: bool, width: int) -> list[Line]:
    """Three lines; the first one alone while nothing is known."""
    status = seen.status
    if status is None:
        return [] if seen.lost else [[("connecting", "bold")]]
    return [_instance(status, read_only), _state(status), _sparks(seen, width)]


def _instance(status: Mapping[str, Any], read_only: bool) -> Line:
    drains = drain_text(status["drain"])
    line: Line = [
        (f"l4lb {status['version']} ", "bold"),
        (drains or status["state"], "bold yellow" if drains else "bold"),
        (f", process {status['pid']}, up {age_text(status['uptime_s'])}, snapshot {status['snapshot_version']}", ""),
    ]
    if read_only:
        line.append((", read-only", "yellow"))
    return [*line, (f", {fleet}" if (fleet := fleet_text(status["fleet"])) else "", "")]


def _state(status: Mapping[str, Any]) -> Line:
    """What is wrong comes first."""
    dead = sum(1 for pool in status["pools"] if not pool["usable"])
    out = sum(1 for pool in status["pools"] for one in pool["backends"] if needs_attention(one))
    wrong = (
        f"{_count(dead, 'pool')} down" if dead else "",
        f"{_count(out, 'backend')} out" if out else "",
    )
    counted = joined((sessions(status["sessions_active"]), usage_text(status["usage"])))
    said = joined(wrong)
    return [(f"{said}; " if said else "", "bold red" if dead else "bold yellow"), (counted, "")]


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"


def _sparks(seen: Seen, width: int) -> Line:
    room = min(max(4, (width - 42) // 3), 60)
    line: Line = []
    for label, counter, text in _TOTALS:
        bars = spark(seen.rates.history(("total",), counter), room)
        now = text(seen.rates.now(("total",), counter))
        line += [(f"{label} ", ""), (bars, "cyan"), (f" {now}/s".ljust(9) + " ", "")]
    return line
