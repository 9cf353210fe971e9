"""Counters as the forwarder reports them: plain data, read at one moment. Totals only ever grow."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from l4lb.model.hooks import NO_TAGS, HookResult, Tags
from l4lb.model.states import CloseReason, ConnectFailure, DropReason, PathError, Shortage, SourceLimit

# Why a PROXY header was refused, in the order of `_dataplane/base/enums.pxd:proxy_refusal_t`: what is wrong with it, in
# the words of `l4lb.proxy_protocol.Reason`, then that its sender is not trusted, or that it came too late.
PROXY_REFUSALS = (
    "bad_signature", "bad_protocol", "bad_address", "bad_port", "bad_line_end", "line_too_long", "bad_version",
    "bad_command", "bad_family", "bad_transport", "too_large", "too_short", "tlv_overrun", "bad_tlv", "crc_mismatch",
    "truncated", "untrusted", "timeout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many durations fell below each of `bounds_s`, and above the last: ``len(counts) == len(bounds_s) + 1``."""

    bounds_s: tuple[float, ...] = ()
    counts: tuple[int, ...] = (0,)
    sum_s: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(slots=True)
class Durations:
    """Counts durations; `histogram` is the current result. Used by one thread."""

    bounds_s: tuple[float, ...] = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
    sum_s: float = 0.0
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds_s) + 1)

    def add(self, duration_s: float) -> None:
        self.counts[bisect_left(self.bounds_s, duration_s)] += 1
        self.sum_s += duration_s

    @property
    def histogram(self) -> Histogram:
        return Histogram(self.bounds_s, tuple(self.counts), self.sum_s)


TIMES_EVERY_S = 15.0  # how often `l4lb.model.forwarder.Counting.mark_times` is called


class BackendTimes(NamedTuple):
    """What a backend has taken in all: `connect`, until it accepted a connect (TCP alone); `first_byte`, from when the
    session's first bytes were sent to it, or from the connect if it speaks before that, until its own first bytes were
    sent on; `session`, from the connect to the end. With UDP the first datagram counts as the connect."""

    connect: Histogram
    first_byte: Histogram
    session: Histogram


@dataclass(frozen=True, slots=True)
class Latency:
    """Of durations in the latest minute or so, in seconds; None when there was none. Quantiles are interpolated between
    the bounds of a histogram, powers of two from 2**-12 s to 2**10 s: what is above counts as the last."""

    count: int = 0
    mean_s: float | None = None
    p50_s: float | None = None
    p90_s: float | None = None
    p99_s: float | None = None


class BackendLatency(NamedTuple):
    """What a backend takes, as `BackendTimes` has it, in the latest minute or so."""

    connect: Latency = Latency()
    first_byte: Latency = Latency()
    session: Latency = Latency()


class _Sessions(Protocol):
    @property
    def sessions_active(self) -> int: ...
    @property
    def sessions_total(self) -> int: ...


def _sessions_text(counted: _Sessions) -> str:
    return f"{counted.sessions_active} of {counted.sessions_total} sessions active"


class Traffic(NamedTuple):
    """What programs in the kernel forwarded: packets, and their bytes as a whole. `down` None: answers do not come by
    here."""

    packets_up: int = 0
    packets_down: int | None = 0
    bytes_up: int = 0
    bytes_down: int | None = 0


class Device(NamedTuple):
    """By which device packets go through a program in the kernel, how, and what was tried before that."""

    name: str
    way: str
    tried: str


@dataclass(frozen=True, slots=True, repr=False)
class BackendStats:
    """`early_resets`: sessions that the backend reset before its first byte; `failed`: failed connects by cause; only
    UDP counts datagrams. `source_misfits`: attempts that were impossible, since the client's own address, from which to
    connect, has another family. `in_kernel`: what the kernel forwarded, which `bytes_up` and `bytes_down` contain."""

    sessions_active: int = 0
    sessions_total: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    early_resets: int = 0
    failed: dict[ConnectFailure, int] = field(default_factory=dict)
    datagrams_up: int = 0
    datagrams_down: int = 0
    source_misfits: int = 0
    path_errors: dict[PathError, int] = field(default_factory=dict)
    in_kernel: Traffic | None = None

    def __repr__(self) -> str:
        return f"<BackendStats {_sessions_text(self)}, {self.bytes_up} bytes up, {self.bytes_down} down>"

    @property
    def connect_failures(self) -> int:
        """The failed connects that say something about the backend: all except local shortages."""
        return sum(count for reason, count in self.failed.items() if reason is not ConnectFailure.RESOURCES)


@dataclass(frozen=True, slots=True)
class Failing:
    """A failing backend: `failures` is the number of failed connects and resets before the first byte in a row."""

    pool: str
    backend: str
    failures: int


