"""The pools and backends that the forwarder owns. Control thread only.

A pool or backend that a new snapshot no longer names is retired: it keeps its counters, and is let go when its last
session has ended and every worker has moved on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from l4lb._native import snapshots, specs
from l4lb._native import times as measured
from l4lb.engine.counters import backend_latency, backend_stats, backend_times
from l4lb.engine.fields import pool_fields
from l4lb.engine.owned import OwnedPool
from l4lb.engine.records import Records
from l4lb.model.snapshot import BackendSpec, PoolSpec
from l4lb.model.stats import BackendLatency, BackendTimes, PoolStats
from l4lb.net.listen.sockets import sockaddr_bytes

_MARKS = 5  # one is made every TIMES_EVERY_S: a full set spans a minute


class Pools:
    """`ids` are numbers for the data plane, unique within it; `records` finds names by them."""

    def __init__(self, workers: int, records: Records, ids: Iterator[int]) -> None:
        self._workers = workers
        self.records = records
        self._ids = ids
        self.owned: dict[str, OwnedPool] = {}
        self._retired: list[snapshots.BackendLive | snapshots.PoolLive] = []
        self._removed: dict[tuple[str, str], snapshots.BackendLive] = {}  # of the retired ones, by pool and id
        self._slots_used: set[int] = set()
        self._marks: dict[int, deque[measured.Mark]] = {}  # by a backend's number, the oldest first

    def backend(self, pool: str, backend: str) -> snapshots.BackendLive | None:
        """The one of the newest snapshot, or else one that was removed and still has sessions."""
        if pool in self.owned and backend in self.owned[pool].backends:
            return self.owned[pool].backends[backend]
        return self._removed.get((pool, backend))

    def stats(self, pool: str) -> PoolStats:
        known = self.owned.get(pool)
        if known is None:
            return PoolStats()
        backends = {id_: backend_stats(live) for id_, live in known.backends.items()}
        return PoolStats(backends, known.live.waiting())

    def all_stats(self) -> dict[str, PoolStats]:
        return {name: self.stats(name) for name in self.owned}

    def times(self, pool: str) -> dict[str, BackendTimes]:
        known = self.owned.get(pool)
        return {} if known is None else {id_: backend_times(live) for id_, live in known.backends.items()}

    def latency(self, pool: str) -> dict[str, BackendLatency]:
        known = self.owned.get(pool)
        if known is None:
            return {}
        return {id_: backend_latency(live, self._mark_of(live)) for id_, live in known.backends.items()}

    def _mark_of(self, live: snapshots.BackendLive) -> measured.Mark | None:
        """The one that `latency` counts from; None: it is not there for long enough to have it."""
        marks = self._marks.get(live.id)
        return marks[0] if marks is not None and len(marks) == _MARKS else None

    def mark_times(self) -> None:
        lives = [live for pool in self.owned.values() for live in pool.backends.values()]
        before, self._marks = self._marks, {}
        for live in (*lives, *self._removed.values()):
            marks = before.get(live.id) or deque[measured.Mark](maxlen=_MARKS)
            marks.append(measured.mark(live, marks[-1] if marks else None))
            self._marks[live.id] = marks

    def published(self) -> dict[str, PoolSpec | None]:
        return {name: pool.spec for name, pool in self.owned.items()}

    def native(self, spec: PoolSpec) -> snapshots.NativePool:
        """The one that workers have already, when the pool is the same."""
        pool = self.owned.get(spec.name)
        if pool is None:
            slot = self._free_slot()
            self.records.pools[slot] = spec.name
            pool = self.owned[spec.name] = OwnedPool(spec.name, snapshots.PoolLive(self._workers, slot))
        if pool.native is None or pool.spec is not spec:
            before = pool.fields
            pool.fields = {one.id: self._fields(pool, one, before.get(one.id)) for one in spec.backends}
            backends = [fields for _, fields in pool.fields.values()]
            pool.native = snapshots.NativePool(pool_fields(spec, pool.live, backends))
            pool.spec = spec
        return pool.native

    def _free_slot(self) -> int:
        slot = next(number for number in range(len(self._slots_used) + 1) if number not in self._slots_used)
        self._slots_used.add(slot)
        return slot

    def _fields(
        self, pool: OwnedPool, spec: BackendSpec, before: tuple[BackendSpec, specs.Backend] | None
    ) -> tuple[BackendSpec, specs.Backend]:
        return before if before is not None and before[0] is spec else (spec, self._native_backend(pool, spec))

    def _native_backend(self, pool: OwnedPool, spec: BackendSpec) -> specs.Backend:
        live = pool.backends.get(spec.id)
        if live is None and (live := self._returned(pool.name, spec.id)) is not None:
            pool.backends[spec.id] = live
        if live is None:
            id_ = next(self._ids)
            live = pool.backends[spec.id] = snapshots.BackendLive(self._workers, id_)
            self.records.backends[id_] = (pool.name, spec.id)
        return specs.Backend(live, sockaddr_bytes(spec.address), spec.weight, spec.max_sessions, spec.resumes)

    def _returned(self, pool: str, backend: str) -> snapshots.BackendLive | None:
        """One that was removed and still has sessions: its counts and limits go on."""
        live = self._removed.pop((pool, backend), None)
        if live is not None:
            self._retired.remove(live)
        return live

    # ---- from another process ----

    def numbered(self) -> tuple[dict[int, str], dict[int, tuple[str, str]]]:
        """The names of pools by slot, and of backends by number, those included that are removed and have sessions."""
        pools = {pool.live.slot: name for name, pool in self.owned.items()}
        pools |= {live.slot: self.records.pools[live.slot] for live in self._retired_pools()}
        backends = {live.id: (name, id_) for name, pool in self.owned.items() for id_, live in pool.backends.items()}
        return pools, backends | {live.id: place for place, live in self._removed.items()}

    def _retired_pools(self) -> list[snapshots.PoolLive]:
        return [live for live in self._retired if isinstance(live, snapshots.PoolLive)]

    def adopt(self, name: str) -> snapshots.PoolLive:
        """The pool of that name; one that no snapshot names is as if it had been removed."""
        if name in self.owned:
            return self.owned[name].live
        for live in self._retired_pools():
            if self.records.pools[live.slot] == name:
                return live
        slot = self._free_slot()
        self.records.pools[slot] = name
        live = snapshots.PoolLive(self._workers, slot)
        self._retired.append(live)
        return live

    def adopt_backend(self, pool: str, backend: str) -> snapshots.BackendLive:
        """The same of a backend."""
        live = self.backend(pool, backend)
        if live is None:
            id_ = next(self._ids)
            live = self._removed[pool, backend] = snapshots.BackendLive(self._workers, id_)
            self.records.backends[id_] = (pool, backend)
            self._retired.append(live)
        return live

    # ---- what is removed ----

    def retire(self, before: Mapping[str, PoolSpec | None], newest: Mapping[str, PoolSpec]) -> None:
        """Retire what the snapshot before named and the newest one does not."""
        for name, spec in before.items():
            now = newest.get(name)
            if now is spec:
                continue
            pool = self.owned[name]
            named = {backend.id for backend in now.backends} if now else set()
            for id_ in [id_ for id_ in pool.backends if id_ not in named]:
                self._removed[name, id_] = live = pool.backends.pop(id_)
                self._retired.append(live)
            if now is None:
                self._retired.append(self.owned.pop(name).live)

    def reap(self) -> None:
        """Every worker goes by the newest snapshot: let go of what was retired and has no session."""
        self._retired = [live for live in self._retired if not self._let_go(live)]
        kept = set(map(id, self._retired))
        self._removed = {key: live for key, live in self._removed.items() if id(live) in kept}

    def _let_go(self, live: snapshots.BackendLive | snapshots.PoolLive) -> bool:
        """True when nothing refers to `live` any more: no snapshot (the caller knows) and no session."""
        if live.sessions_active() > 0:
            return False
        if isinstance(live, snapshots.PoolLive):
            self._slots_used.discard(live.slot)
        return True
