"""Shapes that are parts of other answers: see `shapes.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic accepts that of typing only from Python 3.12 on

from l4lb.model.hooks import HookResult

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
class Readiness(TypedDict):
    """`draining`: it is not ready only because it, or the whole node, is being drained: it still serves the clients
    that it has."""

    ready: bool
    draining: bool
    reasons: list[str]
