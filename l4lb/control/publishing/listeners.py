"""From a listener's configuration to its part of a snapshot, and to its sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from l4lb.config import Config, Listener, Pool
from l4lb.config.options.listener import gue_port_of
from l4lb.config.options.patterns import parse_bytes
from l4lb.control.state.bans import EVERYWHERE
from l4lb.control.state.fleet import WHOLE, Share
from l4lb.control.state.state import ListenerState, State
from l4lb.errors import ConfigError
from l4lb.model.forwarder import Forwarding
from l4lb.model.snapshot import Keepalive, KernelTerms, ListenerSpec, ProxyAccept, RouteSpec, SourceLimits

# A long round trip; clients that come meanwhile repeat their SYN after 1 s (RFC 6298) and are refused.
_HANDSHAKE_S = 0.2


def _keepalive(config: Listener) -> Keepalive | None:
    keepalive = config.keepalive
    return Keepalive(keepalive.idle, keepalive.interval, keepalive.count) if keepalive else None


def _accept(config: Listener) -> ProxyAccept | None:
    versions = {"v1": 1, "v2": 2, "any": 0}
    if config.accept_proxy == "off":
        return None
    return ProxyAccept(versions[config.accept_proxy], tuple(config.proxy_trusted), config.proxy_timeout)


def _burst(config: Listener, share: Share) -> int:
    return share.of_count(config.session_burst) or max(1, round(share.of_rate(config.session_rate) / 10))


def _per_source(config: Listener) -> SourceLimits | None:
    """Of a source's rate a second's worth may come at once: browsers open several connections together."""
    limits = config.per_source
    if not limits.limits:
        return None
    return SourceLimits(
        sessions=limits.sessions,
        session_rate=limits.session_rate,
        session_burst=max(0, round(limits.session_rate) - 1),
        bandwidth_up=limits.bandwidth_up,
        bandwidth_down=limits.bandwidth_down,
        prefix_v4=limits.prefix_v4,
        prefix_v6=limits.prefix_v6,
        closes=limits.action == "close",
        dry_run=limits.dry_run,
    )


def _kernel(config: Listener, pools: Mapping[str, Pool]) -> KernelTerms | None:
    if config.engine == "proxy":
        return None
    gue_port = gue_port_of(config.encapsulation) if config.mode == "tunnel" else 0
    pool = pools[config.pool]
    source = pool.source_address if config.mode == "nat" else ""
    return KernelTerms(config.mode, config.attach, tuple(config.devices), gue_port, pool.table_size, source)


def route_specs(config: Listener) -> tuple[RouteSpec, ...]:
    return tuple(
        RouteSpec(
            targets=tuple(route.targets.items()),
            sni=tuple(route.sni),
            alpn=tuple(protocol.encode() for protocol in route.alpn),
            starts_with=tuple(map(parse_bytes, route.starts_with)),
            source=route.ranges,
        )
        for route in config.routes
    )


class Now(NamedTuple):
    """What holds at runtime, besides the configuration: `drained` listeners have given their addresses up, `suspended`
    ones refuse clients there; `share` is this process's part of their limits."""

    drained: Collection[str] = ()
    suspended: Collection[str] = ()
    share: Share = WHOLE


def listener_spec(
    state: ListenerState,
    pools: Mapping[str, Pool],
    *,
    drained: bool = False,
    suspended: bool = False,
    banned: bytes = b"",
    share: Share = WHOLE,
) -> ListenerSpec:
    """A `drained` listener has no address; it keeps its sessions and counters. The rest: see `ListenerSpec`."""
    config = state.config
    return ListenerSpec(
        name=state.name,
        bind=() if drained else state.bind,
        pool=config.pool,
        protocol=config.protocol,
        backlog=config.backlog,
        nodelay=config.nodelay,
        idle_timeout_s=config.idle_timeout,
        half_close=config.half_close,
        half_close_timeout_s=config.half_close_timeout,
        max_session_duration_s=config.max_session_duration,
        keepalive=_keepalive(config),
        user_timeout_s=config.user_timeout,
        fast_open=config.fast_open,
        defer_accept_s=config.defer_accept,
        transparent=config.transparent,
        refused=config.access.refused,
        banned=banned,
        deny_closes=config.deny_action == "close",
        drops=config.drops,
        accept=_accept(config),
        splice=config.splice,
        max_sessions=share.of_count(config.max_sessions),
        session_rate=share.of_rate(config.session_rate),
        session_burst=_burst(config, share),
        bandwidth_up=config.bandwidth_up,
        bandwidth_down=config.bandwidth_down,
        total_bandwidth_up=share.of_rate(config.total_bandwidth_up),
        total_bandwidth_down=share.of_rate(config.total_bandwidth_down),
        per_source=_per_source(config),
        routes=route_specs(config),
        udp_requests=config.udp_requests,
        udp_responses=0 if config.udp_responses == "none" else config.udp_responses,
        udp_one_way=config.udp_responses == "none",
        udp_gro=config.udp_gro,
        kernel=_kernel(config, pools),
        suspended=suspended,
    )


def listener_specs(
    listeners: Mapping[str, ListenerState],
    pools: Mapping[str, Pool],
    now: Now,
    banned: Mapping[str, bytes],
) -> tuple[ListenerSpec, ...]:
    """`banned`: see `Bans.ranges`."""
    return ListenerSpecs().of(listeners, pools, now, banned)


def now_still(state: State, listeners: Mapping[str, ListenerState], drained: Collection[str]) -> Now:
    """Until it is known which backends are usable, those that are new or refused clients before accept nobody."""
    refusing = (name for name, one in listeners.items() if one.config.when_no_backend == "refuse")
    suspended = {name for name in refusing if name in state.refusing or name not in state.listeners}
    return Now(drained, suspended, state.share)


class ListenerSpecs:
    """An unchanged listener's spec stays the same object: with many listeners, a change concerns few."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[ListenerState, Pool, tuple[bool, bool, bytes, Share], ListenerSpec]] = {}

    def of(
        self,
        listeners: Mapping[str, ListenerState],
        pools: Mapping[str, Pool],
        now: Now,
        banned: Mapping[str, bytes],
    ) -> tuple[ListenerSpec, ...]:
        """See `listener_specs`."""
        before, self._known = self._known, {}
        everywhere = banned.get(EVERYWHERE, b"")
        for name, one in listeners.items():
            pool, refused = pools[one.config.pool], banned.get(name, everywhere)
            drained, suspended = name in now.drained, name in now.suspended
            known, terms = before.get(name), (drained, suspended, refused, now.share)
            if known is None or known[0] is not one or known[1] is not pool or known[2] != terms:
                spec = listener_spec(one, pools, drained=drained, suspended=suspended, banned=refused, share=now.share)
                known = (one, pool, terms, spec)
            self._known[name] = known
        return tuple(spec for *_, spec in self._known.values())


def prepare_listeners(forwarder: Forwarding, config: Config, listeners: Sequence[ListenerSpec]) -> None:
    """See `Forwarding.prepare`; the problems are placed in `config`, which the listeners are from."""
    try:
        forwarder.prepare(listeners)
    except ConfigError as error:
        placed = (config.problem(tuple(problem.path.split(".")), problem.message) for problem in error.problems)
        raise ConfigError(list(placed)) from error


async def refuse_clients_elsewhere(forwarder: Forwarding, listeners: Sequence[ListenerSpec]) -> None:
    """See `Forwarding.refuse_new_clients`. Returns when a handshake that was under way then has had its time."""
    if forwarder.refuse_new_clients(listeners):
        await asyncio.sleep(_HANDSHAKE_S)
