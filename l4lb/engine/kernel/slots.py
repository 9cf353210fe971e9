"""Where tables lie in the kernel's array of slots. A table that was left is not overwritten at once: a program that
read where it is may still be at work, for a moment."""

from __future__ import annotations

import bisect
import contextlib
import time
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from l4lb._native import kernel
from l4lb.engine.kernel.layout import SLOTS_IN_WORD
from l4lb.model.snapshot import PoolSpec

_GRACE_S = 1.0  # no packet takes nearly so long


class Space:
    """Regions of words, the first that is large enough. `words`: how many there are."""

    def __init__(self, words: int) -> None:
        self._free: list[tuple[int, int]] = [(0, words)]  # (first word, words), by place; no two touch
        self._left: deque[tuple[float, int, int]] = deque()  # (when, first word, words)

    @classmethod
    def around(cls, words: int, taken: Iterable[tuple[int, int]]) -> Space:
        """Some is in use: (first word, slots)."""
        space = cls(words)
        space._free, at = [], 0
        for first, slots in sorted(taken):
            if first > at:
                space._free.append((at, first - at))
            at = max(at, first + words_of(slots))
        if at < words:
            space._free.append((at, words - at))
        return space

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

    def take_back(self) -> None:
        """No program reads what was left any more."""
        while self._left:
            self._give(*self._left.popleft()[1:])

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


@dataclass(eq=False, slots=True)
class Table:
    """Of a pool, for one protocol: `slots` and `places` are what it was made from, `uses` is how many listeners have
    it."""

    key: tuple[str, int]
    slots: Sequence[int]
    places: tuple[int, ...]
    first_word: int
    count: int
    uses: int = 0


class Slots:
    """The array of a generation of programs. `taken`: regions that services point to already, of tables that are not
    known. Control thread only."""

    def __init__(self, fd: int, taken: Iterable[tuple[int, int]] = ()) -> None:
        self.words = kernel.shape(fd).entries
        self._memory = kernel.Memory(fd, 8 * self.words)
        self._taken = tuple(taken)
        self._space = Space.around(self.words, self._taken)
        self._tables: dict[tuple[str, int], Table] = {}  # the newest of each pool and protocol

    def take(self, pool: PoolSpec, protocol: int, places: tuple[int, ...]) -> Table:
        """The table of a pool whose usable backends are at these places, for one more listener, until `drop`. A new
        one lies where no service points to. MemoryError when there is no room."""
        key = (pool.name, protocol)
        table = self._tables.get(key)
        if table is None or table.slots is not pool.slots or table.places != places:
            table = self._tables[key] = self._new(key, pool, places)
        table.uses += 1
        return table

    def _new(self, key: tuple[str, int], pool: PoolSpec, places: tuple[int, ...]) -> Table:
        if not pool.slots:
            return Table(key, pool.slots, places, 0, 0)
        first = self._take(len(pool.slots))
        slots = pool.slots if isinstance(pool.slots, array) else array("I", pool.slots)
        self._memory.fill(first, slots, array("I", places))
        return Table(key, pool.slots, places, first, len(pool.slots))

    def _take(self, slots: int) -> int:
        """MemoryError. Tables that change many times a second fill the array with what was left: rather than until
        _GRACE_S is over, the wait is then until no program reads that."""
        try:
            return self._space.take(slots, time.monotonic())
        except MemoryError:
            with contextlib.suppress(OSError):
                kernel.wait_for_programs()
                self._space.take_back()
            return self._space.take(slots, time.monotonic())

    def drop(self, table: Table) -> None:
        """One listener fewer points to it."""
        table.uses -= 1
        if table.uses:
            return
        if self._tables.get(table.key) is table:
            del self._tables[table.key]
        if table.count:
            self._space.leave(table.first_word, table.count, time.monotonic())

    def drop_taken(self) -> None:
        """No service points to the regions of unknown tables any more."""
        now = time.monotonic()
        for first, slots in self._taken:
            self._space.leave(first, slots, now)
        self._taken = ()
