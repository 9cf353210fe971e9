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
from collections.abc import Sequence
from dataclasses import dataclass, field

from l4lb import _algorithms, _fastpath
from l4lb.errors import ConfigError, EngineError, Problem
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
from l4lb.net.sockets import ListeningSockets, open_listeners, sockaddr_bytes

_CLOSE_REASONS = tuple(CloseReason)
_MS_MAX = 2**31 - 1  # 24 days: the workers compare 32-bit milliseconds


def _milliseconds(seconds: float) -> int:
    """At least 1 ms for any time above 0; 0 stays "no limit"."""
    return min(max(round(seconds * 1000), 1), _MS_MAX) if seconds > 0 else 0


@dataclass(slots=True)
class _Pool:
    name: str
    live: _fastpath.PoolLive
    backends: dict[str, _fastpath.BackendLive] = field(default_factory=dict)


@dataclass(slots=True)
class _Listener:
    live: _fastpath.ListenerLive
    key: tuple[object, ...]
    sockets: list[ListeningSockets]
    addresses: tuple[str, ...]

    def close_sockets(self) -> None:
        for sockets in self.sockets:
            sockets.close()
        self.sockets = []


def _listener_key(spec: ListenerSpec) -> tuple[object, ...]:
    """Two listeners with the same key can share sockets: what else differs is changed in place."""
    inherited = (spec.nodelay, spec.keepalive, spec.user_timeout_s, spec.fast_open, spec.defer_accept_s)
    return (spec.name, spec.bind, spec.protocol, spec.backlog, spec.transparent, *inherited)


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
        self._prepared: dict[str, _Listener] = {}
        self._snapshots: list[_fastpath.NativeSnapshot] = []
        self._closing_listeners: list[tuple[int, _Listener]] = []
        self._retired: list[_fastpath.BackendLive | _fastpath.ListenerLive | _fastpath.PoolLive] = []
        self._removed: dict[tuple[str, str], _fastpath.BackendLive] = {}  # of the retired ones, by pool and id
        self._slots_used: set[int] = set()
        self._next_id = 1
        self._names: dict[tuple[str, int], str] = {}
        self._places: dict[int, tuple[str, str]] = {}  # of a backend's id: its pool and what it is called there
        self._version = 0
        self._closed = False

    # ---- life ----

    def start(self) -> None:
        for index in range(self._plane.worker_count):
            thread = threading.Thread(target=self._run_worker, args=(index,), name=f"l4lb-worker-{index}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run_worker(self, index: int) -> None:
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
        for listener in [
            *self._prepared.values(),
            *self._listeners.values(),
            *(listener for _, listener in self._closing_listeners),
        ]:
            listener.close_sockets()
        self._closing_listeners.clear()

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

    # ---- snapshots ----

    def prepare(self, listeners: Sequence[ListenerSpec]) -> None:
        for listener in self._prepared.values():
            listener.close_sockets()
        self._prepared = {}
        self._prepared = self._open_new_listeners(listeners)

    def publish(self, snapshot: Snapshot) -> None:
        opened = self._open_new_listeners(snapshot.listeners)
        version = self._version + 1
        pools = [self._native_pool(spec) for spec in snapshot.pools]
        removed = [name for name in self._listeners if name not in {spec.name for spec in snapshot.listeners}]
        replaced = [name for name in opened if name in self._listeners]
        for name in [*removed, *replaced]:
            self._closing_listeners.append((version, self._listeners.pop(name)))
        self._listeners.update(opened)
        pool_index = {spec.name: index for index, spec in enumerate(snapshot.pools)}
        listeners = [self._native_listener(spec, pool_index[spec.pool]) for spec in snapshot.listeners]
        native = _fastpath.NativeSnapshot(version, pools, listeners)
        self._plane.publish(native)
        self._version = version
        self._snapshots.append(native)
        self._retire_pools(snapshot.pools)
        self.reap()

    def _open_new_listeners(self, specs: Sequence[ListenerSpec]) -> dict[str, _Listener]:
        """Sockets for listeners that are new or bound differently; ConfigError and none open when one cannot be had."""
        opened: dict[str, _Listener] = {}
        problems: list[Problem] = []
        for spec in specs:
            known = self._listeners.get(spec.name)
            if known is not None and known.key == _listener_key(spec):
                continue
            prepared = self._prepared.get(spec.name)
            if prepared is not None and prepared.key == _listener_key(spec):
                opened[spec.name] = self._prepared.pop(spec.name)
                continue
            try:
                opened[spec.name] = self._open_listener(spec)
            except OSError as error:
                message = f"{error.filename}: cannot listen: {error.strerror}"
                problems.append(Problem(path=f"listeners.{spec.name}.bind", message=message))
        if problems:
            for listener in opened.values():
                listener.close_sockets()
            raise ConfigError(problems)
        return opened

    def _open_listener(self, spec: ListenerSpec) -> _Listener:
        workers = self._plane.worker_count
        sockets = open_listeners(spec, workers, self._affinity)
        by_worker = [address.for_worker(worker) for worker in range(workers) for address in sockets]
        id_ = self._new_id("listener", spec.name)
        shared = any(address.shared for address in sockets)
        live = _fastpath.ListenerLive(self._plane, id_, by_worker, shared, _backend_options(spec))
        return _Listener(live, _listener_key(spec), sockets, tuple(address.address for address in sockets))

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

    def _native_pool(self, spec: PoolSpec) -> dict[str, object]:
        pool = self._pools.get(spec.name)
        if pool is None:
            slot = self._free_slot()
            self._names["pool", slot] = spec.name
            pool = self._pools[spec.name] = _Pool(spec.name, _fastpath.PoolLive(self._plane, slot))
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

    def _native_listener(self, spec: ListenerSpec, pool: int) -> dict[str, object]:
        live = self._listeners[spec.name].live
        live.set_limits(
            (round(spec.bandwidth_up), round(spec.bandwidth_down)),
            (round(spec.total_bandwidth_up), round(spec.total_bandwidth_down)),
            round(spec.session_rate),
            round(spec.session_burst * 1e9 / spec.session_rate) if spec.session_rate else 0,
        )
        return {
            "live": live,
            "pool": pool,
            "idle_ms": _milliseconds(spec.idle_timeout_s),
            "half_close_ms": _milliseconds(spec.half_close_timeout_s),
            "duration_ms": _milliseconds(spec.max_session_duration_s),
            "max_sessions": spec.max_sessions,
            "splice": _fastpath.SPLICE_MODES[spec.splice],
            "nodelay": spec.nodelay,
        }

    def _retire_pools(self, specs: Sequence[PoolSpec]) -> None:
        """Let go of what the newest snapshot does not name, once no session uses it any more."""
        named = {spec.name: {backend.id for backend in spec.backends} for spec in specs}
        for name, pool in list(self._pools.items()):
            for id_ in [id_ for id_ in pool.backends if id_ not in named.get(name, ())]:
                self._removed[name, id_] = live = pool.backends.pop(id_)
                self._retired.append(live)
            if name not in named:
                self._retired.append(self._pools.pop(name).live)

    def adopted(self) -> bool:
        return not self._threads or self._plane.seen_version() >= self._version

    def reap(self) -> None:
        """Free what no worker can reach any more. Cheap; called at every publish and by whoever reads statistics."""
        seen = self._plane.seen_version() if self._threads else self._version
        self._snapshots = [native for native in self._snapshots if native.version >= min(seen, self._version)]
        for version, listener in list(self._closing_listeners):
            if seen >= version:
                listener.close_sockets()
                self._retired.append(listener.live)
                self._closing_listeners.remove((version, listener))
        if len(self._snapshots) <= 1:
            self._retired = [live for live in self._retired if not self._let_go(live)]
            self._removed = {key: live for key, live in self._removed.items() if live in self._retired}

    def _let_go(self, live: _fastpath.BackendLive | _fastpath.ListenerLive | _fastpath.PoolLive) -> bool:
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

    def _worker_stats(self, index: int) -> WorkerStats:
        stats = self._plane.worker_stats(index)
        return WorkerStats(*stats[:9], _histogram(stats[9], stats[10]))

    def _pool_stats(self) -> dict[str, PoolStats]:
        return {
            name: PoolStats(
                {id_: BackendStats(*live.stats()) for id_, live in pool.backends.items()}, pool.live.waiting()
            )
            for name, pool in self._pools.items()
        }

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
