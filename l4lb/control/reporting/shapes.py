"""The shapes of the admin API's answers: `status.py` fills them (mypy checks that), and the OpenAPI document is made
from them. Times are seconds; those called `at` and `..._since` count from 1970.
"""

from __future__ import annotations

from typing import Any, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic accepts that of typing only from Python 3.12 on

from l4lb.control.reporting.part_shapes import (
    Agent,
    BackendLatency,
    Discovery,
    FleetPart,
    Histogram,
    Hook,
    InKernel,
    Traffic,
)
from l4lb.model.sessions import Engine
from l4lb.model.states import (
    AdminState,
    CloseReason,
    ConnectFailure,
    DropReason,
    Health,
    PathError,
    ProcessState,
    Protocol,
    SessionState,
    SourceLimit,
)

_EXACT = with_config(ConfigDict(extra="forbid"))


@_EXACT
class Check(TypedDict):
    """One health check: `step` is where it ended, `reason` why it failed."""

    ok: bool
    step: str
    reason: str
    latency_ms: float
    at: float


@_EXACT
class Ban(TypedDict):
    """`listener` null: all of them; `until` null: until it is removed."""

    cidr: str
    listener: str | None
    until: float | None
    reason: str
    since: float


@_EXACT
class Banned(Ban):
    """`sessions_ended`: those that the clients had."""

    sessions_ended: int


@_EXACT
class HealthChange(TypedDict):
    at: float
    health: Health


@_EXACT
class Resolved(TypedDict):
    """For a backend given by name: the address in use (empty: none), all addresses of the last answer, and why the
    latest look-up failed; the answer is stale then."""

    address: str
    answer: list[str]
    error: str


@_EXACT
class Backend(TypedDict):
    """`passed_over` says why it gets no sessions, `standby` why it gets them only after others; `failed` counts failed
    connects by cause; only the answer for one pool has `checks`. `in_kernel`: the part of its traffic that the kernel
    forwards, which all other numbers contain where they can; null: it has none. `latency` is null where only the
    kernel has sent it clients; `slow` says what takes much longer than in its pool."""

    id: str
    address: str
    resolved: Resolved | None
    weight: int
    effective_weight: float
    max_sessions: int
    priority: int
    zone: str
    tags: dict[str, str]
    admin_state: AdminState
    usable: bool
    passed_over: str
    standby: str
    health: Health
    health_since: float
    fleet_health: Health | None
    last_check: Check | None
    checks: NotRequired[list[Check]]
    history: list[HealthChange]
    ejected: bool
    ejections: int
    agent: Agent
    sessions_active: int
    sessions_total: int
    bytes_up: int
    bytes_down: int
    datagrams_up: int
    datagrams_down: int
    connect_failures: int
    failed: dict[ConnectFailure, int]
    early_resets: int
    source_misfits: int
    path_errors: dict[PathError, int]
    in_kernel: Traffic | None
    latency: BackendLatency | None
    slow: str


@_EXACT
class Removed(TypedDict):
    """A backend that was removed, and how many sessions it still has."""

    id: str
    address: str
    sessions_active: int


@_EXACT
class Pool(TypedDict):
    """`table_digest` is equal on every node with equal input; `waiting` counts sessions in the queue; `in_kernel` is as
    that of its backends."""

    name: str
    policy: str
    discovery: Discovery | None
    table_digest: str
    policy_error: str
    usable: int
    sessions_active: int
    sessions_total: int
    waiting: int
    bytes_up: int
    bytes_down: int
    datagrams_up: int
    datagrams_down: int
    in_kernel: Traffic | None
    backends: list[Backend]


@_EXACT
class Drain(TypedDict):
    """Progress of a drain. `over`: no session is left, or the deadline has passed, which cut `sessions_cut` of them."""

    timeout_s: float
    remaining_s: float
    sessions_active: int
    sessions_cut: int
    over: bool


@_EXACT
class Listener(TypedDict):
    """`addresses` have real port numbers, and are empty while it drains; `refusing` says why it refuses clients (see
    when_no_backend), and is empty while it accepts; `closed` counts sessions by close reason,
    `proxy_refused` refused PROXY headers by reason, `dropped` datagrams that were not forwarded, `source_limited` how
    often a source was over a limit of `per_source`, in a dry run too. `in_kernel` is null where `engine` is "proxy"."""

    name: str
    protocol: str
    engine: Engine
    in_kernel: InKernel | None
    pool: str
    addresses: list[str]
    drain: Drain | None
    refusing: str
    max_sessions: int
    sessions_active: int
    sessions_total: int
    closed: dict[CloseReason, int]
    proxy_refused: dict[str, int]
    source_limited: dict[SourceLimit, int]
    dropped: dict[DropReason, int]
    hook: Hook | None


