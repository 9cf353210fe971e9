"""The native forwarder: translates snapshots for the data plane and owns what must outlive them.

Made and called on the control thread; the worker threads it starts never come back into Python until `close`.

Ownership: a `_Backend`, `_Pool` or `_Listener` keeps counters while any snapshot or session refers to it. What a new
snapshot no longer names is retired, and let go when its last session has ended and every worker has moved on.
"""

from __future__ import annotations

import os
import socket
import threading
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from l4lb import _algorithms, _fastpath
from l4lb.engine.listening import Listening
from l4lb.errors import EngineError
from l4lb.model.forwarder import Handed
from l4lb.model.snapshot import BackendSpec, ListenerSpec, PoolSpec, Snapshot, TableKind
from l4lb.model.states import CloseReason
from l4lb.model.stats import (
    BackendStats,
    Failing,
    Histogram,
    ListenerStats,
    PoolStats,
    SessionRecord,
    Stats,
    WorkerStats,
)
from l4lb.net.sockets import sockaddr_bytes
from l4lb.net.threads import name_this_thread

_CLOSE_REASONS = tuple(CloseReason)
_MS_MAX = 2**31 - 1  # 24 days: the workers compare 32-bit milliseconds


def _milliseconds(seconds: float) -> int:
    """At least 1 ms for any time above 0; 0 stays "no limit"."""
    return min(max(round(seconds * 1000), 1), _MS_MAX) if seconds > 0 else 0


@dataclass(slots=True)
class _Pool:
    """`spec` is the published one, and `native` what workers have of it."""

    name: str
    live: _fastpath.PoolLive
    backends: dict[str, _fastpath.BackendLive] = field(default_factory=dict)
    spec: PoolSpec | None = None
    native: _fastpath.NativePool | None = None


@dataclass(slots=True)
class _Listener:
    live: _fastpath.ListenerLive
    addresses: tuple[str, ...] = ()


def _backend_options(spec: ListenerSpec) -> dict[str, int]:
    keepalive = spec.keepalive
    return {
        "keepalive": keepalive is not None,
        "keepalive_idle_s": max(round(keepalive.idle_s), 1) if keepalive else 0,
        "keepalive_interval_s": max(round(keepalive.interval_s), 1) if keepalive else 0,
        "keepalive_count": keepalive.count if keepalive else 0,
        "user_timeout_ms": _milliseconds(spec.user_timeout_s),
    }


def _histogram(counts: Sequence[int], sum_us: int) -> Histogram:
    return Histogram(tuple(_fastpath.HISTOGRAM_BOUNDS_S), tuple(counts), sum_us / 1e6)


def _address_text(packed: bytes) -> str:
    if not packed:
        return "unix:"
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


