"""Where tables lie in the kernel's array of slots. A table that was left is not overwritten at once: a program that
read where it is may still be at work, for a moment."""

from __future__ import annotations

import bisect
from collections import deque

from l4lb.engine.kernel.layout import SLOTS_IN_WORD

_GRACE_S = 1.0  # no packet takes nearly so long


class Space:
    """Regions of words, the first that is large enough. `words`: how many there are."""

    def __init__(self, words: int) -> None:
        self._free: list[tuple[int, int]] = [(0, words)]  # (first word, words), by place; no two touch
        self._left: deque[tuple[float, int, int]] = deque()  # (when, first word, words)

    def take(self, slots: int, now: float) -> int:
        """The first word of a region for so many slots. MemoryError when there is none."""
        while self._left and now - self._left[0][0] >= _GRACE_S:
            self._give(*self._left.popleft()[1:])
        wanted = words_of(slots)
        for place, (first, words) in enumerate(self._free):
            if words >= wanted:
                rest = (first + wanted, words - wanted)
                self._free[place : place + 1] = [rest] if rest[1] else []
                return first
        raise MemoryError("the kernel's array of slots is full")

    def leave(self, first: int, slots: int, now: float) -> None:
        self._left.append((now, first, words_of(slots)))

    def _give(self, first: int, words: int) -> None:
        place = bisect.bisect(self._free, (first, 0))
        if place < len(self._free) and self._free[place][0] == first + words:
            words += self._free.pop(place)[1]
        if place and sum(self._free[place - 1]) == first:
            before = self._free.pop(place - 1)
            first, words, place = before[0], before[1] + words, place - 1
        self._free.insert(place, (first, words))


def words_of(slots: int) -> int:
    return -(-slots // SLOTS_IN_WORD) or 1
