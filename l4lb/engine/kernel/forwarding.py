"""Snapshots into the maps of the programs: what of them is for listeners with ``engine = "kernel"``.

A publish writes new tables where no service points to yet, then replaces the services that changed, one after the
other: each packet goes by the whole of one state of its service. Nothing waits.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.attaching import Attached, Programs, attach, packet_devices
from l4lb.engine.kernel.backends import Backends, Owner, Placed
from l4lb.engine.kernel.layout import Counts, Mode, Verdict
from l4lb.engine.kernel.slots import Space, words_of
from l4lb.errors import ConfigError, Problem
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import BackendSpec, HashKey, KernelTerms, ListenerSpec, PoolSpec, Selection, Snapshot
from l4lb.model.states import Protocol

SLOTS = 1 << 23  # of all tables together, and once more of those that change; 16 MiB
_PROTOCOLS = {Protocol.TCP: 6, Protocol.UDP: 17}
_MODES = {"nat": Mode.NAT, "dsr": Mode.DSR}
_FLOWS_AGAIN_S = 0.5  # how old the count of flows may be
_NANO = 1_000_000_000
_MAPS = (
    "services",
    "slots",
    "denied",
    "backends",
    "answers",
    "tcp_flows",
    "udp_flows",
    "by_service",
    "by_backend",
    "verdicts",
)


@dataclass(frozen=True, slots=True)
class _Table:
    """Of a pool, for one protocol: `slots` and `places` are what it was made from."""

    slots: Sequence[int]
    places: tuple[int, ...]
    first_word: int
    count: int


@dataclass(slots=True)
class _Listener:
    """`number` is that of its counts, which began at `base`; `services` is its part of the map; `left`: only the flows
    it has go on."""

    number: int
    base: Counts
    idle_s: float = 0.0
    services: dict[bytes, bytes] = field(default_factory=dict)
    left: bool = False
    lists: tuple[bytes, bytes] = (b"", b"")  # those that `denied` is made from
    denied: frozenset[bytes] = frozenset()


class KernelForwarder:
    """`images` are the object files of the two programs; `slots` and `flows` bound what the maps hold: slots of all
    tables together, and known flows of each protocol."""

    def __init__(self, images: dict[str, bytes], *, slots: int = SLOTS, flows: int = 1 << 18) -> None:
        sizes = {"slots": words_of(slots), "tcp_flows": flows, "udp_flows": flows}
        self._programs = Programs(images, sizes)
        program = self._programs.any
        self._maps = {name: program.map_fd(name) for name in _MAPS}
        self._slots = kernel.Memory(self._maps["slots"], 8 * words_of(slots))
        self._backends = Backends(kernel.Memory(self._maps["backends"], layout.SIZES["backend"] * layout.BACKENDS_MAX))
        self._space = Space(words_of(slots))
        self._tables: dict[tuple[str, int], _Table] = {}
        self._listeners: dict[str, _Listener] = {}
        self._named: frozenset[str] = frozenset()  # listeners of the snapshot
        self._services: dict[bytes, bytes] = {}
        self._answers: dict[bytes, bytes] = {}
        self._attached: dict[str, Attached] = {}
        self._counted_at = float("-inf")
        self._flows: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def program(self, name: str) -> kernel.Program:
        """xdp or tcx."""
        return self._programs.get(name)

    # ---- devices ----

    def prepare(self, listeners: Sequence[ListenerSpec]) -> None:
        """See packets by all devices that the listeners need. ConfigError when one cannot be had; what was attached
        stays, and does nothing."""
        problems = []
        for listener in listeners:
            terms = listener.kernel
            if terms is None or not listener.bind:
                continue
            devices = terms.devices or _devices(listener, terms)
            if not devices:
                problems.append(Problem(f"listeners.{listener.name}.devices", "no device has its packets: name them"))
            for device in devices:
                if (known := self._attached.get(device)) is not None:
                    if terms.attach not in ("auto", known.way):
                        message = f'"{terms.attach}": device "{device}" is attached by {known.way} already'
                        problems.append(Problem(f"listeners.{listener.name}.attach", message))
                    continue
                try:
                    self._attached[device] = attach(self._programs, device, terms.attach)
                except OSError as error:
                    problems.append(Problem(f"listeners.{listener.name}.devices", str(error.strerror or error)))
        if problems:
            raise ConfigError(problems)

    @property
    def attached(self) -> list[Attached]:
        return list(self._attached.values())

    # ---- snapshots ----

    def publish(self, snapshot: Snapshot) -> None:
        """ConfigError when the maps are too small for it; then nothing has changed."""
        try:
            self._publish(snapshot)
        except (MemoryError, OSError) as error:
            raise ConfigError([Problem("listeners", f"forwarding in the kernel: {error}")]) from error

    def _publish(self, snapshot: Snapshot) -> None:
        self.reap()
        pools = {pool.name: pool for pool in snapshot.pools}
        named = {one.name: one for one in snapshot.listeners if one.kernel is not None}
        answers: dict[bytes, bytes] = {}
        used: list[Placed] = []
        tables: dict[tuple[str, int], _Table] = {}
        try:
            for spec in named.values():
                pool, protocol = pools[spec.pool], _PROTOCOLS[spec.protocol]
                placed = [self._place(pool.name, one, protocol) for one in pool.backends]
                used += placed
                if (pool.name, protocol) not in tables:
                    tables[pool.name, protocol] = self._table(pool, protocol, placed)
                answers.update(self._take(spec, pool, tables[pool.name, protocol], placed))
        except BaseException:
            self._give_back(tables)
            raise
        self._named = frozenset(named)
        for name in self._listeners.keys() - named.keys():
            self._leave(self._listeners[name])
        known = self._backends.endpoints()  # what was removed may have flows still
        kept = {key: value for key, value in self._answers.items() if key in known}
        self._write("answers", self._answers, {**kept, **answers})
        # An address that a listener has now is no longer another's that had it before.
        ordered = sorted(self._listeners.values(), key=lambda one: not one.left)
        wanted = {key: value for one in ordered for key, value in one.services.items()}
        self._write("services", self._services, wanted)
        self._backends.keep_only(used)
        self._backends.forgive(placed for placed in used if placed.left and self._is_usable(pools, placed))
        self._leave_tables(tables)

    @staticmethod
    def _is_usable(pools: dict[str, PoolSpec], placed: Placed) -> bool:
        pool = pools[placed.owner[0]]
        return any(pool.backends[index].id == placed.owner[1] for index in pool.usable)

    def _take(
        self, spec: ListenerSpec, pool: PoolSpec, table: _Table, placed: Sequence[Placed]
    ) -> Iterable[tuple[bytes, bytes]]:
        """Returns what its backends' answers become."""
        known = self._listeners.get(spec.name)
        if known is None:
            number = self._free_number()
            known = self._listeners[spec.name] = _Listener(number, self._counts("by_service", number))
        self._deny(known, (spec.refused, spec.banned))
        if not spec.bind:  # it drains
            self._leave(known)
            return ()
        known.left, known.idle_s = False, spec.idle_timeout_s
        protocol = _PROTOCOLS[spec.protocol]
        keys = [layout.endpoint(one.host, one.port, protocol) for one in spec.bind]  # type: ignore[union-attr]
        known.services = {key: self._service(spec, pool, table, known.number, key) for key in keys}
        if spec.kernel is None or spec.kernel.mode != "nat":
            return ()
        return [
            (one.endpoint, layout.answer(key, known.number, one.index))
            for key in keys
            for one in placed
            if layout.is_v4(one.endpoint) == layout.is_v4(key)
        ]

    def _deny(self, known: _Listener, lists: tuple[bytes, bytes]) -> None:
        """OSError ENOSPC when the map is full."""
        if lists == known.lists:
            return
        wanted = frozenset(key for ranges in lists for key in layout.denied(ranges, known.number))
        fd = self._maps["denied"]
        added: list[bytes] = []
        try:
            for key in wanted - known.denied:
                kernel.update(fd, key, bytes(4))
                added.append(key)
        except OSError:
            for key in added:
                kernel.delete(fd, key)
            raise
        for key in known.denied - wanted:
            kernel.delete(fd, key)
        known.lists, known.denied = lists, wanted

    def _free_number(self) -> int:
        taken = {one.number for one in self._listeners.values()}
        return next(number for number in range(layout.SERVICES_MAX) if number not in taken)

    @staticmethod
    def _leave(known: _Listener) -> None:
        if not known.left:
            known.left = True
            known.services = {key: layout.left(value) for key, value in known.services.items()}

    def _place(self, pool: str, spec: BackendSpec, protocol: int) -> Placed:
        return self._backends.place(pool, spec, protocol, lambda index: self._counts("by_backend", index))

    def _table(self, pool: PoolSpec, protocol: int, placed: Sequence[Placed]) -> _Table:
        places = tuple(placed[index].index for index in pool.usable)
        known = self._tables.get((pool.name, protocol))
        if known is not None and known.slots is pool.slots and known.places == places:
            return known
        if not pool.slots:
            return _Table(pool.slots, places, 0, 0)
        first = self._space.take(len(pool.slots), time.monotonic())
        slots = pool.slots if isinstance(pool.slots, array) else array("I", pool.slots)
        self._slots.fill(first, slots, array("I", places))
        return _Table(pool.slots, places, first, len(pool.slots))

    def _give_back(self, tables: dict[tuple[str, int], _Table]) -> None:
        """Those that are new: nothing points to them."""
        for key, table in tables.items():
            if table.count and self._tables.get(key) is not table:
                self._space.leave(table.first_word, table.count, time.monotonic())

    def _leave_tables(self, tables: dict[tuple[str, int], _Table]) -> None:
        for key, table in self._tables.items():
            if table.count and tables.get(key) is not table:
                self._space.leave(table.first_word, table.count, time.monotonic())
        self._tables = tables

    @staticmethod
    def _service(spec: ListenerSpec, pool: PoolSpec, table: _Table, number: int, key: bytes) -> bytes:
        assert spec.kernel is not None
        v4 = layout.is_v4(key)
        return layout.service(
            seed=pool.hash_seed,
            prefix=layout.prefix(v4, pool.hash_prefix_v4 if v4 else pool.hash_prefix_v6),
            number=number,
            first_word=table.first_word,
            slot_count=table.count,
            mode=_MODES[spec.kernel.mode],
            key=pool.hash_key if pool.selection is Selection.HASH else HashKey.RANDOM,
        )

    def _write(self, name: str, before: dict[bytes, bytes], wanted: dict[bytes, bytes]) -> None:
        """Make a map what is wanted, and remember it in `before`."""
        fd = self._maps[name]
        for key, value in wanted.items():
            if before.get(key) != value:
                kernel.update(fd, key, value)
                before[key] = value
        for key in before.keys() - wanted.keys():
            kernel.delete(fd, key)
            del before[key]

    def leave(self, pool: str, backends: Sequence[str]) -> None:
        """What these backends have goes to others, with its next packet, and does not come back."""
        self._backends.leave(pool, backends)

    def reap(self) -> None:
        """Forget listeners that are gone, or drain, and have no flow any more."""
        if not any(one.left for one in self._listeners.values()):
            return
        self._counted_at = float("-inf")  # a flow of this moment counts too
        for name in [name for name, one in self._listeners.items() if one.left and not self.flows_on(name)]:
            known = self._listeners[name]
            self._deny(known, (b"", b""))
            for key in [key for key, value in known.services.items() if self._services.get(key) == value]:
                kernel.delete(self._maps["services"], key)
                del self._services[key]
            known.services = {}
            if name not in self._named:
                del self._listeners[name]

    # ---- what is counted ----

    def names(self) -> list[str]:
        """Of listeners that are here, or have flows here still."""
        return list(self._listeners)

    def listener(self, name: str) -> Counts:
        """Of one that is here."""
        known = self._listeners[name]
        return self._counts("by_service", known.number).since(known.base)

    def by_backend(self) -> dict[Owner, Counts]:
        found: dict[Owner, Counts] = {}
        for one in self._backends.all():
            counts = self._counts("by_backend", one.index).since(one.base)
            found[one.owner] = counts.plus(found.get(one.owner, Counts()))
        return found

    def verdicts(self) -> dict[Verdict, int]:
        return {verdict: sum(array("Q", self._per_cpu("verdicts", verdict, 8))) for verdict in Verdict}

    def flows_on(self, listener: str) -> int:
        known = self._listeners.get(listener)
        return self._count_flows()[0].get(known.number, 0) if known else 0

    def flows_of(self, pool: str, backend: str) -> int:
        return self.flows_by_backend().get((pool, backend), 0)

    def flows_by_backend(self) -> dict[Owner, int]:
        """Those that have any."""
        owners, found = self._backends.owners(), dict[Owner, int]()
        for index, count in self._count_flows()[1].items():
            if (owner := owners.get(index)) is not None:
                found[owner] = found.get(owner, 0) + count
        return found

    def _count_flows(self) -> tuple[dict[int, int], dict[int, int]]:
        """By listener's number, and by backend's index. A flow is there while it had a packet within the shortest
        idle_timeout, and its client has not ended it."""
        now = time.monotonic()
        if now - self._counted_at > _FLOWS_AGAIN_S:
            self._counted_at = now
            idle_s = min((one.idle_s for one in self._listeners.values() if one.idle_s), default=600.0)
            since = time.monotonic_ns() - round(idle_s * _NANO)
            tcp, udp = (kernel.flows(self._maps[name], max(since, 0)) for name in ("tcp_flows", "udp_flows"))
            self._flows = (_sum(tcp[0], udp[0]), _sum(tcp[1], udp[1]))
        return self._flows

    def _counts(self, name: str, index: int) -> Counts:
        return layout.counts(self._per_cpu(name, index, layout.SIZES["counts"]))

    def _per_cpu(self, name: str, index: int, size: int) -> bytes:
        return kernel.lookup(self._maps[name], index.to_bytes(4, "little"), size * kernel.CPUS) or b""

    # ---- the end ----

    def close(self) -> None:
        """Packets go up the stack again. Idempotent."""
        for one in self._attached.values():
            one.close()
        self._attached = {}


def _devices(listener: ListenerSpec, terms: KernelTerms) -> Sequence[str]:
    addresses = [address for address in listener.bind if isinstance(address, SocketAddress)]
    hosts = [address.host for address in addresses]
    return packet_devices(addresses[0].family, hosts, all_of_them=terms.mode == "nat")


def _sum(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in one.keys() | other.keys()}
