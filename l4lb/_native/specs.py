"""What native code is given: routing state in the units and numbers of the data plane. Plain data.

`l4lb.engine.fields` makes these records, the `.pyx` modules read their attributes. Times are milliseconds, where 0
means no limit; ports are in host order.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from l4lb._native import routes, snapshots
    from l4lb.net.listen.sockets import Assigned


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Options of the sockets to backends."""

    keepalive: bool
    keepalive_idle_s: int
    keepalive_interval_s: int
    keepalive_count: int
    user_timeout_ms: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates in bytes a second, as (up, down), and new sessions a second; 0 means no limit."""

    bandwidth: tuple[int, int]
    total_bandwidth: tuple[int, int]
    session_rate: int
    session_burst_ns: int
    source: SourceLimits | None


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """Of each source: the first bits of a client's address. 0 means no limit; `bandwidth` is (up, down). `closes`: who
    is refused sees a FIN, not a reset."""

    sessions: int
    session_rate: int
    session_burst_ns: int
    bandwidth: tuple[int, int]
    prefix_v4: int
    prefix_v6: int
    closes: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """What a listener's sessions take along from it. `splice` is one of `snapshots.SPLICE_MODES`."""

    idle_ms: int
    half_close_ms: int
    duration_ms: int
    half_close: bool
    splice: int
    nodelay: bool
    deferred: bool


@dataclass(frozen=True, slots=True)
class Access:
    """`closes`: with a FIN, not with a reset."""

    refused: routes.AddressRanges
    banned: routes.AddressRanges
    closes: bool


class Route(NamedTuple):
    """`names` and `suffixes` (with the dot that they begin with) of servers, in lower case; `alpn` and `starts` are
    strings, each after its length; `sources` count when `by_source`; `targets`: of each pool its slot, the seed of its
    name and its weight."""

    names: tuple[bytes, ...]
    suffixes: tuple[bytes, ...]
    alpn: bytes
    starts: bytes
    by_source: bool
    sources: routes.AddressRanges
    targets: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True, slots=True)
class ProxyAccept:
    """`mode` is one of `snapshots.PROXY_MODES`."""

    mode: int
    timeout_ms: int
    trusted: routes.AddressRanges


@dataclass(frozen=True, slots=True)
class ProxySend:
    """`version` 0: no header. `tlvs` is a sum of `snapshots.PROXY_SEND_TLVS`; `own` are TLVs as they go out."""

    version: int
    tlvs: int
    own: bytes


class Backend(NamedTuple):
    """`address` is a struct sockaddr; its port 0 means the port that the client came to."""

    live: snapshots.BackendLive
    address: bytes
    weight: float
    max_sessions: int
    resumes: bool


class Tier(NamedTuple):
    """Arrays of "I": `usable` are indices into the pool's backends, `slots` indices into `usable`. The native pool
    keeps `slots` and points into it: it must not change."""

    usable: array[int]
    slots: array[int]


@dataclass(frozen=True, slots=True)
class Pool:
    """`selection` and `hash_key` are those of `snapshots.SELECTIONS` and `snapshots.HASH_KEYS`; `source` is a struct
    sockaddr, or empty."""

    live: snapshots.PoolLive
    backends: list[Backend]
    selection: int
    first: Tier
    further: list[Tier]
    bounded_load: float
    connect_timeout_ms: int
    connect_attempts: int
    retry_pause_ms: int
    passive_failures: int
    queue_size: int
    queue_timeout_ms: int
    source: bytes
    transparent: bool
    hash_seed: int
    hash_key: int
    hash_prefix_v4: int
    hash_prefix_v6: int
    proxy_send: ProxySend


@dataclass(frozen=True, slots=True)
class Listener:
    """`pool` is one of the snapshot's pools."""

    live: snapshots.ListenerLive
    pool: snapshots.NativePool
    sockets: list[Assigned]
    draining: bool
    terms: Terms
    max_sessions: int
    requests: int
    responses: int
    one_way: bool
    trains: bool
    access: Access
    routes: routes.Routes | None
    proxy_accept: ProxyAccept


@dataclass(frozen=True, slots=True)
class Filter:
    """Which sessions a sweep takes: all that is given must hold. `pool_slot` None: any; `backend_ids`, an array of "I",
    None: any; of the others 0 or nothing means any. `source` is a network's address, packed, with `source_bits`;
    `source_scope` an interface's number; `tagged`: only sessions with tags of a hook."""

    session_id: int = 0
    listener_id: int = 0
    pool_slot: int | None = None
    backend_ids: array[int] | None = None
    source: bytes = b""
    source_bits: int = 0
    source_port: int = 0
    source_scope: int = 0
    tagged: bool = False


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Which flows of a map in the kernel are wanted: all that is given must hold. `protocol`, the map's, is a part of
    flows' ids. `since` has a time (ns, monotonic) for each service's number: a flow without a packet since then is not
    there. `incarnations` has, for each index of a backend, that of the one whose flows are wanted; 0: none are.
    `prefix` and `mask` are the client's, 16 bytes; `port` and `id` 0: any."""

    protocol: int
    since: array[int]
    incarnations: array[int]
    prefix: bytes = bytes(16)
    mask: bytes = bytes(16)
    port: int = 0
    id: int = 0
