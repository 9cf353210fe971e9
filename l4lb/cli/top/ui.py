"""Where the user is: pane, list, details, question; and what each key does there. Pure: what the instance is to be
asked comes out as `wanted`, what is to be done as the result of `press`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from l4lb.cli.top import changes
from l4lb.cli.top.changes import Change
from l4lb.cli.top.keys import bound, refused
from l4lb.cli.top.panes.bans import BANS
from l4lb.cli.top.panes.events import EVENTS
from l4lb.cli.top.panes.listeners import LISTENERS
from l4lb.cli.top.panes.pane import Pane
from l4lb.cli.top.panes.pools import POOLS
from l4lb.cli.top.panes.sessions import SESSIONS, asked_for, looked_for
from l4lb.cli.top.panes.sources import SOURCES, order_of
from l4lb.cli.top.panes.workers import WORKERS
from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.listing import Branch, Listing
from l4lb.cli.top.state.seen import Seen
from l4lb.cli.top.wanted import SESSIONS as SESSIONS_AT_FIRST
from l4lb.cli.top.wanted import SESSIONS_SEARCHED, Wanted, limit_for
from l4lb.model.sessions import FLOW_ADVICE

PANES = (POOLS, SESSIONS, LISTENERS, EVENTS, SOURCES, BANS, WORKERS)
_NUMBERS = "123456789"[: len(PANES)]
SAID_S = 4.0  # how long a message stays
Command = Change | Literal["quit", "suspend", "redraw"] | None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A line that the user types: a filter, which was `before`, or the weight of `item`."""

    label: str
    text: str
    before: str = ""
    item: Item | None = None


