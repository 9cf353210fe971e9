"""Sessions of TCP that move to another process, between names and the data plane's numbers. Control thread only.

When this process's configuration does not name what a session belonged to, that is made here without a place in a
snapshot: a listener that is left, a pool or backend that is removed.
"""

from __future__ import annotations

from collections.abc import Iterator

from l4lb import _fastpath
from l4lb._native import counted, snapshots, tcp_migration, times
from l4lb.engine.owned import OwnedListener
from l4lb.engine.pools import Pools
from l4lb.model.forwarder import Arriving, Counted, ExportedTcp, Fate, LoadedTcp, TcpNames
from l4lb.model.snapshot import ListenerSpec

FORMAT: int = tcp_migration.FORMAT  # of ExportedTcp and Counted


class TcpMigration:
    """`l4lb.model.forwarder.TcpHandOver`. `listeners` and `left` are the forwarder's, by name."""

    def __init__(
        self,
        plane: _fastpath.DataPlane,
        pools: Pools,
        ids: Iterator[int],
        listeners: dict[str, OwnedListener],
        left: dict[str, OwnedListener],
    ) -> None:
        self._moves = plane.tcp
        self._counts = plane.counts
        self._workers = plane.worker_count
        self._pools = pools
        self._ids = ids
        self._listeners = listeners
        self._left = left
        self.format = FORMAT

    @property
    def epoch(self) -> int:
        return self._moves.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._moves.epoch = epoch

    def hold_clients(self, held: bool) -> None:
        self._moves.hold(held)

    def clients_held(self) -> bool:
        return self._moves.is_held()

    def _all_listeners(self) -> dict[str, OwnedListener]:
        return {**self._left, **self._listeners}

    # ---- export ----

    def names(self) -> TcpNames:
        listeners = {one.live.id: name for name, one in self._all_listeners().items()}
        pools, backends = self._pools.numbered()
        return TcpNames(listeners, pools, backends)

    def precopy(self, fd: int) -> None:
        self._moves.precopy(fd)

    def precopied(self) -> bool:
        return self._moves.precopied()

    def freeze(self) -> None:
        self._moves.freeze()

    def frozen(self) -> ExportedTcp | None:
        if not self._moves.is_frozen():
            return None
        state, fds, count = self._moves.take_frozen()
        return ExportedTcp(count, state, fds)

    def settle(self, fate: Fate) -> None:
        self._moves.settle(fate)

    def settled(self) -> bool:
        return self._moves.is_settled()

    def counted(self) -> Counted:
        listeners = self._all_listeners()
        _, backends = self._pools.numbered()
        found = ((place, self._pools.backend(*place)) for place in backends.values())
        known = {place: live for place, live in found if live is not None}
        taken = {place: times.export_times(live) for place, live in known.items()}
        return Counted(
            workers=self._counts.export_counters(),
            sources=self._counts.export_sources(),
            listeners={one.live.id: name for name, one in listeners.items()},
            limits={name: counted.export_limits(one.live) for name, one in listeners.items()},
            by_listener={name: counted.export_listener(one.live) for name, one in listeners.items()},
            by_backend={place: counted.export_backend(live) for place, live in known.items()},
            times={place: exported for place, exported in taken.items() if exported},
        )

    # ---- import ----

    def arriving(self) -> Arriving:
        return tcp_migration.Arrivals(self._workers)

    def take_arrivals(self, arriving: Arriving) -> None:
        assert isinstance(arriving, tcp_migration.Arrivals)
        self._moves.take_arrivals(arriving)

    def arrivals_taken(self) -> bool:
        return self._moves.arrivals_taken()

    def end_arrivals(self, *, reset: bool) -> None:
        self._moves.end_arrivals(reset)

    def load(self, exported: ExportedTcp, arriving: Arriving, names: TcpNames) -> LoadedTcp:
        assert isinstance(arriving, tcp_migration.Arrivals)
        listeners = {number: self._listener(name).live for number, name in names.listeners.items()}
        pools = {number: self._pools.adopt(name) for number, name in names.pools.items()}
        backends, removed = dict[int, snapshots.BackendLive](), dict[str, list[str]]()
        for number, (pool, id_) in names.backends.items():
            if self._pools.backend(pool, id_) is None:
                removed.setdefault(pool, []).append(id_)
            backends[number] = self._pools.adopt_backend(pool, id_)
        native = tcp_migration.TcpImports(
            self._workers, exported.state, exported.fds, arriving, listeners, pools, backends
        )
        return LoadedTcp(native.count, removed, native)

    def _listener(self, name: str) -> OwnedListener:
        known = self._listeners.get(name) or self._left.get(name)
        if known is None:
            id_ = next(self._ids)
            live = snapshots.ListenerLive(self._workers, id_)
            known = self._left[name] = OwnedListener(id_, live, ListenerSpec(name, (), ""), None)
            self._pools.records.name_listener(id_, name, ())
        return known

    def start(self, loaded: LoadedTcp) -> None:
        assert isinstance(loaded.engine, tcp_migration.TcpImports)
        self._moves.start(loaded.engine)

    def started_ns(self) -> int:
        return self._moves.imported_ns()

    def take_counted(self, said: Counted) -> None:
        """ValueError for what another version means."""
        self._counts.import_counters(said.workers)
        known = self._all_listeners()
        numbers = {number: known[name].live.id for number, name in said.listeners.items() if name in known}
        self._counts.import_sources(said.sources, numbers)
        for name, listener in known.items():
            if name in said.by_listener:
                counted.import_listener(listener.live, said.by_listener[name])
                counted.import_limits(listener.live, said.limits[name], name not in self._listeners)
        for place, counters in said.by_backend.items():
            if (live := self._pools.backend(*place)) is not None:
                counted.import_backend(live, counters)
                if place in said.times:
                    times.import_times(live, said.times[place])
