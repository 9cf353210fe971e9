"""What this node knows of the fleet that it belongs to: written by `l4lb.control.fleet`, read by whoever reports."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class BackendCounts(NamedTuple):
    """How many backends of a pool can be used, and how many there are."""

    usable: int
    total: int


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What a node says of itself. `generation` is that of the configuration which it goes by, 0 for none of etcd's;
    `newest` that of the one in etcd, and `error` why it does not go by that. `digests` and `backends` are by pool;
    `started` is in seconds since 1970."""

    node: str
    pid: int
    version: str
    state: str
    generation: int
    newest: int
    error: str
    snapshot_version: int
    digests: Mapping[str, str]
    sessions_active: int
    backends: Mapping[str, BackendCounts]
    started: float
    draining: bool


class Share(NamedTuple):
    """Of so many `nodes`, the one with that `rank`, from 0 on. All parts of a number sum up to it unless there are more
    nodes than that: nobody's part is 0, which would mean that there is no limit."""

    nodes: int = 1
    rank: int = 0

    def of_count(self, limit: int) -> int:
        part, rest = divmod(limit, self.nodes)
        return max(1, part + (self.rank < rest)) if limit else 0

    def of_rate(self, limit: float) -> float:
        return limit / self.nodes


WHOLE = Share()


class Before(NamedTuple):
    """What a process hands to the one that takes over: see `FleetState`."""

    lease: int = 0
    draining: bool = False


@dataclass(slots=True)
class FleetState:
    """`generation` is that of the configuration which holds here, `newest` that of the one in etcd (0: there is none).

    Three things may be wrong, each with its reason: the newest configuration is `refused`, etcd does not answer
    (`away`), and this node is `unregistered`. `heard_at` is when etcd last answered, in seconds since 1970. `lease` is
    the number of the lease that the node's key has; 0: none. `nodes` are those that are alive, by name, and `broken`
    says by key what cannot be read of what others wrote. `share` is this node's part of what is divided. `started` is
    in seconds since 1970."""

    node: str
    prefix: str
    generation: int = 0
    newest: int = 0
    refused: str = ""
    away: str = "etcd has not answered yet"
    unregistered: str = ""
    heard_at: float | None = None
    draining: bool = False
    lease: int = 0
    started: float = field(default_factory=time.time)
    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    share: Share = WHOLE

    @property
    def connected(self) -> bool:
        return not self.away

    @property
    def error(self) -> str:
        """What is wrong, for a person."""
        away = self.away
        if away and self.heard_at is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.heard_at))
            away = f"etcd has not answered since {since} UTC: {away}"
        return "; ".join(filter(None, (self.refused, away or self.unregistered)))
