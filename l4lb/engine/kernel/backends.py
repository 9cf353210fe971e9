"""Backends in the kernel's array: each keeps its place while flows may go there, and nobody's flows get to who comes
after it in that place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.attaching import source_to
from l4lb.engine.kernel.layout import Counts, PlaceRecord
from l4lb.model.snapshot import BackendSpec

Owner = tuple[str, str]  # pool, id
_Key = tuple[bytes, str, int, int]  # owner, host, port, protocol
_BACKEND, _RECORD = layout.SIZES["backend"], layout.SIZES["place"]


@dataclass(eq=False, slots=True)
class Placed:
    """`host` and `port` stay as they are: a backend that has another address has another place."""

    index: int
    incarnation: int
    owner: bytes  # layout.digest
    host: str
    port: int
    protocol: int
    endpoint: bytes
    base: Counts  # what was counted at this place before
    left: bool = False
    uses: int = 0  # by how many listeners
    removed_at: float = 0.0  # s, monotonic: when that became 0
    tunnelled: bool = False
    source: str = ""  # this host's address on the way there, once that matters; empty: there is no way

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Backends:
    """`memory` is the kernel's array, `records` that of their places. Control thread only."""

    def __init__(self, memory: kernel.Memory, records: kernel.Memory) -> None:
        self._memory = memory
        self._records = records
        self._placed: dict[_Key, Placed] = {}
        self._removed: dict[int, Placed] = {}  # by place
        self._names: dict[bytes, Owner] = {}
        self._free = list(reversed(range(layout.BACKENDS_MAX)))

    def take_over(self) -> None:
        """Go on from what is in the arrays, which another process may have written."""
        self._placed, self._removed, self._free = {}, {}, []
        for index in reversed(range(layout.BACKENDS_MAX)):
            record = PlaceRecord.of(self._records.read(index * _RECORD, _RECORD))
            if not record.used:
                self._free.append(index)
                continue
            incarnation, flags = self._state(index)
            at = layout.endpoint_parts(record.endpoint)
            left = bool(flags & layout.BACKEND_LEFT)
            one = Placed(index, incarnation, record.owner, *at, record.endpoint, record.base, left)
            one.removed_at = time.monotonic()
            self._placed[_key(one)] = self._removed[index] = one

    def take(self, pool: str, spec: BackendSpec, protocol: int, counted: Callable[[int], Counts]) -> Placed:
        """Where it is, for one more listener, until `drop`; `counted`: what has been counted at a place. MemoryError
        when all are in use."""
        host, port = spec.address.host, spec.address.port
        owner = layout.digest(pool, spec.id)
        self._names[owner] = (pool, spec.id)
        key = (owner, host, port, protocol)
        placed = self._placed.get(key)
        if placed is None:
            if not self._free:
                raise MemoryError("more backends than the kernel's array has places")
            index = self._free.pop()
            endpoint = layout.endpoint(host, port, protocol)
            placed = Placed(index, self._state(index)[0] + 1, *key, endpoint, counted(index))
            self._placed[key] = placed
            self._records.write(index * _RECORD, PlaceRecord(owner, endpoint, 1, placed.base).packed())
            self._write(placed)
        self._removed.pop(placed.index, None)
        placed.uses += 1
        return placed

    def drop(self, placed: Placed) -> None:
        """One listener fewer sends anything there. At none it is removed: its flows go on until `forget`."""
        placed.uses -= 1
        if not placed.uses:
            placed.removed_at = time.monotonic()
            self._removed[placed.index] = placed

    def removed(self) -> list[Placed]:
        """Those that no listener sends anything new to."""
        return list(self._removed.values())

    def forget(self, placed: Placed) -> None:
        """It is removed, and has no flow any more: another one may have its place."""
        del self._removed[placed.index], self._placed[_key(placed)]
        self._records.write(placed.index * _RECORD, bytes(_RECORD))
        self._free.append(placed.index)
        if not any(one.owner == placed.owner for one in self._placed.values()):
            self._names.pop(placed.owner, None)

    def leave(self, pool: str, ids: Iterable[str]) -> None:
        """What these have goes to others, with its next packet, and does not come back."""
        wanted = {layout.digest(pool, id_) for id_ in ids}
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

    def find_sources(self, placed: Iterable[Placed]) -> None:
        """Tunnels lead to these."""
        for one in placed:
            one.tunnelled = True
            if not one.source:
                self._find_source(one)

    def find_sources_again(self) -> None:
        """Routes and addresses of this host may have changed."""
        for one in self._placed.values():
            if one.tunnelled:
                self._find_source(one)

    def _find_source(self, one: Placed) -> None:
        source = source_to(one.host)
        if source != one.source:
            one.source = source
            self._write(one)

    def named(self) -> Iterable[tuple[Owner, Placed]]:
        """Also those that were removed and have flows still. Not those of the process before this one that this one has
        never heard of."""
        found = ((self._names.get(one.owner), one) for one in self._placed.values())
        return ((owner, one) for owner, one in found if owner is not None)

    def all(self) -> Iterable[tuple[Owner, Placed]]:
        """The same, with those too: by their address."""
        return ((self._names.get(one.owner, ("", one.address)), one) for one in self._placed.values())

    def owners(self) -> dict[int, Owner]:
        return {one.index: owner for owner, one in self.named()}

    def _state(self, index: int) -> tuple[int, int]:
        return layout.backend_state(self._memory.read(index * _BACKEND, _BACKEND))

    def _write(self, one: Placed) -> None:
        flags = layout.BACKEND_LEFT if one.left else 0
        packed = layout.backend(one.host, one.port, one.incarnation, flags, one.source)
        self._memory.write(one.index * _BACKEND, packed)


def _key(one: Placed) -> _Key:
    return one.owner, one.host, one.port, one.protocol
