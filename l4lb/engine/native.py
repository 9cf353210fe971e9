"""The native forwarder: translates snapshots for the data plane and owns what must outlive them.

Made and called on the control thread; the worker threads it starts never come back into Python until `close`.

Ownership: a backend, pool (`l4lb.engine.pools`) or listener keeps counters while any snapshot or session refers to it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from itertools import count

from l4lb import _fastpath
from l4lb._native import snapshots, specs, sweeps
from l4lb.engine.bound import SessionBound
from l4lb.engine.counters import listener_stats, shortages, worker_stats
from l4lb.engine.fields import backend_options, listener_fields, listener_limits, milliseconds
from l4lb.engine.hooks import NativeHooks
from l4lb.engine.listening import Listening
from l4lb.engine.migration import Migration, Owners
from l4lb.engine.owned import OwnedListener
from l4lb.engine.pools import Pools
from l4lb.engine.records import Records
from l4lb.engine.sessions import Names, SessionSweep, source
from l4lb.engine.tables import NativeTables
from l4lb.engine.tcp_migration import TcpMigration
from l4lb.errors import ConfigError, EngineError, Problem
from l4lb.model.forwarder import ExportedKernel, ExportedSession, ExportedSockets, QuicIds
from l4lb.model.hooks import Answer, Ask, HookCounts
from l4lb.model.sessions import SessionFilter, Source, SourceOrder, Sweep
from l4lb.model.snapshot import ListenerSpec, Place, Selection, Snapshot
from l4lb.model.states import CloseReason, Protocol
from l4lb.model.stats import BackendLatency, BackendTimes, Failing, PoolStats, SessionRecord, Stats
from l4lb.net.handover import close_all
from l4lb.net.threads import name_this_thread, started

_CLOSE_REASONS = tuple(CloseReason)


class NativeForwarder(NativeTables):
    """`l4lb.model.forwarder.Forwarder` on native worker threads in this process.

    `workers` threads are started; `max_sessions` bounds the sessions of all together (0: no bound); with `affinity`
    worker i runs on the i-th of `cpus` alone, and gets the connections whose packets that CPU handles; without it,
    a new client goes to the worker that has the least to do. `busy_poll_s` is how long a worker looks for events
    before it sleeps. With `ports`, the number of local ports, `max_sessions` is what file descriptors allow, and ports
    may allow less (`l4lb.net.limits`).
    """

    def __init__(
        self,
        workers: int,
        *,
        max_sessions: int = 0,
        affinity: bool = False,
        cpus: Sequence[int] = (),
        busy_poll_s: float = 0.0,
        ports: int = 0,
    ) -> None:
        try:
            self._plane = _fastpath.DataPlane(workers, max_sessions, not affinity, round(busy_poll_s * 1e9))
        except OSError as error:
            raise EngineError(f"cannot create {workers} workers: {error.strerror}") from error
        except MemoryError as error:
            raise EngineError(f"cannot create {workers} workers: out of memory") from error
        self._bound = SessionBound(self._plane, max_sessions, ports)
        self._affinity = [cpus[index % len(cpus)] for index in range(workers)] if affinity and cpus else []
        self._threads: list[threading.Thread] = []
        self._listeners: dict[str, OwnedListener] = {}
        self._left: dict[str, OwnedListener] = {}  # no longer named, but their sessions go on
        self._draining: list[OwnedListener] = []  # ... for which workers still have sockets
        self._pools_published: list[snapshots.NativePool] = []
        self._listening = Listening(workers, self._affinity)
        self._snapshots: list[snapshots.NativeSnapshot] = []
        self._ids = count(1)  # for the records of the data plane, by which a name is found again
        self._records = Records(self._plane)
        self._pools = Pools(workers, self._records, self._ids)
        self._hooks = NativeHooks(self._plane.hooks, self._records, self._pools)
        self._migration = Migration(self._plane, self._listening, self._records)
        self.tcp = TcpMigration(self._plane, self._pools, self._ids, self._listeners, self._left)
        self._version = 0
        self._turns_seen: list[int] = []  # by worker, when somebody last looked for silent ones
        self._closed = False

    # ---- life ----

    def start(self) -> None:
        for index in range(self._plane.worker_count):
            thread = threading.Thread(target=self._run_worker, args=(index,), name=f"l4lb-worker-{index}", daemon=True)
            self._threads.append(started(thread))

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
        self._draining = []  # nothing is published any more
        self._listening.close()

    def leaks(self) -> dict[str, int]:
        """Native resources still in use; all 0 after `close`."""
        workers = [worker_stats(self._plane, index) for index in range(self._plane.worker_count)]
        return {
            "sessions": sum(worker.sessions_active for worker in workers),
            "sessions_counted": self._plane.sessions_active(),
            "pipes": sum(worker.pipes for worker in workers),
            "chunks": sum(worker.chunks for worker in workers),
            "backend_sessions": sum(pool.sessions_active for pool in self._pools.all_stats().values()),
        }

    # ---- from one process to the next ----

    def export_sockets(self) -> list[ExportedSockets]:
        return self._listening.export_sockets()

    def give_up_sockets(self) -> None:
        self._listening.give_up_sockets()

    def import_sockets(self, exported: Sequence[ExportedSockets]) -> None:
        self._listening.import_sockets(exported)
        if any(one.place.protocol is Protocol.UDP for one in exported):
            self._plane.hold_udp(True)

    def export_kernel(self) -> ExportedKernel | None:
        return None

    def import_kernel(self, exported: ExportedKernel) -> None:
        close_all(exported.fds)

    def begin_export(self) -> None:
        self._migration.begin_export()

    def exported_sessions(self, *, anyway: bool = False) -> list[ExportedSession] | None:
        return self._migration.exported_sessions(anyway=anyway)

    def quic_ids(self) -> list[QuicIds]:
        return self._migration.quic_ids({name: pool.live for name, pool in self._pools.owned.items()})

    def import_sessions(self, sessions: Sequence[ExportedSession], quic_ids: Sequence[QuicIds] = ()) -> int:
        for ids in quic_ids:
            if (pool := self._pools.owned.get(ids.pool)) is not None:
                self._migration.know(ids, pool.live, pool.backends)
        return self._migration.import_sessions(sessions, self._owners)

    def _owners(self, session: ExportedSession) -> Owners | None:
        listener = next((one for one in self._listeners.values() if session.place in self._places(one)), None)
        pool = self._pools.owned.get(session.pool)
        backend = pool.backends.get(session.backend) if pool else None
        if listener is None or pool is None or pool.spec is None or backend is None:
            return None
        measured = pool.spec.selection is Selection.PEAK_EWMA
        return Owners(listener.live, listener.spec, pool.live, backend, measured)

    def _places(self, listener: OwnedListener) -> set[Place]:
        return set(self._listening.places(listener.served))

    def claim_sockets(self) -> None:
        self._listening.claim_sockets()

    # ---- snapshots ----

    def prepare(self, listeners: Sequence[ListenerSpec]) -> None:
        for one in listeners:
            if one.reads_quic and not _fastpath.load_libcrypto():
                message = "routes by sni or alpn of udp need OpenSSL's libcrypto, on Debian the package libssl3"
                raise ConfigError([Problem(f"listeners.{one.name}.routes", message)])
        self._listening.prepare(listeners)

    def forget_prepared(self) -> None:
        self._listening.forget_prepared()

    def refuse_new_clients(self, listeners: Sequence[ListenerSpec]) -> bool:
        return self._listening.refuse_new_clients(listeners)

    def publish(self, snapshot: Snapshot) -> None:
        self.prepare(snapshot.listeners)
        before = self._pools.published()
        pools = {spec.name: self._pools.native(spec) for spec in snapshot.pools}
        named = {spec.name for spec in snapshot.listeners}
        for name in [name for name in self._listeners if name not in named]:
            self._left[name] = self._listeners.pop(name)
            self._left[name].addresses = ()
        for spec in snapshot.listeners:
            self._take_listener(spec, pools[spec.pool])
        self._bound.adapt(snapshot)
        self._publish(list(pools.values()))
        self._pools.retire(before, {spec.name: spec for spec in snapshot.pools})
        self.reap()

    def _publish(self, pools: list[snapshots.NativePool]) -> None:
        """`pools`, the listeners, and those that are left or drained but still needed by sessions of UDP, which have no
        socket of their own for the client."""
        version = self._version + 1
        taken = self._listening.needed([one.spec for one in self._listeners.values()])
        ending = [*self._left.values(), *(one for one in self._listeners.values() if one.held)]
        self._draining = [
            one
            for one in ending
            if one.spec.protocol is Protocol.UDP and one.live.sessions_active() and not taken & self._places(one)
        ]
        drained = set(map(id, self._draining))
        accepting = [one for one in self._listeners.values() if id(one) not in drained]
        listening = [one.spec for one in accepting] + [one.served for one in self._draining]
        self._listening.commit(listening, version)
        fields = [self._listener_fields(one, one.spec, draining=False) for one in accepting]
        fields += [self._listener_fields(one, one.served, draining=True) for one in self._draining]
        native = snapshots.NativeSnapshot(version, self._plane.worker_count, pools, fields)
        self._plane.publish(native)
        self._version = version
        self._pools_published = pools
        self._snapshots.append(native)

    def _take_listener(self, spec: ListenerSpec, pool: snapshots.NativePool) -> None:
        listener = self._listeners.get(spec.name) or self._left.pop(spec.name, None)
        if listener is None:
            id_ = next(self._ids)
            listener = OwnedListener(id_, snapshots.ListenerLive(self._plane.worker_count, id_), spec, pool)
        self._listeners[spec.name] = listener
        listener.hold(spec)
        listener.spec, listener.pool = spec, pool
        if spec.routes or listener.routes:
            listener.route(spec.routes, {name: owned.live.slot for name, owned in self._pools.owned.items()})
        listener.addresses = self._listening.addresses(spec)
        self._records.name_listener(listener.id, spec.name, listener.addresses)
        listener.live.set_options(backend_options(spec))
        listener.live.set_limits(listener_limits(spec))
        listener.live.set_hook(milliseconds(spec.hook_deadline_s), spec.hook_rejects)

    def _listener_fields(self, listener: OwnedListener, spec: ListenerSpec, *, draining: bool) -> specs.Listener:
        sockets = self._listening.spread(spec)
        pool = listener.pool
        assert pool is not None  # of those that are published
        return listener_fields(spec, listener.live, pool, sockets, draining=draining, routed=listener.routes)

    def adopted(self) -> bool:
        if self._threads and self._plane.seen_version() < self._version:
            return False
        self.reap()  # at once: sockets that nobody accepts on any more are to be closed, before somebody comes
        return True

    def reap(self) -> None:
        """Free what no worker can reach any more. Cheap; called at every publish and by whoever reads statistics."""
        seen = self._plane.seen_version() if self._threads else self._version
        if any(not one.live.sessions_active() for one in self._draining):
            self._publish(self._pools_published)
        self._snapshots = [native for native in self._snapshots if native.version >= min(seen, self._version)]
        self._listening.reap(seen)
        if len(self._snapshots) <= 1:
            draining = not self._listeners  # then all are shown to the end
            for name in [name for name, one in self._left.items() if not draining and not one.live.sessions_active()]:
                del self._left[name]
            self._pools.reap()

    # ---- what becomes of backends ----

    @property
    def notice_fd(self) -> int:
        return self._plane.notice_fd

    def failing(self) -> list[Failing]:
        found = []
        for id_ in self._plane.take_notices():
            pool, backend = self._records.backends[id_]
            if (live := self._pools.backend(pool, backend)) is not None:
                found.append(Failing(pool, backend, live.failures()))
        return found

    def forgive(self, pool: str, backend: str) -> None:
        if (live := self._pools.backend(pool, backend)) is not None:
            live.forgive()

    def end_sessions(self, pool: str, backends: Sequence[str], reason: CloseReason) -> None:
        known = [live for name in backends if (live := self._pools.backend(pool, name)) is not None]
        self._plane.evict(known, _CLOSE_REASONS.index(reason))

    def sessions_of(self, pool: str, backend: str) -> int:
        live = self._pools.backend(pool, backend)
        return live.sessions_active() if live is not None else 0

    def sessions_on(self, listener: str) -> int:
        known = self._listeners.get(listener) or self._left.get(listener)
        return known.live.sessions_active() if known else 0

    def expect_known(self, wanted: SessionFilter) -> None:
        """ChangeError for a name that no listener, pool or backend has."""
        self._names().filter(wanted)

    def begin_sweep(self, wanted: SessionFilter, limit: int = 0, end: CloseReason | None = None) -> Sweep:
        names = self._names()
        reason = -1 if end is None else _CLOSE_REASONS.index(end)
        native = sweeps.Sweep(self._plane.worker_count, names.filter(wanted), limit, reason)
        self._plane.begin_sweep(native)
        return SessionSweep(native, names, limit)

    def sources(self, listener: str, by: SourceOrder, limit: int) -> tuple[list[Source], int]:
        names = self._names()
        matched, found = self._plane.sources(names.listener_number(listener), _fastpath.SOURCE_ORDERS[by], limit)
        return [source(one, names) for one in found], matched

    def _names(self) -> Names:
        return Names(self._records, {name: pool.live.slot for name, pool in self._pools.owned.items()})

    # ---- what is read from it ----

    def addresses(self, listener: str) -> tuple[str, ...]:
        return self._listeners[listener].addresses

    def silent_workers(self) -> list[int]:
        turns = [self._plane.worker_stats(index).turns for index in range(self._plane.worker_count)]
        silent = [index for index, before in enumerate(self._turns_seen) if turns[index] == before]
        self._turns_seen = turns
        self._plane.wake()
        return silent

    def chown_sockets(self, uid: int, gid: int) -> None:
        self._listening.chown(uid, gid)

    def socket_files(self) -> list[str]:
        return self._listening.files()

    def pool_stats(self, pool: str) -> PoolStats:
        return self._pools.stats(pool)

    def times(self, pool: str) -> dict[str, BackendTimes]:
        return self._pools.times(pool)

    def latency(self, pool: str) -> dict[str, BackendLatency]:
        return self._pools.latency(pool)

    def mark_times(self) -> None:
        self._pools.mark_times()

    def stats(self, *, pools: bool = True) -> Stats:
        self.reap()
        listeners = {
            name: listener_stats(one.live, one.addresses, self._kernel_drops(one))
            for name, one in {**self._left, **self._listeners}.items()
        }
        workers = tuple(worker_stats(self._plane, index) for index in range(self._plane.worker_count))
        left = self._plane.sessions_active()
        bound = (self._bound.sessions, self._bound.reason)
        counted = self._pools.all_stats() if pools else {}
        return Stats(self._version, listeners, counted, workers, left, *bound, shortages(self._plane))

    def _kernel_drops(self, listener: OwnedListener) -> int:
        return self._listening.kernel_drops(listener.served) if listener.spec.protocol is Protocol.UDP else 0

    # ---- records of ended sessions ----

    def keep_records(self, wake_fd: int) -> None:
        self._plane.keep_records(True, wake_fd)

    def stop_records(self) -> None:
        self._plane.keep_records(False)

    def take_records(self, limit: int) -> list[SessionRecord]:
        return self._records.take(limit)

    def records_dropped(self) -> int:
        return sum(self._plane.worker_stats(index).records_dropped for index in range(self._plane.worker_count))

    # ---- sessions that wait for a hook ----

    def open_hooks(self) -> int:
        return self._hooks.open()

    def take_asks(self, limit: int) -> list[Ask]:
        return self._hooks.take(limit)

    def answer(self, answers: list[Answer]) -> None:
        self._hooks.answer(answers)

    def hook_counts(self) -> HookCounts:
        return self._hooks.counts()
