"""Backends in the kernel's array: each keeps its place while flows may go there, and nobody's flows get to who comes
after it in that place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.layout import Counts
from l4lb.model.snapshot import BackendSpec

Owner = tuple[str, str]  # pool, id


@dataclass(slots=True)
class Placed:
    """`host` and `port` stay as they are: a backend that has another address has another place."""

    index: int
    incarnation: int
    owner: Owner
    host: str
    port: int
    protocol: int
    base: Counts  # what was counted at this place before
    left: bool = False

    @property
    def endpoint(self) -> bytes:
        return layout.endpoint(self.host, self.port, self.protocol)


class Backends:
    """`memory` is the kernel's array. Control thread only."""

    def __init__(self, memory: kernel.Memory) -> None:
        self._memory = memory
        self._placed: dict[tuple[Owner, str, int, int], Placed] = {}
        self._removed: OrderedDict[int, Placed] = OrderedDict()  # the first one went first
        self._next = 0

    def place(self, pool: str, spec: BackendSpec, protocol: int, counted: Callable[[int], Counts]) -> Placed:
        """Where it is, from now on; `counted`: what has been counted at a place. MemoryError when all are in use."""
        host, port = spec.address.host, spec.address.port
        key = ((pool, spec.id), host, port, protocol)
        known = self._placed.get(key)
        if known is None:
            index, incarnation = self._free()
            known = self._placed[key] = Placed(index, incarnation, key[0], host, port, protocol, counted(index))
            self._write(known)
        self._removed.pop(known.index, None)
        return known

    def _free(self) -> tuple[int, int]:
        if self._next < layout.BACKENDS_MAX:
            self._next += 1
            return self._next - 1, 1
        if not self._removed:
            raise MemoryError("more backends than the kernel's array has places")
        index, before = self._removed.popitem(last=False)
        del self._placed[before.owner, before.host, before.port, before.protocol]
        return index, before.incarnation + 1

    def keep_only(self, used: Iterable[Placed]) -> None:
        """The others are removed: their flows go on, as long as nobody needs the place."""
        kept = {one.index for one in used}
        for one in self._placed.values():
            if one.index not in kept:
                self._removed.setdefault(one.index, one)

    def leave(self, pool: str, ids: Iterable[str]) -> None:
        """What these have goes to others, with its next packet, and does not come back."""
        wanted = {(pool, id_) for id_ in ids}
        for one in self._placed.values():
            if one.owner in wanted:
                one.left = True
                self._write(one)

    def forgive(self, placed: Iterable[Placed]) -> None:
        """They may have flows again, but not those of before."""
        for one in placed:
            if one.left:
                one.left = False
                one.incarnation += 1
                self._write(one)

    def endpoints(self) -> set[bytes]:
        return {one.endpoint for one in self._placed.values()}

    def all(self) -> Iterable[Placed]:
        """Also those that were removed and whose place nobody has needed."""
        return self._placed.values()

    def owners(self) -> dict[int, Owner]:
        return {one.index: one.owner for one in self._placed.values()}

    def _write(self, one: Placed) -> None:
        flags = layout.BACKEND_LEFT if one.left else 0
        packed = layout.backend(one.host, one.port, one.incarnation, flags)
        self._memory.write(one.index * len(packed), packed)