@_EXACT
class Source(TypedDict):
    """Clients of one listener with the same address, or in the same network. `session_rate`: new sessions a second of
    late, those that were refused included; `limited`: how many were over a limit. Totals count from when the source was
    first seen: one without a session is forgotten after a while."""

    listener: str
    source: str
    sessions_active: int
    sessions_total: int
    session_rate: float
    limited: int
    bytes_up: int
    bytes_down: int


@_EXACT
class Session(TypedDict):
    """A current session. `backend` is empty while it has none; `local` is the address that the client connected to;
    `idle_s` counts from the last byte or change of state. Of a flow that the kernel forwards (`engine`) it counts from
    the client's last packet; nobody counts its age and bytes, which are null. `tags` are what a hook attached to it."""

    id: str
    engine: Engine
    listener: str
    protocol: Protocol
    pool: str
    backend: str
    client: str
    local: str
    state: SessionState
    age_s: float | None
    idle_s: float
    bytes_up: int | None
    bytes_down: int | None
    tags: dict[str, str]


@_EXACT
class Ended(TypedDict):
    """How many sessions were ended. `flows_left`: flows in the kernel that match too, and cannot be ended."""

    sessions: int
    flows_left: int


@_EXACT
class Counts(TypedDict):
    added: int
    removed: int
    changed: int


@_EXACT
class Reloaded(TypedDict):
    """Result of a reload. `needs_restart`: keys that apply from the next upgrade or start on."""

    pools: Counts
    backends: Counts
    listeners: Counts
    needs_restart: list[str]


@_EXACT
class Upgraded(TypedDict):
    """The new process. The one that sends this answer drains and exits."""

    pid: int


@_EXACT
class Resumed(TypedDict):
    listener: str


@_EXACT
class Worker(TypedDict):
    worker: int
    sessions_active: int
    busy_s: float
    spliced_bytes: int
    accept_pauses: int
    handed_over: int
    late_answers: int


@_EXACT
class Predecessor(TypedDict):
    """The process that this one replaced, while its sessions end."""

    pid: int
    sessions_active: int


@_EXACT
class Usage(TypedDict):
    """Usage of this process. `cpu_ratio` covers the last ten seconds, 1 is a whole CPU; `memory_bytes` are resident."""

    cpu_s: float
    cpu_ratio: float
    memory_bytes: int
    threads: int


@_EXACT
class Status(TypedDict):
    """The whole process. `connect_time` covers successful connects since the start; `usage` is null when no file
    descriptor was left to read it; `bans` is their number; `fleet` is null for a process that belongs to none;
    `config_file` is the path of the file that it has read, and empty when it has none of its own."""

    pid: int
    version: str
    state: ProcessState
    drain: Drain | None
    predecessor: Predecessor | None
    snapshot_version: int
    uptime_s: float
    sessions_active: int
    usage: Usage | None
    connect_time: Histogram
    health_lag_s: float
    health_checks_skipped: int
    bans: int
    fleet: FleetPart | None
    config_file: str
    listeners: list[Listener]
    pools: list[Pool]
    workers: list[Worker]


@_EXACT
class Candidate(TypedDict):
    """`tier`: such as "priority 1"; candidates of one tier come before those of the next. `slow` as a backend's."""

    id: str
    full: bool
    tier: str
    slow: str


@_EXACT
class Explanation(TypedDict):
    """Which backend a client gets, and why; `hash` and `slot` if the policy hashes. `tier`: the backend's tier, and
    `why` no earlier one; null when no usable backend has a place."""

    pool: str
    policy: str
    source: str
    chosen: str | None
    tier: str | None
    why: str
    how: str
    hash: str | None
    slot: int | None
    candidates: list[Candidate]
    passed_over: dict[str, str]
    table_digest: str


@_EXACT
class RouteExplanation(TypedDict):
    """A route that did not take the client: `number` from 1 on, the condition that does not hold."""

    number: int
    pools: list[str]
    condition: str


@_EXACT
class ListenerExplanation(TypedDict):
    """By which route a client goes: from 1 on, null when none takes it and it gets the listener's own pool; `passed`
    are those before it. `backend`: which backend of that pool it gets. `refusing`: why the listener refuses all clients
    for now, or empty."""

    listener: str
    refusing: str
    route: int | None
    conditions: dict[str, list[str]]
    split: dict[str, int]
    passed: list[RouteExplanation]
    backend: Explanation


@_EXACT
class ErrorDetails(TypedDict):
    """`code` is for programs, `message` for people, `path` names the part of the request that is wrong, or nothing."""

    code: str
    message: str
    path: str


@_EXACT
class Error(TypedDict):
    error: ErrorDetails


ConfigShape = dict[str, Any]  # as `l4lb schema` describes it, secrets masked
