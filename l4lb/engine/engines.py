"""Both engines under one snapshot: listeners with `kernel` are forwarded by programs in the kernel, the others by the
workers. What is told of them is told of both together."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from l4lb.engine.held import Bound, bound_socket, expect_bound, expect_directory
from l4lb.engine.native import NativeForwarder
from l4lb.errors import ConfigError, Problem
from l4lb.model.address import SocketAddress
from l4lb.model.forwarder import ExportedKernel, ExportedSession, Pinning, QuicIds
from l4lb.model.sessions import Session, SessionFilter, Sweep
from l4lb.model.snapshot import ListenerSpec, Snapshot
from l4lb.model.states import CloseReason, DropReason, Protocol
from l4lb.model.stats import (
    BackendLatency,
    BackendStats,
    BackendTimes,
    ListenerStats,
    PoolStats,
    Stats,
    Traffic,
)
from l4lb.net.environment import KERNEL_NEEDS, forwarding_ports_problem, forwarding_problem
from l4lb.net.handover import close_all
from l4lb.net.listen.holders import taken_by

if TYPE_CHECKING:
    from l4lb.engine.kernel.flows import FlowSweep
    from l4lb.engine.kernel.forwarding import KernelForwarder
    from l4lb.engine.kernel.inherited import Inherited
    from l4lb.engine.kernel.layout import Counts


logger = logging.getLogger("l4lb")
T = TypeVar("T")


class Engines(NativeForwarder):
    """`l4lb.model.forwarder.Forwarder`. The programs are loaded with the first listener that needs them. Without
    `pinning` nobody could find what is pinned."""

    def __init__(self, workers: int, *, pinning: Pinning | None = None, **settings: Any) -> None:
        super().__init__(workers, **settings)
        self._pinning = pinning
        self._has_begun = False  # with or without listeners in the kernel
        self._kernel: KernelForwarder | None = None
        self._in_kernel: dict[str, ListenerSpec] = {}
        self._modes: dict[str, str] = {}  # of published listeners; empty: of the workers
        self._held: dict[Bound, socket.socket] = {}
        self._given_up = False  # another process forwards in the kernel

    # ---- snapshots ----

    def prepare(self, listeners: Sequence[ListenerSpec]) -> None:
        ours = [one for one in listeners if one.kernel is not None and not self._given_up]
        self._refuse_changes(listeners)
        try:
            if not (ours or self._has_begun):
                self._forget_pinned()
            if ours:
                kernel = self._loaded(f"listeners.{ours[0].name}.engine")
                _require_forwarding(ours)
                self._hold(ours)
                kernel.prepare(ours)
            super().prepare(_native(listeners))
        except BaseException:
            self._release()
            raise

    def _refuse_changes(self, listeners: Sequence[ListenerSpec]) -> None:
        """Connections that end here would get to backends that do not know them, and the other way round; so would
        those by nat and those by dsr."""
        for one in listeners:
            before, mode = self._modes.get(one.name), _mode(one)
            if before is not None and before != mode:
                key = "mode" if before and mode else "engine"
                message = "cannot be changed while the listener is there: start anew, or take another name and address"
                raise ConfigError([Problem(f"listeners.{one.name}.{key}", message)])

    def _forget_pinned(self) -> None:
        """Of an l4lb that is gone, with this configuration as it was then."""
        if self._pinning is not None:
            with contextlib.suppress(ImportError, ConfigError):  # built without it; another l4lb has it
                from l4lb.engine.kernel.starting import forget_pinned

                forget_pinned(self._pinning)

    def _loaded(self, where: str, inherited: Inherited | None = None, lock: int | None = None) -> KernelForwarder:
        """`where`: what needs it. ConfigError when it cannot be had."""
        if self._kernel is None:
            try:
                from l4lb.engine.kernel.starting import started, taken_over

                if inherited is not None:
                    self._kernel = taken_over(self._pinning, inherited, lock)
                else:
                    self._kernel, self._has_begun = started(self._pinning), False
            except ImportError as error:
                raise ConfigError([Problem(where, f'"kernel": {KERNEL_NEEDS}')]) from error
            except (OSError, MemoryError) as error:
                reason = str(error)
                if getattr(error, "errno", 0) == errno.EPERM:
                    reason = "not permitted: CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed"
                raise ConfigError([Problem(where, f'"kernel": {reason}')]) from error
        return self._kernel

    def _hold(self, listeners: Sequence[ListenerSpec]) -> None:
        """Nobody else is to have these addresses, though no socket receives anything there."""
        opened: dict[Bound, socket.socket] = {}
        for one in listeners:
            for address in one.bind:
                assert isinstance(address, SocketAddress)
                if (one.protocol, address) in self._held:
                    continue
                try:
                    opened[one.protocol, address] = bound_socket(one.protocol, address)
                except OSError as error:
                    for sock in opened.values():
                        sock.close()
                    kind = socket.SOCK_STREAM if one.protocol is Protocol.TCP else socket.SOCK_DGRAM
                    message = f"{address}: cannot be had: {error.strerror}{taken_by(address, kind)}"
                    raise ConfigError([Problem(f"listeners.{one.name}.bind", message)]) from error
        self._held |= opened

    def forget_prepared(self) -> None:
        self._release()
        if self._kernel is not None:
            self._kernel.forget_prepared()
        super().forget_prepared()

    def _release(self) -> None:
        needed = {(one.protocol, address) for one in self._in_kernel.values() for address in one.bind}
        for bound in self._held.keys() - needed:
            self._held.pop(bound).close()

    def refuse_new_clients(self, listeners: Sequence[ListenerSpec]) -> bool:
        return super().refuse_new_clients(_native(listeners))

    def publish(self, snapshot: Snapshot) -> None:
        self.prepare(snapshot.listeners)
        ours = {one.name: one for one in snapshot.listeners if one.kernel is not None}
        if self._kernel is not None:
            self._kernel.publish(snapshot)
            if not self._has_begun:
                self._kernel.take_over()  # from nobody who is still there
        self._has_begun = True
        self._in_kernel = ours
        self._modes = {one.name: _mode(one) for one in snapshot.listeners}
        super().publish(dataclasses.replace(snapshot, listeners=tuple(_native(snapshot.listeners))))
        self._release()

    # ---- from one process to the next ----

    def export_kernel(self) -> ExportedKernel | None:
        if self._kernel is None:
            return None
        inherited = self._kernel.exported()
        held = [[str(protocol), int(at.family), at.host, at.port] for protocol, at in self._held]
        lock = self._kernel.keeping.lock()
        fds = [*inherited.fds(), *(sock.fileno() for sock in self._held.values()), *lock]
        return ExportedKernel(fds, {**inherited.about(), "held": held, "locked": len(lock)})

    def import_kernel(self, exported: ExportedKernel) -> None:
        """What another version means otherwise is left to end with that process."""
        try:
            from l4lb.engine.kernel.inherited import Inherited

            held = [(Protocol(name), SocketAddress(*at)) for name, *at in exported.about["held"]]
            locked = exported.about["locked"] == 1
            count = len(exported.fds) - len(held) - locked
            expect_bound(held, exported.fds[count : count + len(held)] if count >= 0 else ())
            expect_directory(exported.fds[-1:] if locked else ())
            inherited = Inherited.of(exported.about, exported.fds[:count])
        except (ImportError, KeyError, TypeError, ValueError, OSError) as error:
            close_all(exported.fds)
            reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
            logger.warning("forwarding in the kernel not taken over", extra={"fields": {"reason": reason}})
            return
        sockets = exported.fds[count : count + len(held)]
        self._held = {bound: socket.socket(fileno=fd) for bound, fd in zip(held, sockets, strict=True)}
        self._has_begun = True
        self._loaded("listeners", inherited, exported.fds[-1] if locked else None)

    def chown_sockets(self, uid: int, gid: int) -> None:
        super().chown_sockets(uid, gid)
        if self._kernel is not None:
            self._kernel.keeping.chown(uid, gid)

    def begin_export(self) -> None:
        super().begin_export()
        if self._kernel is not None:
            self._kernel.hold()

    def import_sessions(self, sessions: Sequence[ExportedSession], quic_ids: Sequence[QuicIds] = ()) -> int:
        if self._kernel is not None:
            self._kernel.take_over()
        return super().import_sessions(sessions, quic_ids)

    def give_up_sockets(self) -> None:
        super().give_up_sockets()
        self._given_up = True
        if self._kernel is not None:
            self._kernel.give_up()
        self._forget_kernel()

    def _forget_kernel(self) -> None:
        self._kernel = None
        for sock in self._held.values():
            sock.close()
        self._held = {}

    def addresses(self, listener: str) -> tuple[str, ...]:
        if listener in self._in_kernel:
            return tuple(map(str, self._in_kernel[listener].bind))
        return super().addresses(listener)

    # ---- sessions ----

    def end_sessions(self, pool: str, backends: Sequence[str], reason: CloseReason) -> None:
        super().end_sessions(pool, backends, reason)
        if self._kernel is not None:
            self._kernel.leave(pool, backends)

    def sessions_of(self, pool: str, backend: str) -> int:
        flows = self._kernel.flows_of(pool, backend) if self._kernel is not None else 0
        return super().sessions_of(pool, backend) + flows

    def sessions_on(self, listener: str) -> int:
        flows = self._kernel.flows_on(listener) if self._kernel is not None else 0
        return super().sessions_on(listener) + flows

    def begin_sweep(self, wanted: SessionFilter, limit: int = 0, end: CloseReason | None = None) -> Sweep:
        """Flows in the kernel are found, and not ended: the client speaks with the backend."""
        if self._kernel is None:
            return super().begin_sweep(wanted, limit, end)
        sessions: Sweep | None = None
        in_kernel = wanted.listener in self._kernel.names()
        if in_kernel:
            self.expect_known(dataclasses.replace(wanted, listener=""))
        elif not wanted.flow_id:
            sessions = super().begin_sweep(wanted, limit, end)
        flows = None
        if not (wanted.id or wanted.tagged) and (in_kernel or not wanted.listener):
            flows = self._kernel.find_flows(wanted, limit)
        return SweepOfBoth(sessions, flows, limit)

    # ---- what is read from them ----

    def pool_stats(self, pool: str) -> PoolStats:
        return self.stats().pools.get(pool, PoolStats()) if self._kernel is not None else super().pool_stats(pool)

    def times(self, pool: str) -> dict[str, BackendTimes]:
        return self._proxied(pool, super().times(pool))

    def latency(self, pool: str) -> dict[str, BackendLatency]:
        return self._proxied(pool, super().latency(pool))

    def _proxied(self, pool: str, found: dict[str, T]) -> dict[str, T]:
        """Without backends that only the kernel has sent clients."""
        if all(one.pool != pool for one in self._in_kernel.values()):
            return found
        counted = super().pool_stats(pool).backends
        return {id_: one for id_, one in found.items() if counted[id_].sessions_total}

    def stats(self, *, pools: bool = True) -> Stats:
        stats = super().stats(pools=pools)
        if self._kernel is None:
            return stats
        self._kernel.reap()
        listeners, left = dict(stats.listeners), stats.sessions_left
        for name in self._kernel.names():
            listeners[name] = self._listener_stats(self._kernel, name)
            left += listeners[name].sessions_active
        for name, spec in self._in_kernel.items():
            listeners.setdefault(name, ListenerStats(tuple(map(str, spec.bind))))
        packets = {verdict.name.lower(): count for verdict, count in self._kernel.verdicts().items()}
        return dataclasses.replace(
            stats,
            listeners=listeners,
            pools=self._with_kernel(stats.pools) if pools else {},
            sessions_left=left,
            kernel_packets=packets,
            kernel_devices=tuple(self._kernel.devices()),
        )

    def _listener_stats(self, kernel: KernelForwarder, name: str) -> ListenerStats:
        counts = kernel.listener(name)
        return ListenerStats(
            addresses=self.addresses(name) if name in self._in_kernel else (),
            sessions_active=kernel.flows_on(name),
            sessions_total=counts.flows,
            dropped={DropReason.DENIED: counts.denied} if counts.denied else {},
            in_kernel=_traffic(counts, answers=self._modes.get(name, "nat") == "nat"),
            devices=tuple(kernel.devices(name)),
        )

    def _with_kernel(self, pools: Mapping[str, PoolStats]) -> dict[str, PoolStats]:
        assert self._kernel is not None
        found = {name: dict(pool.backends) for name, pool in pools.items()}
        flows = self._kernel.flows_by_backend()
        answering = {one.pool for one in self._in_kernel.values() if _mode(one) == "nat"}
        for (pool, id_), counts in self._kernel.by_backend().items():
            if pool not in found:
                continue
            known = found[pool].get(id_, BackendStats())
            found[pool][id_] = dataclasses.replace(
                known,
                sessions_active=known.sessions_active + flows.get((pool, id_), 0),
                sessions_total=known.sessions_total + counts.flows,
                bytes_up=known.bytes_up + counts.bytes_up,
                bytes_down=known.bytes_down + counts.bytes_down,
                in_kernel=_traffic(counts, answers=pool in answering),
            )
        return {name: dataclasses.replace(pool, backends=found[name]) for name, pool in pools.items()}

    def close(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
        self._forget_kernel()
        super().close()


class SweepOfBoth:
    """`l4lb.model.sessions.Sweep` of the workers and of the flows in the kernel; None: one that cannot find any."""

    def __init__(self, sessions: Sweep | None, flows: FlowSweep | None, limit: int) -> None:
        self._sessions = sessions
        self._flows = flows
        self._limit = limit

    def over(self) -> bool:
        return all(one is None or one.over() for one in (self._sessions, self._flows))

    def matched(self) -> int:
        return self._sessions.matched() if self._sessions is not None else 0

    def flows_matched(self) -> int:
        return self._flows.matched() if self._flows is not None else 0

    def take_found(self) -> list[Session]:
        sessions = self._sessions.take_found() if self._sessions is not None else []
        flows = self._flows.take_found() if self._flows is not None else []
        return [*sessions, *flows][: self._limit]


def _native(listeners: Sequence[ListenerSpec]) -> list[ListenerSpec]:
    return [one for one in listeners if one.kernel is None]


def _traffic(counts: Counts, *, answers: bool) -> Traffic:
    """`answers` come by here by nat alone."""
    if not answers:
        return Traffic(counts.packets_up, None, counts.bytes_up, None)
    return Traffic(counts.packets_up, counts.packets_down, counts.bytes_up, counts.bytes_down)


def _mode(listener: ListenerSpec) -> str:
    return listener.kernel.mode if listener.kernel is not None else ""


def _require_forwarding(listeners: Sequence[ListenerSpec]) -> None:
    """The programs ask the kernel's routes, which are for hosts that forward; full NAT needs ports."""
    for one in listeners:
        if one.kernel is not None and one.kernel.source and (reason := forwarding_ports_problem()):
            raise ConfigError([Problem(f"pools.{one.pool}.source_address", f'"{one.kernel.source}": {reason}')])
        for address in one.bind:
            if isinstance(address, SocketAddress) and (reason := forwarding_problem(address.family)):
                raise ConfigError([Problem(f"listeners.{one.name}.engine", f'"kernel": {reason}')])