class NativeForwarder:
    """`l4lb.model.forwarder.Forwarder` on native worker threads in this process.

    `workers` threads are started; `max_sessions` bounds the sessions of all together (0: no bound); with `affinity`
    worker i runs on the i-th of `cpus` alone, and gets the connections whose packets that CPU handles; without it,
    a new client goes to the worker that has the least to do. `busy_poll_s` is how long a worker looks for events
    before it sleeps.
    """

    def __init__(
        self,
        workers: int,
        *,
        max_sessions: int = 0,
        affinity: bool = False,
        cpus: Sequence[int] = (),
        busy_poll_s: float = 0.0,
    ) -> None:
        try:
            self._plane = _fastpath.DataPlane(workers, max_sessions, not affinity, round(busy_poll_s * 1e9))
        except OSError as error:
            raise EngineError(f"cannot create {workers} workers: {error.strerror}") from error
        self._affinity = [cpus[index % len(cpus)] for index in range(workers)] if affinity and cpus else []
        self._threads: list[threading.Thread] = []
        self._pools: dict[str, _Pool] = {}
        self._listeners: dict[str, _Listener] = {}
        self._left: dict[str, _Listener] = {}  # no longer named, but their sessions go on
        self._listening = Listening(workers, self._affinity)
        self._snapshots: list[_fastpath.NativeSnapshot] = []
        self._retired: list[_fastpath.BackendLive | _fastpath.PoolLive] = []
        self._removed: dict[tuple[str, str], _fastpath.BackendLive] = {}  # of the retired ones, by pool and id
        self._slots_used: set[int] = set()
        self._next_id = 1
        self._names: dict[tuple[str, int], str] = {}
        self._places: dict[int, tuple[str, str]] = {}  # of a backend's id: its pool and what it is called there
        self._version = 0
        self._turns_seen: list[int] = []  # by worker, when somebody last looked for silent ones
        self._closed = False

    # ---- life ----

    def start(self) -> None:
        for index in range(self._plane.worker_count):
            thread = threading.Thread(target=self._run_worker, args=(index,), name=f"l4lb-worker-{index}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run_worker(self, index: int) -> None:
        name_this_thread(f"l4lb-worker-{index}")
        if self._affinity:
            os.sched_setaffinity(0, {self._affinity[index]})  # of this thread alone
        self._plane.run(index)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._plane.stop()
        for thread in self._threads:
            thread.join()
        self._plane.finish()
        self._listening.close()

    def leaks(self) -> dict[str, int]:
        """Native resources still in use; all 0 after `close`."""
        workers = [self._worker_stats(index) for index in range(self._plane.worker_count)]
        return {
            "sessions": sum(worker.sessions_active for worker in workers),
            "sessions_counted": self._plane.sessions_active(),
            "pipes": sum(worker.pipes for worker in workers),
            "chunks": sum(worker.chunks for worker in workers),
            "backend_sessions": sum(pool.sessions_active for pool in self._pool_stats().values()),
        }

    # ---- from one process to the next ----

    def hand_over(self) -> list[Handed]:
        return self._listening.hand_over()

    def disown(self) -> None:
        self._listening.disown()

    def take_over(self, handed: Sequence[Handed]) -> None:
        self._listening.take_over(handed)

    def own(self) -> None:
        self._listening.own()

    # ---- snapshots ----

    def prepare(self, listeners: Sequence[ListenerSpec]) -> None:
        self._listening.prepare(listeners)

    def turn_away(self, listeners: Sequence[ListenerSpec]) -> bool:
        return self._listening.turn_away(listeners)

    def publish(self, snapshot: Snapshot) -> None:
        self.prepare(snapshot.listeners)
        version = self._version + 1
        before = {name: pool.spec for name, pool in self._pools.items()}
        pools = {spec.name: self._native_pool(spec) for spec in snapshot.pools}
        self._listening.commit(snapshot.listeners, version)
        named = {spec.name for spec in snapshot.listeners}
        for name in [name for name in self._listeners if name not in named]:
            self._left[name] = self._listeners.pop(name)
        listeners = [self._native_listener(spec, pools[spec.pool]) for spec in snapshot.listeners]
        native = _fastpath.NativeSnapshot(version, self._plane.worker_count, list(pools.values()), listeners)
        self._plane.publish(native)
        self._version = version
        self._snapshots.append(native)
        self._retire_pools(before, {spec.name: spec for spec in snapshot.pools})
        self.reap()

    def _new_id(self, kind: str, name: str) -> int:
        """A number for the records of the data plane, by which its name is found again."""
        id_ = self._next_id
        self._next_id += 1
        self._names[kind, id_] = name
        return id_

    def _free_slot(self) -> int:
        slot = next(number for number in range(len(self._slots_used) + 1) if number not in self._slots_used)
        self._slots_used.add(slot)
        return slot

    def _native_pool(self, spec: PoolSpec) -> _fastpath.NativePool:
        """The one that workers have already, when the pool is the same."""
        pool = self._pools.get(spec.name)
        if pool is None:
            slot = self._free_slot()
            self._names["pool", slot] = spec.name
            pool = self._pools[spec.name] = _Pool(spec.name, _fastpath.PoolLive(self._plane, slot))
        if pool.native is None or pool.spec is not spec:
            pool.native = _fastpath.NativePool(self._pool_fields(pool, spec))
            pool.spec = spec
        return pool.native

    def _pool_fields(self, pool: _Pool, spec: PoolSpec) -> dict[str, object]:
        return {
            "live": pool.live,
            "selection": _fastpath.SELECTIONS[spec.selection],
            "backends": [self._native_backend(pool, backend) for backend in spec.backends],
            "usable": array("I", spec.usable),
            "slots": spec.slots if isinstance(spec.slots, array) else array("I", spec.slots),
            "bounded_load": spec.bounded_load,
            "connect_timeout_ms": _milliseconds(spec.connect_timeout_s) or _MS_MAX,
            "connect_attempts": spec.connect_attempts,
            "passive_failures": spec.passive_failures,
            "queue_size": spec.queue_size,
            "queue_timeout_ms": _milliseconds(spec.queue_timeout_s) or _MS_MAX,
            "source": sockaddr_bytes(spec.source) if spec.source else b"",
            "hash_seed": spec.hash_seed,
            "hash_key": _fastpath.HASH_KEYS[spec.hash_key],
            "hash_prefix_v4": spec.hash_prefix_v4,
            "hash_prefix_v6": spec.hash_prefix_v6,
        }

    def _native_backend(self, pool: _Pool, spec: BackendSpec) -> tuple[_fastpath.BackendLive, bytes, float, int]:
        live = pool.backends.get(spec.id)
        if live is None and (live := self._returned(pool.name, spec.id)) is not None:
            pool.backends[spec.id] = live
        if live is None:
            id_ = self._new_id("backend", spec.id)
            live = pool.backends[spec.id] = _fastpath.BackendLive(self._plane, id_)
            self._places[id_] = (pool.name, spec.id)
        return live, sockaddr_bytes(spec.address), spec.weight, spec.max_sessions

    def _returned(self, pool: str, backend: str) -> _fastpath.BackendLive | None:
        """One that was removed and still has sessions: its counts and limits go on."""
        live = self._removed.pop((pool, backend), None)
        if live is not None:
            self._retired.remove(live)
        return live

    def _native_listener(self, spec: ListenerSpec, pool: _fastpath.NativePool) -> dict[str, object]:
        listener = self._listeners.get(spec.name) or self._left.pop(spec.name, None)
        if listener is None:
            listener = _Listener(_fastpath.ListenerLive(self._plane, self._new_id("listener", spec.name)))
        self._listeners[spec.name] = listener
        listener.addresses = self._listening.addresses(spec)
        listener.live.set_options(_backend_options(spec))
        listener.live.set_limits(
            (round(spec.bandwidth_up), round(spec.bandwidth_down)),
            (round(spec.total_bandwidth_up), round(spec.total_bandwidth_down)),
            round(spec.session_rate),
            round(spec.session_burst * 1e9 / spec.session_rate) if spec.session_rate else 0,
        )
        return {
            "live": listener.live,
            "pool": pool,
            "sockets": self._listening.spread(spec),
            "idle_ms": _milliseconds(spec.idle_timeout_s),
            "half_close_ms": _milliseconds(spec.half_close_timeout_s),
            "duration_ms": _milliseconds(spec.max_session_duration_s),
            "max_sessions": spec.max_sessions,
            "splice": _fastpath.SPLICE_MODES[spec.splice],
            "nodelay": spec.nodelay,
        }

    def _retire_pools(self, before: Mapping[str, PoolSpec | None], newest: Mapping[str, PoolSpec]) -> None:
        """Let go of what the newest snapshot does not name, and the one before did, once no session uses it."""
        for name, spec in before.items():
            now = newest.get(name)
            if now is spec:
                continue
            pool = self._pools[name]
            named = {backend.id for backend in now.backends} if now else set()
            for id_ in [id_ for id_ in pool.backends if id_ not in named]:
                self._removed[name, id_] = live = pool.backends.pop(id_)
                self._retired.append(live)
            if now is None:
                self._retired.append(self._pools.pop(name).live)

    def adopted(self) -> bool:
        if self._threads and self._plane.seen_version() < self._version:
            return False
        self.reap()  # at once: sockets that nobody accepts on any more are to be closed, before somebody comes
        return True

    def reap(self) -> None:
        """Free what no worker can reach any more. Cheap; called at every publish and by whoever reads statistics."""
        seen = self._plane.seen_version() if self._threads else self._version
        self._snapshots = [native for native in self._snapshots if native.version >= min(seen, self._version)]
        self._listening.reap(seen)
        if len(self._snapshots) <= 1:
            self._left = {name: one for name, one in self._left.items() if one.live.sessions_active() > 0}
            self._retired = [live for live in self._retired if not self._let_go(live)]
            kept = set(map(id, self._retired))
            self._removed = {key: live for key, live in self._removed.items() if id(live) in kept}

    def _let_go(self, live: _fastpath.BackendLive | _fastpath.PoolLive) -> bool:
        """True when nothing refers to `live` any more: no snapshot (the caller knows) and no session."""
        if live.sessions_active() > 0:
            return False
        if isinstance(live, _fastpath.PoolLive):
            self._slots_used.discard(live.slot)
        return True

    def build_table(
        self, kind: TableKind, ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int
    ) -> array[int]:
        names = [id_.encode() for id_ in ids]
        return _algorithms.build_table(_algorithms.TABLE_KINDS[kind], names, list(weights), table_size, seed)

    # ---- what becomes of backends ----

    @property
    def notice_fd(self) -> int:
        return self._plane.notice_fd

    def failing(self) -> list[Failing]:
        found = []
        for id_ in self._plane.take_notices():
            pool, backend = self._places[id_]
            if (live := self._backend(pool, backend)) is not None:
                found.append(Failing(pool, backend, live.failures()))
        return found

    def forgive(self, pool: str, backend: str) -> None:
        if (live := self._backend(pool, backend)) is not None:
            live.forgive()

    def end_sessions(self, pool: str, backends: Sequence[str], reason: CloseReason) -> None:
        known = [live for name in backends if (live := self._backend(pool, name)) is not None]
        self._plane.evict(known, _CLOSE_REASONS.index(reason))

    def sessions_of(self, pool: str, backend: str) -> int:
        live = self._backend(pool, backend)
        return live.sessions_active() if live is not None else 0

    def _backend(self, pool: str, backend: str) -> _fastpath.BackendLive | None:
        """The one of the newest snapshot, or else one that was removed and still has sessions."""
        if pool in self._pools and backend in self._pools[pool].backends:
            return self._pools[pool].backends[backend]
        return self._removed.get((pool, backend))

    # ---- what is read from it ----

    def addresses(self, listener: str) -> tuple[str, ...]:
        return self._listeners[listener].addresses

    def silent_workers(self) -> list[int]:
        turns = [self._plane.worker_stats(index)[4] for index in range(self._plane.worker_count)]
        silent = [index for index, before in enumerate(self._turns_seen) if turns[index] == before]
        self._turns_seen = turns
        self._plane.wake()
        return silent

    def socket_files(self) -> list[str]:
        return self._listening.files()

    def _worker_stats(self, index: int) -> WorkerStats:
        stats = self._plane.worker_stats(index)
        return WorkerStats(*stats[:9], _histogram(stats[9], stats[10]))

    def pool_stats(self, pool: str) -> PoolStats:
        known = self._pools.get(pool)
        if known is None:
            return PoolStats()
        backends = {id_: BackendStats(*live.stats()) for id_, live in known.backends.items()}
        return PoolStats(backends, known.live.waiting())

    def _pool_stats(self) -> dict[str, PoolStats]:
        return {name: self.pool_stats(name) for name in self._pools}

    def stats(self) -> Stats:
        self.reap()
        listeners = {}
        for name, listener in self._listeners.items():
            active, total, closed, buckets, sum_us = listener.live.stats()
            reasons = {reason: count for reason, count in zip(_CLOSE_REASONS, closed, strict=True) if count}
            time_ = _histogram(buckets, sum_us)
            listeners[name] = ListenerStats(listener.addresses, active, total, reasons, time_)
        workers = tuple(self._worker_stats(index) for index in range(self._plane.worker_count))
        left = self._plane.sessions_active()
        return Stats(self._version, listeners, self._pool_stats(), workers, left)

    def keep_records(self) -> None:
        """Keep a record of every session that ends from now on; whoever asks for it empties it with `take_records`."""
        self._plane.keep_records()

    def take_records(self) -> list[SessionRecord]:
        """The sessions that ended since the last call, by worker. A ring that is full drops and counts."""
        return [self._record(fields) for fields in self._plane.take_records()]

    def _record(self, fields: _fastpath.RecordFields) -> SessionRecord:
        session_id, listener, pool, backend, client, client_port, local_port, *times_and_bytes = fields
        started, connect, duration, up, down, attempts, reason, spliced = times_and_bytes
        return SessionRecord(
            session_id,
            self._names.get(("listener", listener), ""),
            self._names.get(("pool", pool), ""),
            self._names.get(("backend", backend), ""),
            _address_text(client),
            client_port,
            local_port,
            started / 1e9,
            connect / 1e9,
            duration / 1e9,
            up,
            down,
            attempts,
            _CLOSE_REASONS[reason],
            bool(spliced),
        )
