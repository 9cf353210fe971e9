"""Where the user is in a list: order, filter, folded rows, and a selection that stays on its item as rows move.
Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.rates import Key
from l4lb.cli.top.state.seen import Seen

Branch = tuple[Item, Sequence[Item]]  # an item, and those that can be folded into it


@dataclass(slots=True)
class Listing:
    """`sort` is the heading of a column, or empty for the order of the instance's answer; `words` is the filter.
    `rows` are those to see, of which `top` is the first on the screen. `shown` is the number of items into which
    nothing can be folded, `count` that without the filter."""

    sort: str = ""
    reverse: bool = False
    words: str = ""
    folded: set[Key] = field(default_factory=set)
    rows: list[Item] = field(default_factory=list)
    count: int = 0
    shown: int = 0
    index: int = 0
    top: int = 0
    _selected: Item | None = None

    @property
    def selected(self) -> Item | None:
        return self.rows[self.index] if 0 <= self.index < len(self.rows) else None

    # ---- what is in it ----

    def arrange(self, branches: Iterable[Branch], columns: Sequence[Column], seen: Seen, words: str) -> None:
        """Filter by `words` and sort; the selection stays on its item, goes to the one that this was folded into, or
        else stays where it is on the screen."""
        found = list(branches)
        self.count = sum(map(_leaves, found))
        matches = matcher(words, columns, seen)
        kept = [(head, inner) for head, inner in (_kept(one, matches) for one in found) if head is not None]
        self.shown = sum(map(_leaves, kept))
        order = self._order(columns, seen)
        self.rows = []
        for head, inner in order(kept, lambda branch: branch[0]):
            folded = matches is None and head.key in self.folded
            self.rows.append(replace(head, folded=True) if folded else head)
            if not folded:
                self.rows += order(inner, lambda item: item)
        self._follow()

    def _order(
        self, columns: Sequence[Column], seen: Seen
    ) -> Callable[[Sequence[Any], Callable[[Any], Item]], list[Any]]:
        column = next((one for one in columns if one.heading == self.sort), None)

        def ordered(many: Sequence[Any], item: Callable[[Any], Item]) -> list[Any]:
            if column is None:
                return list(reversed(many)) if self.reverse else list(many)
            valued = [(column.value(seen, item(one)), one) for one in many]
            known = sorted((one for one in valued if one[0] is not None), key=_first, reverse=self.reverse)
            return [one for _, one in known] + [one for value, one in valued if value is None]

        return ordered

    def _follow(self) -> None:
        wanted = self._selected
        if wanted is not None:
            places = {one.key: number for number, one in enumerate(self.rows)}
            self.index = places.get(wanted.key, places.get(wanted.parent, self.index))
        self._select(self.index)

    # ---- moving ----

    def _select(self, index: int) -> None:
        self.index = max(0, min(index, len(self.rows) - 1))
        if self.rows:
            self._selected = self.rows[self.index]

    def move(self, by: int) -> None:
        self._select(self.index + by)

    def move_to(self, key: Key) -> bool:
        """False when there is no such row."""
        for number, one in enumerate(self.rows):
            if one.key == key:
                self._select(number)
                return True
        return False

    def window(self, height: int) -> Sequence[Item]:
        """The rows on the screen, with the selected one among them; scrolls no further than that needs."""
        last_top = max(len(self.rows) - height, 0)
        self.top = min(max(self.top, self.index - height + 1), self.index, last_top)
        return self.rows[self.top : self.top + height]

    # ---- order and folding ----

    def sort_by_next(self, columns: Sequence[Column], by: int) -> None:
        """The next column, or the one before with -1; the order of the answer is between last and first."""
        names = ["", *(one.heading for one in columns)]
        at = names.index(self.sort) if self.sort in names else 0
        self.sort = names[(at + by) % len(names)]
        self.reverse = next((one.large_first for one in columns if one.heading == self.sort), False)

    def fold(self, folds: bool | None = None) -> None:
        """Fold or unfold what the selected item belongs to; None: the other way round."""
        item = self.selected
        if item is None:
            return
        key = item.parent or item.key
        folds = key not in self.folded if folds is None else folds
        self.folded = self.folded | {key} if folds else self.folded - {key}

    def fold_all(self, keys: set[Key]) -> None:
        """All of `keys`, or none if they all are folded."""
        self.folded = set() if keys <= self.folded else set(keys)


def _leaves(branch: Branch) -> int:
    head, inner = branch
    return 1 if head.folded is None else len(inner)


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]


Matches = Callable[[Item, Item], bool]


def _kept(branch: Branch, matches: Matches | None) -> tuple[Item | None, Sequence[Item]]:
    """What matches of a branch, and its head with that."""
    head, inner = branch
    if matches is None:
        return head, inner
    kept = [one for one in inner if matches(one, head)]
    return (head, kept) if kept or (not inner and matches(head, head)) else (None, ())


def matcher(words: str, columns: Sequence[Column], seen: Seen) -> Matches | None:
    """Whether the texts of an item and of its branch's head contain each of the words, and none of those that begin
    with "!"; None: nothing is asked. Case does not matter."""
    wanted = [one for one in words.lower().split() if one != "!"]
    if not wanted:
        return None

    def matches(item: Item, head: Item) -> bool:
        text = " ".join(
            _searched(one, seen, of) for of in ({head.key: head} | {item.key: item}).values() for one in columns
        )
        text = text.lower()
        return all((one[1:] not in text) if one[0] == "!" else (one in text) for one in wanted)

    return matches


def _searched(column: Column, seen: Seen, item: Item) -> str:
    """Of columns of texts, not of numbers."""
    value = None if column.right else column.value(seen, item)
    return value if isinstance(value, str) else "" if value is None else column.text(value)
