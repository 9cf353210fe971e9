"""What the control plane publishes: the whole routing state as immutable plain data.

The reconciler builds a `Snapshot`, a forwarder (see `l4lb.model.forwarder`) carries it out. Nothing here refers to a
live object, so the same snapshot can feed another forwarder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from l4lb.model.address import SocketAddress
from l4lb.model.states import Protocol


class Selection(StrEnum):
    """How a worker turns a pool into a choice. Policies are many, selections few.

    `CURSOR` takes the next slot of the table by a cursor that all workers share; `HASH` the slot that the client's
    hash names; `LEAST_SESSIONS` compares the live session counts, divided by weight, of a tier's backends, and
    `TWO_CHOICES` those of two slots that the hash names; `PEAK_EWMA` does too, each times the time that connects and
    answers lately took; `FIRST` takes the first backend that has a place.
    """

    CURSOR = "cursor"
    HASH = "hash"
    LEAST_SESSIONS = "least_sessions"
    TWO_CHOICES = "two_choices"
    FIRST = "first"
    PEAK_EWMA = "peak_ewma"


class HashKey(StrEnum):
    """What a session hashes to, for the selections with a table but `CURSOR`; `RANDOM` is drawn for each session.

    `QUIC_CID`, of UDP: workers also remember which backend gave which connection id, and a client that comes from
    another address with one of those goes on there.
    """

    SOURCE_IP = "source_ip"
    SOURCE_IP_PORT = "source_ip_port"
    DESTINATION = "destination"
    SESSION = "session"
    RANDOM = "random"
    QUIC_CID = "quic_cid"


class TableKind(StrEnum):
    """How a large table is built from ids and weights; `RING` takes points for weights."""

    MAGLEV = "maglev"
    RING = "ring"
    RENDEZVOUS = "rendezvous"


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """One backend. `id` is its identity across snapshots within its pool: counters and limits follow it. `weight` is
    what holds now, which may be a part of what is configured. `resumes`: what it has begun may go on there in a new
    session, usable or not (`HashKey.QUIC_CID`)."""

    id: str
    address: SocketAddress
    weight: float = 1.0
    max_sessions: int = 0
    resumes: bool = True


@dataclass(frozen=True, slots=True)
class ProxyAccept:
    """The PROXY header that a listener's clients begin with. `version`: 1, 2, or 0 for either; `trusted` are the CIDRs
    that it is taken from, beside unix clients; `timeout_s`, of TCP, is from accept until it is complete."""

    version: int
    trusted: tuple[str, ...] = ()
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ProxySend:
    """The PROXY header that a pool's sessions begin with. `own` are TLVs as they go out, the others are made for each
    session: `authority` and `alpn` of the client's TLS or of its header, `received`: all that its header had."""

    version: int
    crc32c: bool = False
    unique_id: bool = False
    authority: bool = False
    alpn: bool = False
    received: bool = False
    own: bytes = b""


@dataclass(frozen=True, slots=True)
class TierSpec:
    """Backends that serve when those of the tiers before can take no session; the policy chooses among them alone.

    `usable` indexes the pool's backends, in the order that FIRST goes by; `slots` is the selection's table of indices
    into `usable` (empty for LEAST_SESSIONS and FIRST, or when none is usable). Tables are shared between snapshots and
    never change."""

    usable: tuple[int, ...]
    slots: Sequence[int]


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """`backends` are all of the pool, sorted by id; those that may get new sessions are in tiers. `usable` and `slots`
    are of the first one (see `TierSpec`), and empty when no backend is usable; `further` are the others, in the order
    in which they are asked. `bounded_load`, of HASH: how far above the average of its tier a backend's sessions may get
    (1.25: by a quarter); 0: no bound.
    `retry_pause_s`: before an attempt when no other backend is left to try.
    `passive_failures`: after so many in a row a backend is reported as failing; 0: never. `transparent`: connect from
    the client's own address, instead of `source`."""

    name: str
    selection: Selection
    backends: tuple[BackendSpec, ...]
    usable: tuple[int, ...]
    slots: Sequence[int]
    bounded_load: float = 0.0
    connect_timeout_s: float = 5.0
    connect_attempts: int = 3
    retry_pause_s: float = 0.0
    passive_failures: int = 0
    queue_size: int = 0
    queue_timeout_s: float = 5.0
    source: SocketAddress | None = None
    transparent: bool = False
    send: ProxySend | None = None
    hash_seed: int = 0
    hash_key: HashKey = HashKey.SOURCE_IP
    hash_prefix_v4: int = 32
    hash_prefix_v6: int = 128
    further: tuple[TierSpec, ...] = ()

    @property
    def tiers(self) -> tuple[TierSpec, ...]:
        return (TierSpec(self.usable, self.slots), *self.further)


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening socket that the service manager passed under this name (sd_listen_fds(3))."""

    name: str

    def __str__(self) -> str:
        return f"fd:{self.name}"


@dataclass(frozen=True, slots=True)
class Place:
    """What listening sockets are known by. With port 0 the listener and the position in its bind belong to it."""

    protocol: Protocol
    address: SocketAddress | InheritedSocket
    listener: str = ""
    position: int = 0


@dataclass(frozen=True, slots=True)
class Keepalive:
    """TCP keepalive: probes after `idle_s` of silence, every `interval_s`, and reset after `count` unanswered ones."""

    idle_s: float = 60.0
    interval_s: float = 10.0
    count: int = 6


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """`bind` are the addresses as configured and resolved. A forwarder opens their sockets once per `name` and bind
    and keeps them while later snapshots still name them. Times are in seconds, bandwidths in bytes a second, the
    session rate in sessions a second; 0 means no limit. `keepalive` and `user_timeout_s` hold for both sides.

    Without `half_close` the first FIN ends both sides. `udp_gro`: take many datagrams of a client as one, where the
    kernel has them so; `udp_one_way`: no answers are expected."""

    name: str
    bind: tuple[SocketAddress | InheritedSocket, ...]
    pool: str
    protocol: Protocol = Protocol.TCP
    backlog: int = 4096
    nodelay: bool = True
    idle_timeout_s: float = 600.0
    half_close: bool = True
    half_close_timeout_s: float = 60.0
    max_session_duration_s: float = 0.0
    keepalive: Keepalive | None = None
    user_timeout_s: float = 0.0
    fast_open: int = 0
    defer_accept_s: float = 0.0
    transparent: bool = False
    accept: ProxyAccept | None = None
    splice: str = "auto"
    max_sessions: int = 0
    session_rate: float = 0.0
    session_burst: int = 1
    bandwidth_up: float = 0.0
    bandwidth_down: float = 0.0
    total_bandwidth_up: float = 0.0
    total_bandwidth_down: float = 0.0
    udp_requests: int = 0
    udp_responses: int = 0
    udp_one_way: bool = False
    udp_gro: bool = True

    @property
    def trains(self) -> bool:
        """Whether datagrams may travel as one: where each of them counts, they do not."""
        return self.udp_gro and not self.udp_requests and not self.udp_responses and self.accept is None


@dataclass(frozen=True, slots=True)
class Snapshot:
    version: int
    pools: tuple[PoolSpec, ...]
    listeners: tuple[ListenerSpec, ...]
