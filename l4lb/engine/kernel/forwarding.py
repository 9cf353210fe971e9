"""Snapshots into the maps of the programs: what of them is for listeners with ``engine = "kernel"``.

A publish writes new tables where no service points to yet, then replaces the services that changed, one after the
other: each packet goes by the whole of one state of its service. Nothing waits.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.attaching import Attached, Programs, attach, packet_devices
from l4lb.engine.kernel.backends import Backends, Placed
from l4lb.engine.kernel.layout import Counts, Mode, Verdict
from l4lb.engine.kernel.slots import Space, words_of
from l4lb.errors import ConfigError, Problem
from l4lb.model.snapshot import ListenerSpec, PoolSpec, Snapshot
from l4lb.model.states import Protocol

_PROTOCOLS = {Protocol.TCP: 6, Protocol.UDP: 17}
_MODES = {"nat": Mode.NAT, "dsr": Mode.DSR}
_NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Table:
    """Of a pool, for one protocol: `slots` and `places` are what it was made from."""

    slots: Sequence[int]
    places: tuple[int, ...]
    first_word: int
    count: int


class KernelForwarder:
    """`images` are the object files of the two programs; `slots` and `flows` bound what the maps hold: slots of all
    tables together, and known flows of each protocol."""

    def __init__(self, images: dict[str, bytes], *, slots: int = 1 << 22, flows: int = 1 << 18) -> None:
        sizes = {"slots": words_of(slots), "tcp_flows": flows, "udp_flows": flows}
        self._programs = Programs(images, sizes)
        program = self._programs.any
        self._maps = {name: program.map_fd(name) for name in _MAPS}
        self._slots = kernel.Memory(self._maps["slots"], 8 * words_of(slots))
        self._backends = Backends(kernel.Memory(self._maps["backends"], layout.SIZES["backend"] * layout.BACKENDS_MAX))
        self._space = Space(words_of(slots))
        self._tables: dict[tuple[str, int], _Table] = {}
        self._services: dict[bytes, bytes] = {}
        self._answers: dict[bytes, bytes] = {}
        self._numbers: dict[str, int] = {}  # of listeners' counts
        self._attached: dict[str, Attached] = {}

    # ---- devices ----

    def prepare(self, listeners: Sequence[ListenerSpec]) -> None:
        """See packets by all devices that the listeners need. ConfigError when one cannot be had; what was attached
        stays, and does nothing."""
        problems = []
        for listener in listeners:
            terms = listener.kernel
            for device in terms.devices or packet_devices() if terms is not None else ():
                if terms is None or device in self._attached:
                    continue
                try:
                    self._attached[device] = attach(self._programs, device, terms.attach)
                except OSError as error:
                    problems.append(Problem(f"listeners.{listener.name}.devices", str(error.strerror or error)))
        if problems:
            raise ConfigError(problems)

    def program(self, name: str) -> kernel.Program:
        """xdp or tcx."""
        return self._programs.get(name)

    @property
    def attached(self) -> list[Attached]:
        return list(self._attached.values())

    # ---- snapshots ----

    def publish(self, snapshot: Snapshot) -> None:
        pools = {pool.name: pool for pool in snapshot.pools}
        listeners = [one for one in snapshot.listeners if one.kernel is not None]
        services: dict[bytes, bytes] = {}
        answers: dict[bytes, bytes] = {}
        used: list[Placed] = []
        tables: dict[tuple[str, int], _Table] = {}
        for listener in listeners:
            pool, protocol = pools[listener.pool], _PROTOCOLS[listener.protocol]
            placed = [self._backends.place(pool.name, one, protocol) for one in pool.backends]
            used += placed
            table = tables[pool.name, protocol] = self._table(pool, protocol, placed)
            for key in _keys(listener, protocol):
                services[key] = self._service(listener, pool, table, key)
                if listener.kernel is not None and listener.kernel.mode == "nat":
                    answers.update((one.endpoint, key) for one in placed)
        self._write(
            "answers", self._answers, {**self._answers, **answers}
        )  # flows of removed backends are answered too
        self._write("services", self._services, services)
        self._backends.keep_only(used)
        self._leave_tables(tables)

    def _table(self, pool: PoolSpec, protocol: int, placed: Sequence[Placed]) -> _Table:
        places = tuple(placed[index].index for index in pool.usable)
        known = self._tables.get((pool.name, protocol))
        if known is not None and known.slots is pool.slots and known.places == places:
            return known
        if not pool.slots:
            return _Table(pool.slots, places, 0, 0)
        first = self._space.take(len(pool.slots), time.monotonic())
        self._slots.fill(first, array("I", pool.slots), array("I", places))
        return _Table(pool.slots, places, first, len(pool.slots))

    def _leave_tables(self, tables: dict[tuple[str, int], _Table]) -> None:
        for key, table in self._tables.items():
            if table.count and tables.get(key) is not table:
                self._space.leave(table.first_word, table.count, time.monotonic())
        self._tables = tables

    def _service(self, listener: ListenerSpec, pool: PoolSpec, table: _Table, key: bytes) -> bytes:
        assert listener.kernel is not None
        v4 = key.startswith(layout.address("0.0.0.0")[:12])
        return layout.service(
            seed=pool.hash_seed,
            prefix=layout.prefix(v4, pool.hash_prefix_v4 if v4 else pool.hash_prefix_v6),
            number=self._numbers.setdefault(listener.name, len(self._numbers)),
            first_word=table.first_word,
            slot_count=table.count,
            mode=_MODES[listener.kernel.mode],
            key=pool.hash_key,
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
        """What these backends have goes to others, with its next packet."""
        self._backends.leave(pool, backends)

    def forgive(self, pool: str, backends: Sequence[str]) -> None:
        self._backends.forgive(pool, backends)

    # ---- what is counted ----

    def by_listener(self) -> dict[str, Counts]:
        return {name: self._counts("by_service", number) for name, number in self._numbers.items()}

    def by_backend(self) -> dict[tuple[str, str], Counts]:
        found: dict[tuple[str, str], Counts] = {}
        for index, owner in self._backends.owners().items():
            counts, before = self._counts("by_backend", index), found.get(owner, Counts())
            found[owner] = Counts(*(one + other for one, other in zip(counts, before, strict=True)))
        return found

    def verdicts(self) -> dict[Verdict, int]:
        return {verdict: sum(_words(self._per_cpu("verdicts", verdict, 8))) for verdict in Verdict}

    def flows(self, idle_s: float) -> dict[tuple[str, str], int]:
        """How many flows each backend has, of those that had a packet within that time."""
        owners, since = self._backends.owners(), time.monotonic_ns() - round(idle_s * _NANO)
        found: dict[tuple[str, str], int] = {}
        for name in ("tcp_flows", "udp_flows"):
            _, values = kernel.entries(self._maps[name], layout.FLOW_KEY.size, layout.FLOW.size)
            for index, _, seen in layout.FLOW.iter_unpack(values):
                if seen >= since and index in owners:
                    found[owners[index]] = found.get(owners[index], 0) + 1
        return found

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


_MAPS = ("services", "slots", "backends", "answers", "tcp_flows", "udp_flows", "by_service", "by_backend", "verdicts")


def _keys(listener: ListenerSpec, protocol: int) -> list[bytes]:
    return [layout.endpoint(one.host, one.port, protocol) for one in listener.bind]  # type: ignore[union-attr]


def _words(raw: bytes) -> Sequence[int]:
    return array("Q", raw)
