"""What a snapshot says, in the units and numbers of the data plane: milliseconds, bytes, its enums. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from weakref import WeakValueDictionary

from l4lb._native import routes, snapshots, specs
from l4lb.model.snapshot import ListenerSpec, PoolSpec, ProxyAccept, ProxySend, RouteSpec, SourceLimits, TierSpec
from l4lb.net.listen.sockets import Assigned, sockaddr_bytes
from l4lb.net.ranges import packed_ranges
from l4lb.routing.routes import name_seed

_MS_MAX = 2**31 - 1  # 24 days: the workers compare 32-bit milliseconds

_known_ranges = WeakValueDictionary[int, routes.AddressRanges]()  # by the id of what they are made of


def milliseconds(seconds: float) -> int:
    """At least 1 ms for any time above 0; 0 stays "no limit"."""
    return min(max(round(seconds * 1000), 1), _MS_MAX) if seconds > 0 else 0


def backend_options(spec: ListenerSpec) -> specs.BackendOptions:
    keepalive = spec.keepalive
    return specs.BackendOptions(
        keepalive=keepalive is not None,
        keepalive_idle_s=max(round(keepalive.idle_s), 1) if keepalive else 0,
        keepalive_interval_s=max(round(keepalive.interval_s), 1) if keepalive else 0,
        keepalive_count=keepalive.count if keepalive else 0,
        user_timeout_ms=milliseconds(spec.user_timeout_s),
    )


def listener_limits(spec: ListenerSpec) -> specs.Limits:
    return specs.Limits(
        bandwidth=(round(spec.bandwidth_up), round(spec.bandwidth_down)),
        total_bandwidth=(round(spec.total_bandwidth_up), round(spec.total_bandwidth_down)),
        session_rate=round(spec.session_rate),
        session_burst_ns=_burst_ns(spec.session_burst, spec.session_rate),
        source=_source_limits(spec.per_source) if spec.per_source else None,
    )


def _burst_ns(burst: int, rate: float) -> int:
    return round(burst * 1e9 / rate) if rate else 0


def _source_limits(spec: SourceLimits) -> specs.SourceLimits:
    return specs.SourceLimits(
        sessions=spec.sessions,
        session_rate=round(spec.session_rate),
        session_burst_ns=_burst_ns(spec.session_burst, spec.session_rate),
        bandwidth=(round(spec.bandwidth_up), round(spec.bandwidth_down)),
        prefix_v4=spec.prefix_v4,
        prefix_v6=spec.prefix_v6,
        closes=spec.closes,
        dry_run=spec.dry_run,
    )


def listener_terms(spec: ListenerSpec) -> specs.Terms:
    return specs.Terms(
        idle_ms=milliseconds(spec.idle_timeout_s),
        half_close_ms=milliseconds(spec.half_close_timeout_s),
        duration_ms=milliseconds(spec.max_session_duration_s),
        half_close=spec.half_close,
        splice=snapshots.SPLICE_MODES[spec.splice],
        nodelay=spec.nodelay,
        deferred=spec.defer_accept_s > 0,
    )


def listener_fields(
    spec: ListenerSpec,
    live: snapshots.ListenerLive,
    pool: snapshots.NativePool,
    sockets: list[Assigned],
    *,
    draining: bool,
    routed: routes.Routes | None,
) -> specs.Listener:
    return specs.Listener(
        live=live,
        pool=pool,
        sockets=sockets,
        draining=draining,
        terms=listener_terms(spec),
        max_sessions=spec.max_sessions,
        requests=spec.udp_requests,
        responses=spec.udp_responses,
        one_way=spec.udp_one_way,
        trains=spec.trains,
        routes=routed,
        access=specs.Access(_ranges(spec.refused), _ranges(spec.banned), spec.deny_closes),
        proxy_accept=_proxy_accept(spec.accept),
    )


def route_fields(spec: RouteSpec, slots: Mapping[str, int]) -> specs.Route:
    return specs.Route(
        names=tuple(name.encode() for name in spec.sni if not name.startswith("*.")),
        suffixes=tuple(name[1:].encode() for name in spec.sni if name.startswith("*.")),
        alpn=_listed(spec.alpn),
        starts=_listed(spec.starts_with),
        by_source=spec.source is not None,
        sources=_ranges(spec.source or b""),
        targets=tuple((slots[pool], name_seed(pool), weight) for pool, weight in spec.targets),
    )


def _ranges(bounds: bytes) -> routes.AddressRanges:
    """One for all who have the same list: 100,000 ranges take 4 MB, and a millisecond to make."""
    known = _known_ranges.get(id(bounds))
    if known is None:
        known = _known_ranges[id(bounds)] = routes.AddressRanges(bounds)  # which keeps `bounds`, and so its id
    return known


def _listed(strings: Sequence[bytes]) -> bytes:
    return b"".join(bytes([len(one)]) + one for one in strings)


def pool_fields(spec: PoolSpec, live: snapshots.PoolLive, backends: list[specs.Backend]) -> specs.Pool:
    """`backends` are in the order of `spec.backends`."""
    first, *further = map(_tier, spec.tiers)
    return specs.Pool(
        live=live,
        backends=backends,
        selection=snapshots.SELECTIONS[spec.selection],
        first=first,
        further=further,
        bounded_load=spec.bounded_load,
        connect_timeout_ms=milliseconds(spec.connect_timeout_s) or _MS_MAX,
        connect_attempts=spec.connect_attempts,
        retry_pause_ms=milliseconds(spec.retry_pause_s),
        passive_failures=spec.passive_failures,
        queue_size=spec.queue_size,
        queue_timeout_ms=milliseconds(spec.queue_timeout_s) or _MS_MAX,
        source=sockaddr_bytes(spec.source) if spec.source else b"",
        transparent=spec.transparent,
        hash_seed=spec.hash_seed,
        hash_key=snapshots.HASH_KEYS[spec.hash_key],
        hash_prefix_v4=spec.hash_prefix_v4,
        hash_prefix_v6=spec.hash_prefix_v6,
        proxy_send=_proxy_send(spec.send),
    )


def _tier(spec: TierSpec) -> specs.Tier:
    return specs.Tier(array("I", spec.usable), _slots(spec.slots))


def _slots(slots: Sequence[int]) -> array[int]:
    """Tables as they are, not copied: they are large."""
    return slots if isinstance(slots, array) else array("I", slots)


def _proxy_accept(spec: ProxyAccept | None) -> specs.ProxyAccept:
    modes = snapshots.PROXY_MODES
    if spec is None:
        return specs.ProxyAccept(modes["off"], 0, _ranges(b""))
    mode = modes[f"v{spec.version}" if spec.version else "any"]
    return specs.ProxyAccept(mode, milliseconds(spec.timeout_s) or _MS_MAX, _ranges(packed_ranges(spec.trusted)))


def _proxy_send(spec: ProxySend | None) -> specs.ProxySend:
    if spec is None:
        return specs.ProxySend(0, 0, b"")
    tlvs = sum(bit for name, bit in snapshots.PROXY_SEND_TLVS.items() if getattr(spec, name))
    return specs.ProxySend(spec.version, tlvs, spec.own)
