"""Which backends a pool has after an answer of its source. Pure.

A backend that the answer no longer has stays for `hold_down`, in its place: sources leave out for a moment what is
there again the next. No backend at all, where there were some, is more often an accident than meant: it counts
after `EMPTY_HOLD_S` at the earliest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from l4lb.config import Backend

EMPTY_HOLD_S = 10.0


class HoldDown:
    """`now` is in seconds of any clock that only goes forward."""

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._until: dict[str, float] = {}  # of those that are held
        self._since: dict[str, float] = {}  # when they were first missing

    @property
    def held(self) -> int:
        """How many are here that the last answer did not have."""
        return len(self._until)

    @property
    def ends_next(self) -> float | None:
        """When the first of those has to go."""
        return min(self._until.values(), default=None)

    def merged(self, before: Sequence[Backend], found: Sequence[Backend], now: float) -> tuple[Backend, ...]:
        """`found`, and of those `before` what is held, each after the one that it came after."""
        hold_s = self._hold_s if found else max(self._hold_s, EMPTY_HOLD_S)
        there = {one.address for one in found}
        missing = [one for one in before if one.address not in there]
        self._since = {one.key: self._since.get(one.key, now) for one in missing}
        until = {key: since + hold_s for key, since in self._since.items()}
        self._until = {key: end for key, end in until.items() if end > now}
        return tuple(_in_place(before, found, self._until.keys()) if self._until else found)


def _in_place(before: Sequence[Backend], found: Sequence[Backend], held: Collection[str]) -> list[Backend]:
    there = {one.address for one in found}
    after: dict[str, list[Backend]] = defaultdict(list)
    last = ""  # the address of the last one that is in both
    for one in before:
        if one.address in there:
            last = one.address
        elif one.key in held:
            after[last].append(one)
    result = list(after[""])
    for one in found:
        result += [one, *after.get(one.address, ())]
    return result
