"""What native code reports: counters of one moment, sessions that a sweep found. Plain data.

The `.pyx` modules make these records. `_fastpath.EndedSession` is the one that is missing here: there is one for each
session, so it is a native class.
"""

from __future__ import annotations

from typing import NamedTuple


class WorkerCounters(NamedTuple):
    """`connect_time` and `hook_time` are the buckets of histograms, with the sum of what was counted in
    microseconds."""

    sessions_active: int
    pipes: int
    chunks: int
    busy_ns: int
    turns: int
    spliced_bytes: int
    accept_pauses: int
    handed_over: int
    records_dropped: int
    late_answers: int
    connect_time: list[int]
    connect_time_sum_us: int
    hook_time: list[int]
    hook_time_sum_us: int


class BackendCounters(NamedTuple):
    """`connect_failures` by reason, `path_errors` by kind, in the order of the native enums."""

    sessions_active: int
    sessions_total: int
    bytes_up: int
    bytes_down: int
    early_resets: int
    connect_failures: list[int]
    datagrams_up: int
    datagrams_down: int
    source_misfits: int
    path_errors: list[int]


class BackendTimeCounters(NamedTuple):
    """Buckets of histograms, each with the sum of what was counted in microseconds."""

    connect: list[int]
    connect_sum_us: int
    first_byte: list[int]
    first_byte_sum_us: int
    session: list[int]
    session_sum_us: int


class LatencyCounters(NamedTuple):
    """What a histogram has counted in some time; quantiles in seconds, 0 when that is nothing."""

    samples: int
    sum_us: int
    p50_s: float
    p90_s: float
    p99_s: float


class BackendLatencyCounters(NamedTuple):
    connect: LatencyCounters
    first_byte: LatencyCounters
    session: LatencyCounters


class ListenerCounters(NamedTuple):
    """`closed`, `proxy_refused` and `dropped` (datagrams) by reason, `source_limited` by limit, `hooked` by result, in
    the order of the native enums; `session_time` are the buckets of a histogram, with the sum of what was counted in
    microseconds."""

    sessions_active: int
    sessions_total: int
    closed: list[int]
    session_time: list[int]
    session_time_sum_us: int
    proxy_refused: list[int]
    dropped: list[int]
    source_limited: list[int]
    hooked: list[int]


class FoundSource(NamedTuple):
    """A source at one moment: the first `bits` of a packed address, at one listener. `session_rate` is new sessions a
    second of late, those that were refused included; `limited` counts what exceeded a limit, `sessions_total` and bytes
    count from when the source was first seen."""

    listener_id: int
    network: bytes
    bits: int
    scope_id: int
    sessions: int
    sessions_total: int
    session_rate: float
    limited: int
    bytes_up: int
    bytes_down: int


class FoundSession(NamedTuple):
    """A session at one moment. `backend_id` 0: it has none. Addresses are packed, empty for a unix socket, and of a
    link-local one the interface's number follows."""

    session_id: int
    listener_id: int
    pool_slot: int
    backend_id: int
    client: bytes
    client_port: int
    local: bytes
    local_port: int
    state: int
    started_ns: int
    idle_ms: int
    bytes_up: int
    bytes_down: int
    tagged: bool


class FoundFlow(NamedTuple):
    """A flow in the kernel. Addresses have 16 bytes, those of IPv4 v4-mapped; `number` is that of its service's counts,
    `backend` an index; `seen_ns` is monotonic time, at most a second before its last packet."""

    id: int
    client: bytes
    client_port: int
    service: bytes
    service_port: int
    number: int
    backend: int
    seen_ns: int


class MapShape(NamedTuple):
    """Of a map in the kernel: `type` is enum bpf_map_type of linux/bpf.h, sizes are in bytes, `flags` those that it was
    made with."""

    type: int
    key_size: int
    value_size: int
    entries: int
    flags: int