@dataclass(frozen=True, slots=True, repr=False)
class PoolStats:
    """Sums over the pool's backends, with each backend's own by id."""

    backends: dict[str, BackendStats] = field(default_factory=dict)
    waiting: int = 0

    def __repr__(self) -> str:
        return f"<PoolStats {_sessions_text(self)}, {self.waiting} waiting; {len(self.backends)} backends>"

    @property
    def sessions_active(self) -> int:
        return sum(backend.sessions_active for backend in self.backends.values())

    @property
    def sessions_total(self) -> int:
        return sum(backend.sessions_total for backend in self.backends.values())

    @property
    def bytes_up(self) -> int:
        return sum(backend.bytes_up for backend in self.backends.values())

    @property
    def bytes_down(self) -> int:
        return sum(backend.bytes_down for backend in self.backends.values())

    @property
    def datagrams_up(self) -> int:
        return sum(backend.datagrams_up for backend in self.backends.values())

    @property
    def datagrams_down(self) -> int:
        return sum(backend.datagrams_down for backend in self.backends.values())

    @property
    def in_kernel(self) -> Traffic | None:
        """None: nothing of the pool is forwarded in the kernel."""
        found = [backend.in_kernel for backend in self.backends.values() if backend.in_kernel is not None]
        return traffic_sum(found) if found else None


def traffic_sum(counted: Sequence[Traffic]) -> Traffic:
    """Its answers are those of the ones of which answers come by here."""
    down = [one for one in counted if one.packets_down is not None]
    return Traffic(
        sum(one.packets_up for one in counted),
        sum(one.packets_down or 0 for one in down) if down else None,
        sum(one.bytes_up for one in counted),
        sum(one.bytes_down or 0 for one in down) if down else None,
    )


@dataclass(frozen=True, slots=True, repr=False)
class ListenerStats:
    """`closed` counts ended sessions by reason; ``sessions_total == sessions_active + sum(closed)`` at rest.

    `session_time` excludes clients that were refused at once; `dropped` counts lost datagrams by reason;
    `proxy_refused` counts refused PROXY headers by the reasons in PROXY_REFUSALS; `source_limited` how often a source
    was over a limit of `per_source`, in a dry run too; `hooked` counts sessions by what came of asking
    the listener's hook. `in_kernel`: None for one of the workers; `devices` are those of the one that the kernel
    forwards.
    """

    addresses: tuple[str, ...] = ()
    sessions_active: int = 0
    sessions_total: int = 0
    closed: dict[CloseReason, int] = field(default_factory=dict)
    session_time: Histogram = Histogram()
    dropped: dict[DropReason, int] = field(default_factory=dict)
    proxy_refused: dict[str, int] = field(default_factory=dict)
    source_limited: dict[SourceLimit, int] = field(default_factory=dict)
    hooked: dict[HookResult, int] = field(default_factory=dict)
    in_kernel: Traffic | None = None
    devices: tuple[Device, ...] = ()

    def __repr__(self) -> str:
        return f"<ListenerStats {' '.join(self.addresses) or 'no address'}: {_sessions_text(self)}>"


class SessionRecord(NamedTuple):
    """A session that has ended, or a client that was refused. Times are in seconds, `started_s` in monotonic time.

    `backend` is the last one that was tried, empty when none was; `connect_s` is 0 when none was connected; `local` is
    the address that the client connected to, ``address:port`` or ``unix:/path``; `sni` is the name in its TLS
    ClientHello, if that was read. `tagged`: its listener's hook gave it `tags`, which an engine does not know.
    """

    session_id: int
    listener: str
    pool: str
    backend: str
    client: str
    client_port: int
    local: str
    started_s: float
    connect_s: float
    duration_s: float
    bytes_up: int
    bytes_down: int
    attempts: int
    close_reason: CloseReason
    spliced: bool
    sni: str = ""
    tagged: bool = False
    tags: Tags = NO_TAGS


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """`busy_ns` is time spent outside epoll_wait since the start; `pipes` and `chunks` are those in use now;
    `handed_over` counts clients that it accepted for a less loaded worker; `connect_time` covers successful connects;
    `late_answers` counts datagrams for UDP sessions that had ended; `hook_time` covers hooks' answers that were in
    time."""

    sessions_active: int = 0
    pipes: int = 0
    chunks: int = 0
    busy_ns: int = 0
    turns: int = 0
    spliced_bytes: int = 0
    accept_pauses: int = 0
    handed_over: int = 0
    records_dropped: int = 0
    late_answers: int = 0
    connect_time: Histogram = Histogram()
    hook_time: Histogram = Histogram()


@dataclass(frozen=True, slots=True, repr=False)
class Stats:
    """All counters of a load balancer, by listener and by pool; totals since its start."""

    snapshot_version: int = 0
    listeners: dict[str, ListenerStats] = field(default_factory=dict)
    pools: dict[str, PoolStats] = field(default_factory=dict)
    workers: tuple[WorkerStats, ...] = ()
    sessions_left: int = 0  # in the whole process, including those of removed listeners
    max_sessions: int = 0  # limit of the whole process; 0: no limit
    limited_by: str = ""  # the source of that limit: max_sessions, file descriptors, local ports
    shortages: dict[Shortage, int] = field(default_factory=dict)  # how often each shortage prevented a connect
    kernel_packets: dict[str, int] = field(default_factory=dict)  # by what programs did with them; empty: none run
    kernel_devices: tuple[Device, ...] = ()

    def __repr__(self) -> str:
        names = f"listeners {', '.join(self.listeners) or 'none'}; pools {', '.join(self.pools) or 'none'}"
        return f"<Stats {_sessions_text(self)}; {names}>"

    @property
    def sessions_active(self) -> int:
        """Of all listeners, now."""
        return sum(listener.sessions_active for listener in self.listeners.values())

    @property
    def sessions_total(self) -> int:
        """Of all listeners, since the start."""
        return sum(listener.sessions_total for listener in self.listeners.values())
