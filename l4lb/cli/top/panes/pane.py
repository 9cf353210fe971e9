"""What a pane is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.listing import Branch
from l4lb.cli.top.state.seen import Seen


@dataclass(frozen=True, slots=True)
class Pane:
    """`part` names the answer that it needs besides the status, see `Seen.parts`. `note` is what the row has no room
    for; `empty` is said when there is nothing."""

    name: str
    columns: Callable[[Seen], Sequence[Column]]
    branches: Callable[[Seen], Sequence[Branch]]
    empty: str
    part: str = ""
    note: Callable[[Seen, Item], str] = lambda seen, item: ""


def flat(items: Sequence[Item]) -> Sequence[Branch]:
    """As a list without anything to fold."""
    return [(one, ()) for one in items]
