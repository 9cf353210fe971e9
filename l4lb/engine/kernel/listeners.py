"""Listeners as the programs know them: a number for what is counted, services by address, networks that are denied."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, KeysView
from dataclasses import dataclass, field

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.backends import Placed
from l4lb.engine.kernel.generation import Generation
from l4lb.engine.kernel.layout import Counts, NumberRecord
from l4lb.engine.kernel.slots import Table
from l4lb.model.snapshot import ListenerSpec, PoolSpec

_RECORD = layout.SIZES["number"]
_NANO = 1_000_000_000


@dataclass(eq=False, slots=True)
class Plan:
    """What a listener is to be in `generation`, and what it takes for that: a table, and places of backends."""

    spec: ListenerSpec
    pool: PoolSpec
    generation: Generation
    table: Table
    placed: list[Placed]
    services: dict[bytes, bytes]
    answers: dict[bytes, bytes]


@dataclass(eq=False, slots=True)
class KernelListener:
    """`number` is that of its counts, which began at `base`, and of its flows, which began at `since_ns`. `services` is
    its part of the map: those of `plan`, and those of addresses that it has left, of which only the flows go on.
    `left`: it has left all of them; `left_at` is when it last left one (s, monotonic)."""

    digest: bytes
    number: int
    base: Counts
    since_ns: int
    name: str = ""  # empty: one of the process before, which this one has never heard of
    idle_s: float = 0.0
    left: bool = False
    left_at: float = 0.0
    plan: Plan | None = None
    services: dict[bytes, bytes] = field(default_factory=dict)
    lists: tuple[bytes, bytes] | None = (b"", b"")  # those that `denied` is made from; None: not known
    denied: frozenset[bytes] = frozenset()

    @property
    def quic_service(self) -> int:
        """Under which number the connection ids of its clients are known: of no listener before it."""
        return int.from_bytes(layout.digest(self.digest.hex(), str(self.since_ns))[:4], "big")

    def is_planned(self, spec: ListenerSpec, pool: PoolSpec, generation: Generation) -> bool:
        plan = self.plan
        if plan is None or plan.pool is not pool or plan.generation is not generation:
            return False
        return plan.spec is spec or plan.spec == spec

    def left_service(self, service: bytes) -> bytes:
        """What it becomes when its address is left."""
        return layout.left(service, any_denied=bool(self.denied))

    def left_services(self) -> Iterator[tuple[bytes, bytes]]:
        """Those of addresses that it has left."""
        planned = self.plan.services if self.plan is not None else {}
        return ((key, value) for key, value in list(self.services.items()) if key not in planned)


class Listeners:
    """By the digests of their names. `records` is the kernel's array. Control thread only."""

    def __init__(self, records: kernel.Memory) -> None:
        self._records = records
        self._known: dict[bytes, KernelListener] = {}
        self._by_name: dict[str, KernelListener] = {}
        self.leaving: dict[bytes, KernelListener] = {}  # those that leave all or some of their addresses

    def all(self) -> Iterable[KernelListener]:
        return self._known.values()

    def named(self, name: str) -> KernelListener | None:
        return self._by_name.get(name) or self._known.get(layout.digest(name))

    def besides(self, names: KeysView[str]) -> list[KernelListener]:
        """Those that have none of these names."""
        unnamed = (one for one in self._known.values() if not one.name) if len(self._known) > len(self._by_name) else ()
        return [*(self._by_name[name] for name in self._by_name.keys() - names), *unnamed]

    def new(self, name: str, taken: set[int]) -> KernelListener:
        """With a free number, which is none of `taken`; not here before `add`. MemoryError."""
        taken = taken | {one.number for one in self._known.values()}
        number = next((number for number in range(layout.SERVICES_MAX) if number not in taken), None)
        if number is None:
            raise MemoryError("more listeners than the kernel's array has numbers")
        return KernelListener(layout.digest(name), number, Counts(), self._record(number).since_ns, name)

    def add(self, one: KernelListener) -> None:
        self._known[one.digest] = self._by_name[one.name] = one

    def note_leaving(self, one: KernelListener, leaves: bool) -> None:
        if leaves:
            self.leaving[one.digest] = one
        else:
            self.leaving.pop(one.digest, None)

    def remove(self, one: KernelListener) -> None:
        del self._known[one.digest]
        self._by_name.pop(one.name, None)
        free = NumberRecord(bytes(16), Counts(), 0, layout.now_ns(), 0, 0)
        self._records.write(one.number * _RECORD, free.packed())

    def record(self, one: KernelListener) -> None:
        """For a process that goes on from here."""
        record = NumberRecord(one.digest, one.base, round(one.idle_s * _NANO), one.since_ns, 1, one.left)
        self._records.write(one.number * _RECORD, record.packed())

    def _record(self, number: int) -> NumberRecord:
        return NumberRecord.of(self._records.read(number * _RECORD, _RECORD))

    def take_over(self, services: dict[bytes, bytes], denied: Iterable[bytes]) -> None:
        """Go on from what is in the array and in these maps. Names are known of those that this process has itself."""
        names = {one.digest: one.name for one in self._known.values()}
        self._known, self._by_name, self.leaving = {}, {}, {}
        by_number: dict[int, KernelListener] = {}
        for number in range(layout.SERVICES_MAX):
            record = self._record(number)
            if record.used:
                name, idle_s = names.get(record.owner, ""), record.idle_ns / _NANO
                one = KernelListener(record.owner, number, record.base, record.since_ns, name, idle_s, lists=None)
                one.left, one.left_at = bool(record.left), time.monotonic()
                self._known[one.digest] = by_number[number] = one
                if name:
                    self._by_name[name] = one
        self.leaving = {one.digest: one for one in self._known.values() if one.left}
        for key, value in services.items():
            if (found := by_number.get(layout.service_parts(value)[0])) is not None:
                found.services[key] = value
        _sort_out(by_number, denied)


def _sort_out(listeners: dict[int, KernelListener], denied: Iterable[bytes]) -> None:
    networks: dict[int, set[bytes]] = {}
    for key in denied:
        networks.setdefault(layout.denied_number(key), set()).add(key)
    for number, one in listeners.items():
        one.denied = frozenset(networks.get(number, ()))
