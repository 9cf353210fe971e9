"""Sessions that there are now. The instance filters by pool, backend, source and listener; other words of the filter
are looked for in what it lists, which has a limit."""

from __future__ import annotations

from collections.abc import Sequence

from l4lb.cli.shared.texts import age_text
from l4lb.cli.top.panes.pane import Pane, flat
from l4lb.cli.top.panes.shared import given
from l4lb.cli.top.panes.texts import bytes_text
from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.listing import Branch
from l4lb.cli.top.state.seen import Seen

ASKED = ("pool", "backend", "source", "listener")  # filters that the instance knows


def asked_for(words: str) -> dict[str, str]:
    """What of a filter is for the instance: pool=NAME and the like."""
    found = (one.partition("=") for one in words.split())
    return {name: value for name, _, value in found if name in ASKED and value}


def looked_for(words: str) -> str:
    """The words that are left."""
    return " ".join(one for one in words.split() if one.partition("=")[0] not in ASKED or "=" not in one)


def _branches(seen: Seen) -> Sequence[Branch]:
    return flat([Item(("session", one["id"]), one) for one in seen.part("sessions")])


def _backend(seen: Seen, item: Item) -> str:
    return f"{item.data['pool']}/{item.data['backend'] or '-'}"


def _state(seen: Seen, item: Item) -> str:
    return str(item.data["state"]) if item.data["engine"] == "proxy" else "in kernel"


def _columns(seen: Seen) -> Sequence[Column]:
    return [
        Column("client", 21, given("client"), most=47, right=False, large_first=False),
        Column("listener", 10, given("listener"), most=20, extra=5, right=False, large_first=False),
        Column("backend", 21, _backend, most=60, right=False, large_first=False),
        Column("state", 9, _state, extra=3, right=False, large_first=False),
        Column("age", 6, given("age_s"), age_text),
        Column("idle", 6, given("idle_s"), age_text, extra=1),
        Column("up", 6, given("bytes_up"), bytes_text, extra=2),
        Column("down", 6, given("bytes_down"), bytes_text, extra=2),
        Column("id", 20, given("id"), extra=6, right=False, large_first=False),
    ]


SESSIONS = Pane("sessions", _columns, _branches, "no sessions", part="sessions")
