"""Shapes that are parts of other answers: see `shapes.py`."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic accepts that of typing only from Python 3.12 on

from l4lb.model.hooks import HookResult
from l4lb.model.states import AdminState, Health

_EXACT = with_config(ConfigDict(extra="forbid"))


@_EXACT
class Histogram(TypedDict):
    """How many durations fell below each of `bounds_s`, and in a last entry above them; `sum_s` is their sum."""

    bounds_s: list[float]
    counts: list[int]
    sum_s: float


@_EXACT
class Discovery(TypedDict):
    """A pool's source: `answered_at` null: it has not answered yet; `age_s` since then; `error`: why it does not answer
    now, or cannot be used, so that what it answered before holds; `backends` are those that it named last, `held` those
    that stay although it no longer names them."""

    type: str
    answered_at: float | None
    age_s: float | None
    error: str
    backends: int
    held: int
    answers: int
    failures: int
    changes: int


@_EXACT
class Hook(TypedDict):
    """The hook that is asked about a listener's sessions; `sessions` by what came of it."""

    name: str
    deadline_s: float
    on_error: Literal["accept", "reject"]
    sessions: dict[HookResult, int]


@_EXACT
class FleetShare(TypedDict):
    """Of limits that are divided by `nodes`, this one has the part with that `rank`, from 1 on."""

    nodes: int
    rank: int


@_EXACT
class FleetPart(TypedDict):
    """This node in its fleet. `generation` is that of the configuration which it goes by, 0 for none of etcd's, and
    `newest` that of the one in etcd; `error`: what is wrong, be it with that or with etcd. `draining`: an operator
    drains this node. `share`: this node's part of the limits, null where each node has them whole."""

    node: str
    prefix: str
    generation: int
    newest: int
    connected: bool
    error: str
    draining: bool
    share: FleetShare | None


@_EXACT
class Usable(TypedDict):
    """Backends of a pool: how many can be used, of how many."""

    usable: int
    total: int


@_EXACT
class FleetNode(TypedDict):
    """What a node says of itself. `error`: why it does not go by the newest configuration; `digests` and `backends` are
    by pool; `started` is in seconds since 1970."""

    node: str
    pid: int
    version: str
    state: str
    generation: int
    newest: int
    error: str
    snapshot_version: int
    digests: dict[str, str]
    sessions_active: int
    backends: dict[str, Usable]
    started: float
    draining: bool


@_EXACT
class Fleet(FleetPart):
    """`nodes` are those that are alive, as this node knows them; `heard_at`: when etcd last answered, null if it never
    did; `broken` says by key what cannot be read of what is in etcd."""

    heard_at: float | None
    nodes: list[FleetNode]
    broken: dict[str, str]


@_EXACT
class Alive(TypedDict):
    status: Literal["alive"]


@_EXACT
class WhoAmI(TypedDict):
    """`by`: as events would name it; empty for a client at a unix socket that is gone already."""

    by: str
    read_only: bool


@_EXACT
class ConfigDifference(TypedDict):
    """`path`: the key; `runs` and `file`: its values, without the one that there is not."""

    path: str
    runs: NotRequired[Any]
    file: NotRequired[Any]


@_EXACT
class ConfigDifferences(TypedDict):
    """How what a reload would take now differs from what runs. `problems`: why it could not be read; a reload would be
    refused for them. Of `total` differences the first thousand are listed."""

    file: str
    problems: list[str]
    total: int
    differences: list[ConfigDifference]


@_EXACT
class History(TypedDict):
    """The last five minutes of one pool, or (`pool` empty) of all together: a sample each `interval_s`, the oldest
    first, in columns of the same length; `at` counts from 1970. Totals are since the start; null: there was no such
    pool yet. `connects` counts successful connects of the whole process by `connect_bounds_s`, as `connect_time` of the
    status does."""

    pool: str
    interval_s: float
    at: list[float]
    uptime_s: list[float]
    sessions_active: list[int | None]
    sessions_total: list[int | None]
    bytes_up: list[int | None]
    bytes_down: list[int | None]
    connect_bounds_s: list[float]
    connects: list[list[int]]


@_EXACT
class Readiness(TypedDict):
    """`draining`: it is not ready only because it, or the whole node, is being drained: it still serves the clients
    that it has."""

    ready: bool
    draining: bool
    reasons: list[str]


@_EXACT
class Traffic(TypedDict):
    """What the kernel forwarded: packets, and their bytes as a whole. `packets_down` and `bytes_down` are null where
    backends answer clients directly, so that nobody here sees it. By tcx, what counts as one packet may be several of a
    connection that the kernel has joined."""

    packets_up: int
    packets_down: int | None
    bytes_up: int
    bytes_down: int | None


@_EXACT
class Device(TypedDict):
    """By which device packets come to the programs in the kernel, `way` (tcx, native or generic), and what was tried
    before that."""

    device: str
    way: str
    tried: str


@_EXACT
class InKernel(TypedDict):
    """How the kernel forwards a listener's packets: nat, dsr or tunnel, and by which devices it sees them."""

    mode: str
    devices: list[Device]
    traffic: Traffic


@_EXACT
class Latency(TypedDict):
    """Of the latest minute or so, in seconds; null when there was nothing. Quantiles are interpolated between powers of
    two, and at most 1024."""

    count: int
    mean_s: float | None
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None


@_EXACT
class BackendLatency(TypedDict):
    """`connect`: until it accepted a connect (TCP alone); `first_byte`: from when the session's first bytes were sent
    to it, or from the connect if it speaks before that, until its own first bytes were sent on; `session`: from the
    connect (UDP: from the first datagram) to the end, of sessions that have ended."""

    connect: Latency
    first_byte: Latency
    session: Latency


@_EXACT
class Agent(TypedDict):
    """What the backend's agent reported. `max_sessions` null: nothing."""

    health: Health
    admin_state: AdminState
    percent: int
    max_sessions: int | None
    remark: str
