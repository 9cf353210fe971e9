"""What the control plane publishes: the whole routing state as immutable plain data.

The reconciler builds a `Snapshot`, a forwarder (see `l4lb.model.forwarder`) carries it out. Nothing here refers to a
live object, so the same snapshot can feed another forwarder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from l4lb.model.address import SocketAddress
from l4lb.model.states import Protocol


class Selection(StrEnum):
    """How a worker turns a pool into a choice. Policies are many, selections few.

    `CURSOR` takes the next slot of the table by a cursor that all workers share; `HASH` takes the slot of the client's
    hash; `LEAST_SESSIONS` compares the current sessions, divided by weight, of a tier's backends; `TWO_CHOICES` does so
    for two slots that the hash selects; `PEAK_EWMA` does the same, multiplied by the recent time of connects and
    answers; `FIRST` takes the first backend that has a place.
    """

    CURSOR = "cursor"
    HASH = "hash"
    LEAST_SESSIONS = "least_sessions"
    TWO_CHOICES = "two_choices"
    FIRST = "first"
    PEAK_EWMA = "peak_ewma"


class HashKey(StrEnum):
    """What is hashed, for all selections with a table except `CURSOR`; `RANDOM` is drawn for each session.

    `QUIC_CID`, for UDP: workers also remember which backend issued which connection id, and a client that comes from
    another address with one of those continues there.
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
    the current one, which may be a part of the configured one. `resumes`: its own clients may continue there in a new
    session, whether it is usable or not (`HashKey.QUIC_CID`)."""

    id: str
    address: SocketAddress
    weight: float = 1.0
    max_sessions: int = 0
    resumes: bool = True


@dataclass(frozen=True, slots=True)
class ProxyAccept:
    """The PROXY header with which a listener's clients begin. `version`: 1, 2, or 0 for either; `trusted` are the CIDRs
    that may send it, besides unix clients; `timeout_s`, for TCP, is from accept until it is complete."""

    version: int
    trusted: tuple[str, ...] = ()
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ProxySend:
    """The PROXY header that begins a pool's sessions. `own` are fixed TLVs; the others are made for each session:
    `authority` and `alpn` from the client's TLS or its header, `received`: all TLVs of its header."""

    version: int
    crc32c: bool = False
    unique_id: bool = False
    authority: bool = False
    alpn: bool = False
    received: bool = False
    own: bytes = b""


