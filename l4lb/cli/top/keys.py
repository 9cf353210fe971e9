"""Which key does what: the help and the bottom line are made of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Binding:
    """`keys` as `terminal.py` names them; `shown` is how people read them. `action` is a method of `Ui`. `label` stands
    in the bottom line, if there is one. `panes`: empty, or those where it works. `changes`: not for those who only
    read."""

    keys: Sequence[str]
    shown: str
    action: str
    help: str
    label: str = ""
    panes: Sequence[str] = ()
    changes: bool = False


BINDINGS = (
    Binding(("?", "h"), "?", "help", "this help", "Help"),
    Binding(("q", "^C"), "q", "quit", "quit, as Ctrl-C does; back from details and help", "Quit"),
    Binding(("/",), "/", "filter", "show what contains all these words; !word: what does not", "Filter"),
    Binding(("enter",), "Enter", "enter", "details; of a pool: fold or unfold", "Details"),
    Binding(("i",), "i", "details", "details, of a pool too"),
    Binding(("d",), "d", "drain", "drain: no new sessions; asks first", "Drain", ("pools", "listeners"), True),
    Binding(("r",), "r", "ready", "ready: new sessions again", "Ready", ("pools", "listeners"), True),
    Binding(("m",), "m", "maint", "maintenance: no new sessions, whatever its health; asks first", "Maint",
            ("pools",), True),
    Binding(("+", "="), "+", "heavier", "weight up by 1", "", ("pools",), True),
    Binding(("-",), "-", "lighter", "weight down by 1, to 1", "", ("pools",), True),
    Binding(("w",), "w", "weight", "set the weight", "Weight", ("pools",), True),
    Binding(("x",), "x", "end", "end the session; asks first", "End", ("sessions",), True),
    Binding(("x",), "x", "end", "remove the ban; asks first", "Remove", ("bans",), True),
    Binding(("s",), "s", "sessions", "its sessions", "Sessions", ("pools", "listeners", "sources")),
    Binding((" ",), "Space", "fold", "fold or unfold the pool", "Fold", ("pools",)),
    Binding(("f",), "f", "fold_all", "fold or unfold all pools", "", ("pools",)),
    Binding(("<", ">"), "< >", "sort", "sort by the column to the left, to the right", "Sort"),
    Binding(("R",), "R", "reverse", "reverse the order"),
    Binding(("escape",), "Esc", "back", "back; without the filter; end a question with no"),
    Binding(("tab", "right"), "Tab", "next_pane", "next list; Shift-Tab: the one before; 1 to 7: that one"),
    Binding(("btab", "left"), "", "previous_pane", ""),
    Binding(("up", "k"), "↑ k", "up", "up; also PgUp, Home, g"),
    Binding(("down", "j"), "↓ j", "down", "down; also PgDn, End, G"),
    Binding(("pgup", "^B"), "", "page_up", ""),
    Binding(("pgdn", "^F"), "", "page_down", ""),
    Binding(("home", "g"), "", "first", ""),
    Binding(("end", "G"), "", "last", ""),
    Binding(("^L",), "^L", "redraw", "draw the screen anew"),
    Binding(("^Z",), "^Z", "suspend", "back to the shell; fg goes on"),
)  # fmt: skip


def available(pane: str, read_only: bool) -> list[Binding]:
    """Those that do something there."""
    return [one for one in BINDINGS if (not one.panes or pane in one.panes) and not (read_only and one.changes)]


def bound(key: str, pane: str, read_only: bool) -> Binding | None:
    return next((one for one in available(pane, read_only) if key in one.keys), None)


def refused(key: str, pane: str) -> bool:
    """Whether it would change something, if the user might."""
    found = bound(key, pane, False)
    return found is not None and found.changes
