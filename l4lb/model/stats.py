"""Counters as the forwarder reports them: plain data, read at one moment. Totals only ever grow."""

from __future__ import annotations

from dataclasses import dataclass, field

from l4lb.model.states import CloseReason

# Why a PROXY header was refused, in the order of `_dataplane/proxy_types.pxd:proxy_refusal_t`: what is wrong with it,
# in the words of `l4lb.proxy_protocol.Reason`, then that it came from others than the trusted ones, or too late.
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


@dataclass(frozen=True, slots=True)
class BackendStats:
    """`early_resets`: sessions that the backend reset before its first byte. `source_misfits`: attempts that could not
    be made, since the client's own address, from which to connect, is of another family."""

    sessions_active: int = 0
    sessions_total: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    connect_failures: int = 0
    early_resets: int = 0
    source_misfits: int = 0


@dataclass(frozen=True, slots=True)
class Failing:
    """A backend that fails: `failures` in a row, connects and resets before the first byte."""

    pool: str
    backend: str
    failures: int


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Sums over the pool's backends, with each backend's own by id."""

    backends: dict[str, BackendStats] = field(default_factory=dict)
    waiting: int = 0

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


@dataclass(frozen=True, slots=True)
class ListenerStats:
    """`closed` counts ended sessions by reason; ``sessions_total == sessions_active + sum(closed)`` at rest.
    `proxy_refused` counts refused PROXY headers, by what PROXY_REFUSALS says."""

    addresses: tuple[str, ...] = ()
    sessions_active: int = 0
    sessions_total: int = 0
    closed: dict[CloseReason, int] = field(default_factory=dict)
    session_time: Histogram = Histogram()
    proxy_refused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session that has ended. Times are seconds of the monotonic clock; `backend` is empty when it had none."""

    session_id: int
    listener: str
    pool: str
    backend: str
    client: str
    client_port: int
    local_port: int
    started_s: float
    connect_s: float
    duration_s: float
    bytes_up: int
    bytes_down: int
    attempts: int
    close_reason: CloseReason
    spliced: bool


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """`busy_ns` is time spent outside epoll_wait since the start; `pipes` and `chunks` are those in use right now;
    `handed_over` are clients that it accepted for a less loaded worker; `connect_time` is of backends that answered."""

    sessions_active: int = 0
    pipes: int = 0
    chunks: int = 0
    busy_ns: int = 0
    turns: int = 0
    spliced_bytes: int = 0
    accept_pauses: int = 0
    handed_over: int = 0
    records_dropped: int = 0
    connect_time: Histogram = Histogram()


@dataclass(frozen=True, slots=True)
class Stats:
    snapshot_version: int = 0
    listeners: dict[str, ListenerStats] = field(default_factory=dict)
    pools: dict[str, PoolStats] = field(default_factory=dict)
    workers: tuple[WorkerStats, ...] = ()
    sessions_left: int = 0  # in the whole process, those of removed listeners included

    @property
    def sessions_active(self) -> int:
        return sum(listener.sessions_active for listener in self.listeners.values())

    @property
    def sessions_total(self) -> int:
        return sum(listener.sessions_total for listener in self.listeners.values())
