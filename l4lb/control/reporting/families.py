"""The name, meaning and values of each metric. Pure: any thread.

The names are part of the public contract; those outside of it are marked. A new metric is one entry here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric

from l4lb.control.reporting.forms import Rows, counter, gauge, histogram, total
from l4lb.control.reporting.gathered import Gathered
from l4lb.control.reporting.usage import Usage
from l4lb.control.state.fleet import FleetState
from l4lb.model.states import CloseReason, ConnectFailure, PathError, Shortage
from l4lb.model.stats import Traffic
from l4lb.version import __version__

_LISTENER = ("listener",)
_POOL = ("pool",)
_BACKEND = ("pool", "backend")


def families(gathered: Gathered) -> Iterator[Metric]:
    yield from _of_listeners(gathered)
    yield from _of_backends(gathered)
    yield from _of_times(gathered)
    yield from _of_limits(gathered)
    yield from _of_traffic(gathered)
    yield from _of_kernel(gathered)
    yield from _of_checks(gathered)
    yield from _of_discovery(gathered)
    yield from _of_process(gathered)
    if gathered.fleet is not None:
        yield from _of_fleet(gathered.fleet, gathered.at)
    if gathered.usage is not None:
        yield from _of_usage(gathered.usage)


def _of_listeners(gathered: Gathered) -> Iterator[Metric]:
    listeners = gathered.listeners.items()
    yield gauge(
        "l4lb_sessions_active", "Sessions now", _LISTENER, (((name,), one.sessions_active) for name, one in listeners)
    )
    yield counter(
        "l4lb_sessions",
        "Sessions begun, and clients refused",
        _LISTENER,
        (((name,), one.sessions_total) for name, one in listeners),
    )
    yield counter(
        "l4lb_session_closed",
        "Sessions ended and clients refused, by why",
        ("listener", "reason"),
        (((name, reason), one.closed.get(reason, 0)) for name, one in listeners for reason in CloseReason),
    )
    yield histogram(
        "l4lb_session_seconds",
        "Time from accept to end, without clients that were refused at once",
        _LISTENER,
        (((name,), one.session_time) for name, one in listeners),
    )
    yield counter(
        "l4lb_dropped",
        "Datagrams that went nowhere, by why",
        ("listener", "reason"),
        (((name, reason), count) for name, one in listeners for reason, count in one.dropped.items()),
    )
    yield counter(
        "l4lb_proxy_headers_refused",
        "PROXY headers that were refused, by why",
        ("listener", "reason"),
        (((name, reason), count) for name, one in listeners for reason, count in one.proxy_refused.items()),
    )
    yield counter(
        "l4lb_source_limited",
        "New sessions, and turns or datagrams of sessions, over a limit of per_source, by which; in a dry run too",
        ("listener", "limit"),
        (((name, limit), count) for name, one in listeners for limit, count in one.source_limited.items()),
    )
    yield counter(
        "l4lb_hook_sessions",
        "Sessions about which a hook was to be asked, by what came of it",
        ("listener", "result"),
        (((name, result), count) for name, one in listeners for result, count in one.hooked.items()),
    )
    yield gauge(
        "l4lb_listener_refusing",
        "1 while it refuses clients for want of a usable backend",
        _LISTENER,
        (((name,), name in gathered.refusing) for name, _ in listeners),
    )
    yield gauge("l4lb_queue_length", "Clients that wait for a place at a backend", _POOL,
                (((name,), waiting) for name, waiting in gathered.queues.items()))  # fmt: skip


def _of_kernel(gathered: Gathered) -> Iterator[Metric]:
    """Not in the contract. Where backends answer clients directly, nobody here sees what goes down."""
    directions = ("direction",)
    listeners = [((name,), one.in_kernel) for name, one in gathered.listeners.items()]
    backends = [((one.pool, one.backend), one.stats.in_kernel) for one in gathered.backends]
    yield counter(
        "l4lb_packets",
        "Packets that the kernel forwarded; up is client to backend",
        _BACKEND + directions,
        _each_way(backends, "packets"),
    )
    yield counter(
        "l4lb_listener_packets",
        "Packets of listeners that the kernel forwarded; up is client to backend",
        _LISTENER + directions,
        _each_way(listeners, "packets"),
    )
    yield counter(
        "l4lb_listener_bytes",
        "Bytes of whole packets of listeners that the kernel forwarded; up is client to backend",
        _LISTENER + directions,
        _each_way(listeners, "bytes"),
    )
    yield counter(
        "l4lb_kernel_packets",
        "Packets that programs in the kernel saw, by what became of them",
        ("verdict",),
        (((verdict,), count) for verdict, count in gathered.stats.kernel_packets.items()),
    )


def _each_way(counted: Iterable[tuple[tuple[str, ...], Traffic | None]], unit: str) -> Rows:
    for place, traffic in counted:
        for direction in ("up", "down"):
            if (count := getattr(traffic, f"{unit}_{direction}", None)) is not None:
                yield (*place, direction), count


def _of_backends(gathered: Gathered) -> Iterator[Metric]:
    backends = [((one.pool, one.backend), one) for one in gathered.backends]
    yield gauge(
        "l4lb_backend_sessions_active",
        "Sessions now, those that are being connected included",
        _BACKEND,
        ((place, one.stats.sessions_active) for place, one in backends),
    )
    yield counter(
        "l4lb_backend_sessions",
        "Sessions connected",
        _BACKEND,
        ((place, one.stats.sessions_total) for place, one in backends),
    )
    yield gauge(
        "l4lb_backend_up",
        "1 while its health, and what its agent says, is up",
        _BACKEND,
        ((place, one.up) for place, one in backends),
    )
    yield gauge(
        "l4lb_backend_weight",
        "Its weight as it holds now: a part of its own during slow_start",
        _BACKEND,
        ((place, one.weight) for place, one in backends),
    )
    # Not in the contract: up, ready, not ejected; also 1 for a backup that waits, by priority or zone.
    yield gauge(
        "l4lb_backend_usable",
        "1 while it may get new sessions",
        _BACKEND,
        ((place, one.usable) for place, one in backends),
    )
    yield counter(
        "l4lb_backend_connect_failures",
        "Connects that failed, by why",
        (*_BACKEND, "reason"),
        (((*place, reason), one.stats.failed.get(reason, 0)) for place, one in backends for reason in ConnectFailure),
    )
    # Not in the contract: of UDP.
    yield counter(
        "l4lb_backend_path_errors",
        "What ICMP or this host's routes said of datagrams to it, by kind",
        (*_BACKEND, "reason"),
        (((*place, kind), one.stats.path_errors.get(kind, 0)) for place, one in backends for kind in PathError),
    )
    yield counter("l4lb_backend_early_resets", "Sessions that it reset before its first byte", _BACKEND,
                  ((place, one.stats.early_resets) for place, one in backends))  # fmt: skip


def _of_times(gathered: Gathered) -> Iterator[Metric]:
    """`BackendTimes` says what they mean. First byte and session are not in the contract."""
    for name, meaning, field in (
        ("l4lb_backend_connect_seconds", "Time until it accepted a connect", "connect"),
        ("l4lb_backend_first_byte_seconds", "Time from the first bytes sent to it to its own first ones", "first_byte"),
        ("l4lb_backend_session_seconds", "Time from the connect to the end of a session", "session"),
    ):
        rows = (((one.pool, one.backend), getattr(one.times, field)) for one in gathered.backends if one.times)
        yield histogram(name, meaning, _BACKEND, rows)


def _of_limits(gathered: Gathered) -> Iterator[Metric]:
    """Not in the contract. Beside what they limit; where there is no limit there is no value."""
    limits = gathered.limits
    yield gauge("l4lb_max_sessions", "Most sessions of the process", (), _limit([((), gathered.stats.max_sessions)]))
    yield gauge("l4lb_listener_max_sessions", "Most sessions of a listener", _LISTENER, _limit(
        ((name,), one.max_sessions) for name, one in limits.items()))  # fmt: skip
    yield gauge("l4lb_listener_session_rate", "Most new sessions a second of a listener", _LISTENER, _limit(
        ((name,), one.session_rate) for name, one in limits.items()))  # fmt: skip
    yield gauge("l4lb_queue_size", "Most clients that may wait for a place at a backend", _POOL,
                (((name,), size) for name, size in gathered.queue_sizes.items()))  # fmt: skip
    yield gauge("l4lb_backend_max_sessions", "Most sessions of a backend", _BACKEND, _limit(
        ((one.pool, one.backend), one.max_sessions) for one in gathered.backends))  # fmt: skip


def _limit(rows: Rows) -> Rows:
    """0 is no limit."""
    return ((place, limit) for place, limit in rows if limit)


def _of_traffic(gathered: Gathered) -> Iterator[Metric]:
    workers = gathered.stats.workers
    directions = (*_BACKEND, "direction")
    yield counter(
        "l4lb_bytes",
        "Payload of sessions, and whole packets that the kernel forwarded; up is client to backend",
        directions,
        _both(gathered, "bytes_up", "bytes_down"),
    )
    yield counter(
        "l4lb_datagrams",
        "Datagrams of UDP sessions; up is client to backend",
        directions,
        _both(gathered, "datagrams_up", "datagrams_down"),
    )
    yield counter(
        "l4lb_spliced_bytes",
        "Payload that was moved within the kernel",
        (),
        [((), sum(worker.spliced_bytes for worker in workers))],
    )
    yield histogram("l4lb_hook_seconds", "Time until a hook answered about a session, in time", (),
                    [((), total([worker.hook_time for worker in workers]))])  # fmt: skip


def _both(gathered: Gathered, up: str, down: str) -> Iterator[tuple[tuple[str, ...], float]]:
    for one in gathered.backends:
        yield (one.pool, one.backend, "up"), getattr(one.stats, up)
        yield (one.pool, one.backend, "down"), getattr(one.stats, down)


def _of_checks(gathered: Gathered) -> Iterator[Metric]:
    yield counter(
        "l4lb_health_checks",
        "Health checks of a backend, by result",
        (*_BACKEND, "result"),
        (
            ((one.pool, one.backend, result), count)
            for one in gathered.backends
            for result, count in zip(("success", "failure"), one.checks, strict=True)
        ),
    )
    yield histogram("l4lb_health_check_seconds", "Time that a health check took", (), [((), gathered.check_time)])
    yield gauge(
        "l4lb_health_lag_seconds",
        "How late this process is with its latest checks, at worst",
        (),
        [((), gathered.health_lag_s)],
    )
    # Not in the contract.
    yield counter("l4lb_health_checks_skipped", "Checks not made for want of file descriptors or memory", (),
                  [((), gathered.checks_skipped)])  # fmt: skip


def _of_discovery(gathered: Gathered) -> Iterator[Metric]:
    """Not in the contract."""
    labels = ("pool", "type")
    known = [((pool, one.type), one) for pool, one in gathered.discovery.items()]
    answered = [(place, gathered.at - one.answered_at) for place, one in known if one.answered_at is not None]
    yield gauge("l4lb_discovery_up", "1 while the source answers, and what it says can be used", labels,
                ((place, not one.error) for place, one in known))  # fmt: skip
    yield gauge("l4lb_discovery_age_seconds", "Time since the source last answered", labels, answered)
    yield gauge(
        "l4lb_discovery_backends",
        "Backends that the source named last, and those that are held although it no longer names them",
        (*labels, "kind"),
        (((*place, kind), count) for place, one in known for kind, count in (("found", one.found), ("held", one.held))),
    )
    yield counter(
        "l4lb_discovery_answers",
        "Times that the source was looked at, by result",
        (*labels, "result"),
        (
            ((*place, result), count)
            for place, one in known
            for result, count in (("success", one.answers), ("failure", one.failures))
        ),
    )
    yield counter("l4lb_discovery_changes", "Times that backends changed by what the source said", labels,
                  ((place, one.changes) for place, one in known))  # fmt: skip


def _of_fleet(known: FleetState, now: float) -> Iterator[Metric]:
    """Not in the contract."""
    heard = [] if known.heard_at is None else [((), now - known.heard_at)]
    yield gauge("l4lb_fleet_nodes", "Nodes of the fleet that are alive", (), [((), len(known.nodes))])
    yield gauge("l4lb_fleet_generation", "Generation of the configuration in use", (), [((), known.generation)])
    yield gauge("l4lb_fleet_newest_generation", "That of the configuration in etcd", (), [((), known.newest)])
    yield gauge("l4lb_fleet_connected", "1 while etcd answers", (), [((), known.connected)])
    yield gauge("l4lb_fleet_contact_age_seconds", "Time since etcd last answered", (), heard)
    yield gauge("l4lb_fleet_draining", "1 while an operator drains this node", (), [((), known.draining)])


def _of_process(gathered: Gathered) -> Iterator[Metric]:
    workers = [((str(index),), worker) for index, worker in enumerate(gathered.stats.workers)]
    yield gauge(
        "l4lb_worker_busy_ratio",
        "Part of the last 10 s that a worker was busy",
        ("worker",),
        (((str(index),), ratio) for index, ratio in enumerate(gathered.busy)),
    )
    yield gauge("l4lb_snapshot_version", "Version of the routing state in use", (), [((), gathered.snapshot_version)])
    yield gauge("l4lb_bans", "Bans that hold", (), [((), gathered.bans)])
    yield counter(
        "l4lb_config_reloads",
        "Reloads of the configuration, by result",
        ("result",),
        [(("success",), gathered.reloads[0]), (("failure",), gathered.reloads[1])],
    )
    # Not in the contract, from here on.
    yield counter(
        "l4lb_worker_busy_seconds",
        "Time that a worker was busy",
        ("worker",),
        ((label, worker.busy_ns / 1e9) for label, worker in workers),
    )
    yield counter(
        "l4lb_accept_pauses",
        "Times that no client was accepted for want of descriptors or memory",
        ("worker",),
        ((label, worker.accept_pauses) for label, worker in workers),
    )
    yield counter(
        "l4lb_shortages",
        "Times that a backend could not be asked for want of something of this host's own",
        ("kind",),
        (((kind,), gathered.stats.shortages.get(kind, 0)) for kind in Shortage),
    )
    lost = (gathered.access_log.unwritten, gathered.access_log.untaken)
    yield counter("l4lb_access_log_lines", "Lines written to the access log", (), [((), gathered.access_log.lines)])
    yield counter(
        "l4lb_access_log_dropped",
        "Lines lost: nobody took them, or too many sessions ended at once",
        ("reason",),
        [(("write",), lost[0]), (("ring",), lost[1])],
    )
    if (records := gathered.hook_records) is not None:
        yield counter("l4lb_hook_records", "Records of ended sessions for hooks, by what came of it", ("result",),
                      (((result,), count) for result, count in records._asdict().items()))  # fmt: skip
    yield gauge("l4lb_draining", "1 while the process drains", (), [((), gathered.draining)])
    yield gauge("l4lb_info", "What runs here", ("version",), [((__version__,), 1)])


def _of_usage(usage: Usage) -> Iterator[Metric]:
    """Under the names that Prometheus' client libraries use; the threads are not in the contract."""
    for name, meaning, value in (
        ("process_virtual_memory_bytes", "Virtual memory size", usage.virtual_bytes),
        ("process_resident_memory_bytes", "Resident memory size", usage.memory_bytes),
        ("process_start_time_seconds", "Start of the process, in seconds since 1970", usage.started_at),
        ("process_threads", "Threads of the process, workers included", usage.threads),
    ):
        yield gauge(name, meaning, (), [((), value)])
    yield counter("process_cpu_seconds", "Processor time, of user and system", (), [((), usage.cpu_s)])
