"""The state as the admin API shows it: plain dicts ready for JSON, in the shapes of `shapes.py`. Control thread
only."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Protocol

from l4lb.config.secrets import masked
from l4lb.control.changes.names import Names
from l4lb.control.health.monitor import Monitor
from l4lb.control.process.of_fleet import fleet_node, fleet_part
from l4lb.control.process.of_history import history_of
from l4lb.control.process.of_latency import Latencies
from l4lb.control.process.readiness import EVERYTHING, Scope, draining, failing
from l4lb.control.publishing.reconciler import Reconciler
from l4lb.control.reporting import part_shapes, shapes
from l4lb.control.reporting.explanation import explanation, listener_explanation
from l4lb.control.reporting.usage import ProcessUsage, Usage
from l4lb.control.sessions.draining import Draining
from l4lb.control.state.history import History
from l4lb.control.state.hooked import Hook, hook_of
from l4lb.control.state.state import (
    AgentState,
    BackendState,
    CheckResult,
    DiscoveryState,
    ListenerState,
    PoolState,
    State,
)
from l4lb.errors import ChangeError
from l4lb.model.forwarder import Counting
from l4lb.model.states import ProcessState
from l4lb.model.stats import BackendStats, ListenerStats, PoolStats, Stats, Traffic, WorkerStats
from l4lb.net.address import parse_endpoint
from l4lb.routing.routes import Facts
from l4lb.version import __version__


def _check(result: CheckResult) -> shapes.Check:
    return {
        "ok": result.ok,
        "step": result.step,
        "reason": result.reason,
        "latency_ms": round(result.latency_s * 1000, 3),
        "at": result.at,
    }


def _agent(agent: AgentState) -> part_shapes.Agent:
    return {
        "health": agent.health,
        "admin_state": agent.admin_state,
        "percent": agent.percent,
        "max_sessions": agent.max_sessions,
        "remark": agent.remark,
    }


def _resolved(state: BackendState, names: Names) -> shapes.Resolved | None:
    if not state.name:
        return None
    known = names.known(state.name)
    return {
        "address": "" if state.unresolved else str(state.address),
        "answer": [host for _, host in known.hosts],
        "error": known.error,
    }


def _traffic(counted: Traffic | None) -> part_shapes.Traffic | None:
    if counted is None:
        return None
    return {
        "packets_up": counted.packets_up,
        "packets_down": counted.packets_down,
        "bytes_up": counted.bytes_up,
        "bytes_down": counted.bytes_down,
    }


def _in_kernel(state: ListenerState, stats: ListenerStats) -> part_shapes.InKernel | None:
    traffic = _traffic(stats.in_kernel)
    if state.config.engine != "kernel" or traffic is None:
        return None
    devices: list[part_shapes.Device] = [
        {"device": one.name, "way": one.way, "tried": one.tried} for one in stats.devices
    ]
    return {"mode": state.config.mode, "devices": devices, "traffic": traffic}


def _backend(
    pool: PoolState, state: BackendState, stats: BackendStats, latencies: Latencies, detail: bool, names: Names
) -> shapes.Backend:
    """With `detail`, includes the latest checks."""
    passed_over = pool.passed_over.get(state.id, "")
    backend: shapes.Backend = {
        "id": state.id,
        "address": state.config.address,
        "resolved": _resolved(state, names),
        "weight": state.config.weight,
        "effective_weight": state.effective_weight,
        "max_sessions": state.max_sessions,
        "priority": state.config.priority,
        "zone": state.config.zone,
        "tags": state.config.tags,
        "admin_state": state.admin_state,
        "usable": not passed_over,
        "passed_over": passed_over,
        "standby": pool.standby.get(state.id, ""),
        "health": state.health,
        "health_since": state.since,
        "fleet_health": state.verdict,
        "last_check": None if state.last_check is None else _check(state.last_check),
        "history": [{"at": at, "health": health} for at, health in state.history],
        "ejected": state.ejected,
        "ejections": state.ejection.number if state.ejection else 0,
        "agent": _agent(state.agent),
        "sessions_active": stats.sessions_active,
        "sessions_total": stats.sessions_total,
        "bytes_up": stats.bytes_up,
        "bytes_down": stats.bytes_down,
        "datagrams_up": stats.datagrams_up,
        "datagrams_down": stats.datagrams_down,
        "connect_failures": stats.connect_failures,
        "failed": stats.failed,
        "early_resets": stats.early_resets,
        "source_misfits": stats.source_misfits,
        "path_errors": dict(stats.path_errors),
        "in_kernel": _traffic(stats.in_kernel),
        "latency": latencies.of(state.id),
        "slow": latencies.slow.get(state.id, ""),
    }
    if detail:
        backend["checks"] = [_check(result) for result in state.checks]
    return backend


def _discovery(known: DiscoveryState | None) -> part_shapes.Discovery | None:
    if known is None:
        return None
    age_s = None if known.answered_at is None else round(max(0.0, time.time() - known.answered_at), 3)
    return {
        "type": known.type,
        "answered_at": known.answered_at,
        "age_s": age_s,
        "error": known.error,
        "backends": known.found,
        "held": known.held,
        "answers": known.answers,
        "failures": known.failures,
        "changes": known.changes,
    }


def _pool(state: PoolState, stats: PoolStats, latencies: Latencies, names: Names, detail: bool = False) -> shapes.Pool:
    return {
        "name": state.name,
        "policy": state.config.policy,
        "discovery": _discovery(state.discovery),
        "table_digest": state.table_digest,
        "policy_error": state.policy_error,
        "usable": len(state.usable),
        "sessions_active": stats.sessions_active,
        "sessions_total": stats.sessions_total,
        "waiting": stats.waiting,
        "bytes_up": stats.bytes_up,
        "bytes_down": stats.bytes_down,
        "datagrams_up": stats.datagrams_up,
        "datagrams_down": stats.datagrams_down,
        "in_kernel": _traffic(stats.in_kernel),
        "backends": [
            _backend(state, backend, stats.backends.get(id_, BackendStats()), latencies, detail, names)
            for id_, backend in state.backends.items()
        ],
    }


def _hook(hook: Hook, stats: ListenerStats) -> part_shapes.Hook:
    return {
        "name": hook.name,
        "deadline_s": hook.deadline_s,
        "on_error": "reject" if hook.rejects else "accept",
        "sessions": dict(stats.hooked),
    }


def _listener(
    state: ListenerState,
    stats: ListenerStats,
    drain: shapes.Drain | None,
    refusing: str,
    max_sessions: int,
    hook: Hook | None,
) -> shapes.Listener:
    return {
        "name": state.name,
        "protocol": state.config.protocol,
        "engine": state.config.engine,
        "in_kernel": _in_kernel(state, stats),
        "pool": state.config.pool,
        "addresses": list(stats.addresses),
        "drain": drain,
        "refusing": refusing,
        "max_sessions": max_sessions,
        "sessions_active": stats.sessions_active,
        "sessions_total": stats.sessions_total,
        "closed": dict(stats.closed),
        "proxy_refused": dict(stats.proxy_refused),
        "source_limited": dict(stats.source_limited),
        "dropped": dict(stats.dropped),
        "hook": _hook(hook, stats) if hook is not None else None,
    }


def _worker(index: int, stats: WorkerStats) -> shapes.Worker:
    return {
        "worker": index,
        "sessions_active": stats.sessions_active,
        "busy_s": stats.busy_ns / 1e9,
        "spliced_bytes": stats.spliced_bytes,
        "accept_pauses": stats.accept_pauses,
        "handed_over": stats.handed_over,
        "late_answers": stats.late_answers,
    }


def _connect_time(workers: Sequence[WorkerStats]) -> part_shapes.Histogram:
    """The sum over all workers, whose histograms have the same bounds."""
    histograms = [worker.connect_time for worker in workers]
    return {
        "bounds_s": list(histograms[0].bounds_s) if histograms else [],
        "counts": [sum(counts) for counts in zip(*(one.counts for one in histograms), strict=True)],
        "sum_s": sum(one.sum_s for one in histograms),
    }


def _usage(usage: Usage | None) -> shapes.Usage | None:
    if usage is None:
        return None
    return {
        "cpu_s": round(usage.cpu_s, 3),
        "cpu_ratio": round(usage.cpu_ratio, 4),
        "memory_bytes": usage.memory_bytes,
        "threads": usage.threads,
    }


class Sampled(Protocol):
    """What is looked at once a second."""

    @property
    def usage(self) -> ProcessUsage: ...
    @property
    def history(self) -> History: ...


class Status:
    """Builds every answer from the current state and the forwarder's current counters."""

    def __init__(
        self,
        state: State,
        reconciler: Reconciler,
        monitor: Monitor,
        forwarder: Counting,
        draining: Draining,
        sources: Sampled,
        names: Names,
    ) -> None:
        self._state = state
        self._reconciler = reconciler
        self._monitor = monitor
        self._forwarder = forwarder
        self._draining = draining
        self._sources = sources
        self._names = names
        self.predecessor: shapes.Predecessor | None = None  # while it drains

    def stats(self) -> Stats:
        return self._forwarder.stats()

    def status(self) -> shapes.Status:
        stats = self.stats()
        return {
            "pid": os.getpid(),
            "version": __version__,
            "state": self._state.process,
            "drain": self._draining.of_process(),
            "predecessor": self.predecessor,
            "snapshot_version": self._reconciler.version,
            "uptime_s": round(time.monotonic() - self._state.started_at, 3),
            "sessions_active": stats.sessions_left,
            "usage": _usage(self._sources.usage.read()),
            "connect_time": _connect_time(stats.workers),
            "health_lag_s": round(max((checker.lag_s for checker in self._monitor.checkers), default=0.0), 4),
            "health_checks_skipped": sum(checker.skipped for checker in self._monitor.checkers),
            "bans": self._state.bans,
            "fleet": None if self._state.fleet is None else fleet_part(self._state),
            "config_file": self.config_file(),
            "listeners": self.listeners(stats),
            "pools": self.pools(stats),
            "workers": [_worker(index, worker) for index, worker in enumerate(stats.workers)],
        }

    def config_file(self) -> str:
        """The file that was read, or empty; what a fleet has in etcd is no file."""
        file = self._state.config.file
        return os.path.abspath(file) if file and self._state.fleet is None else ""

    def history(self, pool: str = "") -> part_shapes.History:
        """Of one pool, or of all together. KeyError for an unknown pool."""
        if pool and pool not in self._state.pools:
            raise KeyError(pool)
        return history_of(self._sources.history, pool, self._forwarder.stats(pools=False).workers)

    def listeners(self, stats: Stats | None = None) -> list[shapes.Listener]:
        counted, refusing = (stats or self.stats()).listeners, self._state.refusing_now
        found = []
        for name, one in self._state.listeners.items():
            stats_ = counted.get(name, ListenerStats())
            drain = self._draining.of_listener(name, stats_.sessions_active)
            hook = hook_of(self._state.hooks, name, one.config)
            max_sessions = self._state.share.of_count(one.config.max_sessions)
            found.append(_listener(one, stats_, drain, refusing.get(name, ""), max_sessions, hook))
        return found

    def pools(self, stats: Stats | None = None) -> list[shapes.Pool]:
        counted = (stats or self.stats()).pools
        return [
            _pool(one, counted.get(name, PoolStats()), self._latencies(name), self._names)
            for name, one in self._state.pools.items()
        ]

    def _latencies(self, pool: str) -> Latencies:
        return Latencies(self._forwarder.latency(pool))

    def pool(self, name: str) -> shapes.Pool | None:
        """One pool with all details of its backends; None for an unknown pool."""
        state = self._state.pools.get(name)
        if state is None:
            return None
        return _pool(state, self._forwarder.pool_stats(name), self._latencies(name), self._names, detail=True)

    def backend(self, pool: str, backend: str) -> shapes.Backend:
        """One backend with all details. KeyError for an unknown one."""
        state = self._state.pools[pool]
        counted = self._forwarder.pool_stats(pool).backends.get(backend, BackendStats())
        return _backend(state, state.backends[backend], counted, self._latencies(pool), True, self._names)

    def explain(self, name: str, source: str, to: str = "") -> shapes.Explanation:
        """Which backend of the pool a client at `source` gets, and why; `to` is where it connects to.

        KeyError for an unknown pool, ValueError for an invalid address.
        """
        pool = self._state.pools[name]
        stats = self._forwarder.pool_stats(name)
        said = self._reconciler.explain(pool, parse_endpoint(source), parse_endpoint(to) if to else None, stats)
        return explanation(pool, source, said, self._latencies(name).slow)

    def explain_listener(self, name: str, facts: Facts, source: str, to: str = "") -> shapes.ListenerExplanation:
        """By which route of the listener such a client goes, and to which backend. KeyError for an unknown listener,
        ValueError for an invalid address."""
        listener, refusing = self._state.listeners[name].config, self._state.refusing_now.get(name, "")
        return listener_explanation(name, listener, facts, lambda pool: self.explain(pool, source, to), refusing)

    def config(self) -> shapes.ConfigShape:
        return masked(self._state.config)

    def fleet(self) -> part_shapes.Fleet:
        """All nodes, as this one knows them. ChangeError for a process that belongs to no fleet."""
        known = self._state.fleet
        if known is None:
            raise ChangeError("not_found", "this process belongs to no fleet: its configuration is not from etcd")
        nodes = [fleet_node(node) for _, node in sorted(known.nodes.items())]
        return {**fleet_part(self._state), "heard_at": known.heard_at, "nodes": nodes, "broken": dict(known.broken)}

    def line(self) -> str:
        """The whole status in one line."""
        if self._state.process is ProcessState.DRAINING:
            return f"draining, {self.stats().sessions_left} sessions left"
        pools = self._state.pools.values()
        usable, backends = sum(len(pool.usable) for pool in pools), sum(len(pool.backends) for pool in pools)
        counts = f"{len(self._state.listeners)} listeners, {usable} of {backends} backends usable"
        return "; ".join([f"{self._state.process}, {counts}", *self.readiness()[:3]])

    def readiness(self, scope: Scope = EVERYTHING) -> list[str]:
        """Why this process is not ready for traffic; empty when it is."""
        return [*draining(self._state), *failing(self._state, scope)]

    def ready(self, scope: Scope) -> part_shapes.Readiness:
        drains, fails = draining(self._state), failing(self._state, scope)
        return {"ready": not drains and not fails, "draining": bool(drains) and not fails, "reasons": drains + fails}