class Ui:
    """`height`, the rows of the list that the screen holds, is set by whoever draws."""

    def __init__(self, seen: Seen, read_only: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.seen = seen
        self.pane: Pane = POOLS
        self.listings = {pane.name: Listing() for pane in PANES}
        self.mode: Literal["list", "details", "help"] = "list"
        self.detailed: Item | None = None
        self.gone = False  # what is detailed
        self.scrolled = 0  # lines of details or help above the screen
        self.question: Change | None = None
        self.prompt: Prompt | None = None
        self.height = 10
        self._read_only = read_only
        self._clock = clock
        self._said: tuple[str, str, float] = ("", "", 0.0)
        self._limit = SESSIONS_AT_FIRST

    @property
    def read_only(self) -> bool:
        return self._read_only or self.seen.read_only

    @property
    def listing(self) -> Listing:
        return self.listings[self.pane.name]

    @property
    def columns(self) -> Sequence[Column]:
        return self.pane.columns(self.seen)

    @property
    def message(self) -> tuple[str, str]:
        """Text and style, while it is to be seen."""
        text, style, until = self._said
        return (text, style) if self._clock() < until else ("", "")

    def say(self, text: str, style: str = "") -> None:
        self._said = (text, style, self._clock() + SAID_S)

    @property
    def words(self) -> str:
        """Of the filter, what is looked for here."""
        return looked_for(self.listing.words) if self.pane is SESSIONS else self.listing.words

    @property
    def wanted(self) -> Wanted:
        item = self.detailed if self.mode == "details" else None
        pool = item.key[1] if item is not None and item.key[0] == "backend" else ""
        query = tuple(asked_for(self.listing.words).items()) if self.pane is SESSIONS else ()
        limit = max(self._limit, SESSIONS_SEARCHED) if self.pane is SESSIONS and self.words else self._limit
        by = order_of(self.listing.sort) if self.pane is SOURCES else "sessions"
        return Wanted(self.pane.part, query, limit, by, pool)

    def arrange(self) -> None:
        """After the instance has answered, or a key has changed the order."""
        branches = self.pane.branches(self.seen)
        self.listing.arrange(branches, self.columns, self.seen, self.words)
        if self.mode == "details":
            self._look_up_detailed(branches)

    def _look_up_detailed(self, branches: Sequence[Branch]) -> None:
        """As it is now; what is gone stays as it was last."""
        items = (one for head, inner in branches for one in (head, *inner))
        found = next((one for one in items if self.detailed is not None and one.key == self.detailed.key), None)
        known = self.seen.status is not None and (not self.pane.part or self.pane.part in self.seen.parts)
        self.gone = found is None and known
        self.detailed = found or self.detailed

    # ---- keys ----

    def press(self, key: str) -> Command:
        if self.question is not None:
            return self._answer(key)
        if self.prompt is not None:
            return self._type(key, self.prompt)
        if self.mode != "list" and key in _SCROLLS:
            self.scrolled = max(0, self.scrolled + _SCROLLS[key] * (self.height - 1 if key in _PAGES else 1))
            return None
        if key in _NUMBERS:
            self._go(PANES[_NUMBERS.index(key)])
            return None
        binding = bound(key, self.pane.name, self.read_only)
        if binding is None:
            if self.read_only and refused(key, self.pane.name):
                self.say("read-only: nothing can be changed here", "yellow")
            return None
        command: Command = getattr(self, f"_{binding.action}")(key)
        return command

    def _answer(self, key: str) -> Command:
        change, self.question = self.question, None
        if key in ("y", "Y"):
            return change
        if key == "^C":
            return "quit"
        self.say("nothing was done")
        return None

    def _type(self, key: str, prompt: Prompt) -> Command:
        if key == "^C":
            return "quit"
        if key in ("enter", "escape"):
            self.prompt = None
            return self._finish(prompt, key == "enter")
        text = prompt.text[:-1] if key == "backspace" else "" if key == "^U" else prompt.text
        if len(key) == 1 and key.isprintable():
            text += key
        self.prompt = replace(prompt, text=text)
        if prompt.item is None and self.pane is not SESSIONS:  # these are asked for once it is complete
            self._filter_by(text)
        return None

    def _finish(self, prompt: Prompt, typed: bool) -> Command:
        if prompt.item is None:
            self._filter_by(prompt.text if typed else prompt.before)
            return None
        if not typed:
            return None
        if not (prompt.text.isascii() and prompt.text.isdigit()) or int(prompt.text) > changes.WEIGHT_MAX:
            self.say(f'"{prompt.text}": expected a weight from 0 to {changes.WEIGHT_MAX}', "red")
            return None
        return self._ask(changes.set_weight(self.seen, prompt.item, int(prompt.text)))

    def _filter_by(self, words: str) -> None:
        self.listing.words = words
        self._limit = SESSIONS_AT_FIRST
        self.arrange()

    # ---- what keys do, by the names in `keys.py` ----

    def _help(self, key: str) -> None:
        self.mode, self.scrolled = "list" if self.mode == "help" else "help", 0

    def _quit(self, key: str) -> Command:
        if key == "q" and self.mode != "list":
            self.mode = "list"
            return None
        return "quit"

    def _suspend(self, key: str) -> Command:
        return "suspend"

    def _redraw(self, key: str) -> Command:
        return "redraw"

    def _filter(self, key: str) -> None:
        self.mode = "list"
        self.prompt = Prompt("filter: ", self.listing.words, self.listing.words)

    def _back(self, key: str) -> None:
        if self.mode == "list":
            self._filter_by("")
        self.mode = "list"

    def _go(self, pane: Pane) -> None:
        self.pane, self.mode, self._limit = pane, "list", SESSIONS_AT_FIRST
        self.arrange()

    def _next_pane(self, key: str) -> None:
        self._go(PANES[(PANES.index(self.pane) + 1) % len(PANES)])

    def _previous_pane(self, key: str) -> None:
        self._go(PANES[PANES.index(self.pane) - 1])

    def _move(self, by: int) -> None:
        self.listing.move(by)
        if self.pane is SESSIONS:
            listed = len(self.seen.part("sessions"))
            self._limit = limit_for(self.listing.index + 2 * self.height, listed)

    def _up(self, key: str) -> None:
        self._move(-1)

    def _down(self, key: str) -> None:
        self._move(1)

    def _page_up(self, key: str) -> None:
        self._move(1 - self.height)

    def _page_down(self, key: str) -> None:
        self._move(max(self.height - 1, 1))

    def _first(self, key: str) -> None:
        self._move(-len(self.listing.rows))

    def _last(self, key: str) -> None:
        self._move(len(self.listing.rows))

    def _sort(self, key: str) -> None:
        self.listing.sort_by_next(self.columns, 1 if key == ">" else -1)
        self.arrange()

    def _reverse(self, key: str) -> None:
        self.listing.reverse = not self.listing.reverse
        self.arrange()

    def _fold(self, key: str) -> None:
        self.listing.fold()
        self.arrange()

    def _fold_all(self, key: str) -> None:
        self.listing.fold_all({head.key for head, _ in self.pane.branches(self.seen)})
        self.arrange()

    def _enter(self, key: str) -> None:
        item = self._item
        if self.mode == "list" and item is not None and item.folded is not None:
            self._fold(key)
        else:
            self._details(key)

    def _details(self, key: str) -> None:
        if self.mode == "details":
            self.mode = "list"
        elif self._item is not None:
            self.detailed, self.gone, self.mode, self.scrolled = self._item, False, "details", 0

    @property
    def _item(self) -> Item | None:
        """What keys are about."""
        return self.detailed if self.mode == "details" else self.listing.selected

    def _sessions(self, key: str) -> None:
        if self._item is None:
            return
        kind, *names = self._item.key
        meant = dict(zip(_ASKS[kind], names, strict=True))
        if any(len(value.split()) != 1 for value in meant.values()):
            self.say("a filter cannot have names with spaces", "yellow")
            return
        self.listings["sessions"].words = " ".join(f"{name}={value}" for name, value in meant.items())
        self._go(SESSIONS)

    # ---- what changes something ----

    def _ask(self, change: Change) -> Command:
        """The change, or its question first."""
        if not change.question:
            return change
        self.question = change
        return None

    @property
    def _backend(self) -> Item | None:
        item = self._item
        if item is None or item.key[0] != "backend":
            self.say("move to a backend first", "yellow")
            return None
        return item

    def _set_state(self, state: str) -> Command:
        item = self._backend
        return self._ask(changes.set_state(self.seen, item, state)) if item else None

    def _drain(self, key: str) -> Command:
        if self.pane is LISTENERS:
            return self._ask(changes.drain_listener(self._item)) if self._item else None
        return self._set_state("drain")

    def _ready(self, key: str) -> Command:
        if self.pane is LISTENERS:
            return self._ask(changes.resume_listener(self._item)) if self._item else None
        return self._set_state("ready")

    def _maint(self, key: str) -> Command:
        return self._set_state("maint")

    def _heavier(self, key: str) -> Command:
        item = self._backend
        return self._ask(changes.change_weight(item, 1)) if item else None

    def _lighter(self, key: str) -> Command:
        item = self._backend
        return self._ask(changes.change_weight(item, -1)) if item else None

    def _weight(self, key: str) -> None:
        item = self._backend
        if item is not None:
            now = self.seen.backend(item.key[1], item.key[2]) or item.data
            self.prompt = Prompt(f"weight of {item.key[2]}, now {now['weight']}: ", "", item=item)

    def _end(self, key: str) -> Command:
        item = self._item
        if item is None:
            return None
        if item.data.get("engine") == "kernel":
            self.say(f"a flow in the kernel cannot be ended from here: {FLOW_ADVICE}", "yellow")
            return None
        return self._ask(changes.remove_ban(item) if self.pane is BANS else changes.end_session(item))


_ASKS = {
    "pool": ("pool",),
    "backend": ("pool", "backend"),
    "listener": ("listener",),
    "source": ("listener", "source"),
}
_PAGES = ("pgup", "pgdn", "^B", "^F", " ")
_SCROLLS = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -1, "^B": -1, "pgdn": 1, "^F": 1, " ": 1}
_SCROLLS |= {"home": -(10**6), "g": -(10**6), "end": 10**6, "G": 10**6}