@dataclass(frozen=True, slots=True)
class TierSpec:
    """Backends that serve when those of earlier tiers can take no session; the policy chooses within a tier.

    `usable` indexes the pool's backends, in the order that FIRST uses; `slots` is the selection's table of indices
    into `usable` (empty for LEAST_SESSIONS and FIRST, or when none is usable). Tables are shared between snapshots and
    never change."""

    usable: tuple[int, ...]
    slots: Sequence[int]


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """`backends` are all of the pool, sorted by id; those that may get new sessions are in tiers. `usable` and `slots`
    are those of the first tier (see `TierSpec`), and empty when no backend is usable; `further` are the other tiers in
    order. `bounded_load`, for HASH: how far a backend's sessions may exceed the average of its tier (1.25: by a
    quarter); 0: no bound. `retry_pause_s`: the wait before an attempt when no other backend is left to try.
    `passive_failures`: after so many failures in a row a backend is reported; 0: never. `transparent`: connect from the
    client's own address instead of `source`."""

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
    """The key of listening sockets. With port 0 it includes the listener and the position in its bind."""

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
class SourceLimits:
    """Limits of each source of a listener: all clients whose addresses have the first `prefix_v4` or `prefix_v6` bits
    in common. 0 means no limit. `session_burst`: so many at once may exceed the rate; `closes`: TCP clients get a FIN
    when they are refused, not a reset; `dry_run`: nobody is."""

    sessions: int = 0
    session_rate: float = 0.0
    session_burst: int = 0
    bandwidth_up: float = 0.0
    bandwidth_down: float = 0.0
    prefix_v4: int = 32
    prefix_v6: int = 64
    closes: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """Clients that go to other pools than their listener's: those for whom every condition holds that is set.

    `sni`: names of servers in lower case, or ``*.`` and how they end; `alpn`: the client offers one of these;
    `starts_with`: its first bytes; `source`: address ranges as `l4lb.net.ranges` packs them, None: any. `targets` are
    pools with their weights; a client at one address always goes to the same one.
    """

    targets: tuple[tuple[str, float], ...]
    sni: tuple[str, ...] = ()
    alpn: tuple[bytes, ...] = ()
    starts_with: tuple[bytes, ...] = ()
    source: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class KernelTerms:
    """How a listener is forwarded in the kernel. `mode`: nat, dsr or tunnel; `attach`: auto, tcx, native or generic;
    `devices`: those by which its packets come in, none: all; `gue_port`: of backends, for tunnels of GUE, 0: IPIP;
    `slots`: of its pool's table, so that there is room for it; `source`: of nat, the address of this host that backends
    see, empty: they see the client's."""

    mode: str = "nat"
    attach: str = "auto"
    devices: tuple[str, ...] = ()
    gue_port: int = 0
    slots: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """`bind` are the addresses as configured and resolved. A forwarder opens their sockets once per `name` and bind
    and keeps them while later snapshots still name them. Times are in seconds, bandwidths in bytes per second, the
    session rate in sessions per second; 0 means no limit. `keepalive` and `user_timeout_s` apply to both sides.

    `refused` are the address ranges whose clients are refused, and `banned` those whose clients are at the moment, see
    `l4lb.net.access`; `deny_closes`: TCP clients get a FIN then, not a reset; `drops`: they get no answer
    at all.

    Without `half_close` the first FIN ends both sides. `udp_gro`: receive many datagrams of a client as one, where the
    kernel supports it; `udp_one_way`: no answers are expected. `kernel`: it is forwarded there, and nothing ends
    here. `hook_deadline_s`, of TCP: a hook is asked about each session, which goes on without its answer after that
    time, or with `hook_rejects` is refused; 0: there is no hook.

    A `suspended` listener keeps its addresses and refuses all clients there."""

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
    refused: bytes = field(default=b"", repr=False)
    banned: bytes = field(default=b"", repr=False)
    deny_closes: bool = False
    drops: bool = False
    accept: ProxyAccept | None = None
    splice: str = "auto"
    max_sessions: int = 0
    session_rate: float = 0.0
    session_burst: int = 1
    bandwidth_up: float = 0.0
    bandwidth_down: float = 0.0
    total_bandwidth_up: float = 0.0
    total_bandwidth_down: float = 0.0
    per_source: SourceLimits | None = None
    routes: tuple[RouteSpec, ...] = ()
    udp_requests: int = 0
    udp_responses: int = 0
    udp_one_way: bool = False
    udp_gro: bool = True
    kernel: KernelTerms | None = None
    hook_deadline_s: float = 0.0
    hook_rejects: bool = False
    suspended: bool = False

    @property
    def pools(self) -> tuple[str, ...]:
        """All that its clients may go to; its own first."""
        routed = (pool for route in self.routes for pool, _ in route.targets)
        return tuple(dict.fromkeys((self.pool, *routed)))

    @property
    def reads_quic(self) -> bool:
        """Whether a route depends on the ClientHello in a QUIC Initial."""
        return self.protocol is Protocol.UDP and any(route.sni or route.alpn for route in self.routes)

    @property
    def trains(self) -> bool:
        """Whether datagrams may travel as one: not where each of them is counted."""
        return self.udp_gro and not self.udp_requests and not self.udp_responses and self.accept is None


@dataclass(frozen=True, slots=True)
class Snapshot:
    version: int
    pools: tuple[PoolSpec, ...]
    listeners: tuple[ListenerSpec, ...]
