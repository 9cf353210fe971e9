"""What no single option shows: names that must exist, addresses used twice, combinations that cannot work."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator

from l4lb.config.options.base import given
from l4lb.config.options.listener import Listener
from l4lb.config.options.models import Options, Pool
from l4lb.config.options.policies import find_policy
from l4lb.config.options.routes import Route
from l4lb.config.rules.discovery import discovery_conflicts
from l4lb.config.rules.health import health_conflicts
from l4lb.config.rules.hooks import hook_conflicts
from l4lb.config.rules.kernel import kernel_conflicts
from l4lb.config.rules.loops import loop_conflicts
from l4lb.config.rules.proxy import accept_conflicts, send_conflicts
from l4lb.config.rules.reporting import reporting_conflicts
from l4lb.model.hints import did_you_mean
from l4lb.model.states import Protocol
from l4lb.net.address import Address, parse_address
from l4lb.net.listen.filters import TooLong, drop_from
from l4lb.net.privileges import group_id, identity_of

Finding = tuple[tuple[str | int, ...], str]  # (path, message)


def find_conflicts(config: Options, pool_names: list[str] | None = None) -> Iterator[Finding]:
    """Everything that is wrong. `pool_names` are those of the file, when some pools were left out as broken."""
    names = list(config.pools) if pool_names is None else pool_names
    if not config.listeners:
        yield ("listeners",), "no listener: expected at least one [listeners.NAME]"
    for name, listener in config.listeners.items():
        yield from _listener(name, listener, names)
    yield from _binds(config)
    yield from ((("global", key), message) for key, message in reporting_conflicts(config.global_))
    for name, pool in config.pools.items():
        yield from _pool(name, pool)
        yield from _pool_of_protocols(config, name, pool)
    yield from loop_conflicts(config)
    yield from _admin(config)
    yield from _user(config)
    yield from kernel_conflicts(config)
    yield from hook_conflicts(config)


def _user(config: Options) -> Iterator[Finding]:
    user, group = config.global_.user, config.global_.group
    if group and not user:
        yield ("global", "group"), "has no effect without user"
    key = "group"
    try:
        if group:
            group_id(group)
        key = "user"
        if user:
            identity_of(user, group)
    except ValueError as error:
        yield ("global", key), str(error)


def _listener(name: str, listener: Listener, pools: list[str]) -> Iterator[Finding]:
    if listener.pool not in pools:
        known = ", ".join(pools) or "none"
        hint = did_you_mean(listener.pool, pools) or f" (known: {known})"
        yield ("listeners", name, "pool"), f'"{listener.pool}": no such pool{hint}'
    for index, route in enumerate(listener.routes):
        yield from (
            (("listeners", name, "routes", index, key), say) for key, say in _route(listener, index, route, pools)
        )
    yield from _protocol(name, listener)
    yield from ((("listeners", name, "deny_action"), message) for message in _deny_action(listener))
    yield from ((("listeners", name, "when_no_backend"), message) for message in _when_no_backend(listener))
    if listener.session_burst and not listener.session_rate:
        yield ("listeners", name, "session_burst"), "has no effect without session_rate"
    yield from ((("listeners", name, "per_source", key), message) for key, message in _per_source(listener))
    yield from ((("listeners", name, key), message) for key, message in accept_conflicts(listener))


def _route(listener: Listener, index: int, route: Route, pools: list[str]) -> Iterator[tuple[str, str]]:
    for pool in route.pools:
        if pool not in pools:
            hint = did_you_mean(pool, pools) or f" (known: {', '.join(pools) or 'none'})"
            yield "pool" if route.pool else "split", f'"{pool}": no such pool{hint}'
    if route.starts_with and listener.protocol is Protocol.UDP:
        yield "starts_with", "has no effect with udp; there sni and alpn are those of QUIC"
    if any(before.takes_all for before in listener.routes[:index]):
        yield "pool" if route.pool else "split", "no client comes here: a route before it takes all"


def _per_source(listener: Listener) -> Iterator[tuple[str, str]]:
    limits = listener.per_source
    if listener.protocol is Protocol.UDP and given(limits, "action"):
        yield "action", "has no effect with udp: a client that is refused hears nothing"
    if not limits.limits:
        yield from (
            (key, "has no effect without a limit: sessions, session_rate, bandwidth_up or bandwidth_down")
            for key in ("prefix_v4", "prefix_v6", "action", "dry_run")
            if given(limits, key)
        )


def _deny_action(listener: Listener) -> Iterator[str]:
    if not given(listener, "deny_action"):
        return
    if listener.protocol is Protocol.UDP and listener.deny_action != "drop":
        yield f'"{listener.deny_action}": a UDP client that is refused hears nothing; expected "drop"'
    elif listener.drops:
        yield from _drops(listener)


def _when_no_backend(listener: Listener) -> Iterator[str]:
    for text in listener.bind if listener.when_no_backend == "refuse" else ():
        if parse_address(text).kind == "fd":
            yield f'"refuse": the service manager goes on listening on "{text}"; expected "accept", or an address'


def _drops(listener: Listener) -> Iterator[str]:
    expected = 'expected "reset" or "close"'
    if listener.accept_proxy != "off":
        yield f'"drop": a PROXY header names the client when the handshake is over; {expected}'
    try:
        drop_from(listener.access.refused)
    except TooLong:
        ranges = len(listener.access.refused) // 32
        yield f'"drop": {ranges} ranges of addresses are more than a socket filter can hold; {expected}'


_OF_PROTOCOL = {
    Protocol.TCP: ("udp_responses", "udp_requests", "udp_gro"),
    Protocol.UDP: (
        *(
            "half_close",
            "half_close_timeout",
            "backlog",
            "nodelay",
            "keepalive",
            "user_timeout",
            "fast_open",
            "defer_accept",
        ),
        "splice",
    ),
}  # what has no effect there


def _protocol(name: str, listener: Listener) -> Iterator[Finding]:
    for option in _OF_PROTOCOL[listener.protocol]:
        if given(listener, option):
            yield ("listeners", name, option), f'has no effect with protocol "{listener.protocol}"'
    for index, text in enumerate(listener.bind):
        if listener.protocol is Protocol.UDP and parse_address(text).kind == "unix":
            yield ("listeners", name, "bind", index), f'"{text}": udp needs a host and a port'


def _overlap(one: Address, other: Address) -> bool:
    """Whether the kernel would refuse to bind both."""
    if one.kind != "ip" or other.kind != "ip":
        return one == other
    if one.ports[0] == 0 or one.ports[1] < other.ports[0] or other.ports[1] < one.ports[0]:
        return False
    hosts = {one.host or "::", other.host or "::"}
    return len(hosts) == 1 or hosts == {"::", "0.0.0.0"}


def _binds(config: Options) -> Iterator[Finding]:
    seen: list[tuple[str, Protocol, Address]] = []
    for name, listener in config.listeners.items():
        for index, text in enumerate(listener.bind):
            address = parse_address(text)
            for owner, protocol, other in seen:
                if protocol is listener.protocol and _overlap(address, other):
                    yield ("listeners", name, "bind", index), f'"{text}": already bound by listener "{owner}"'
                    break
            seen.append((name, listener.protocol, address))


def _duplicates(pool: Pool) -> Iterator[tuple[int, int]]:
    """Backends with a key that an earlier one has: their indices."""
    first: dict[str, int] = {}
    for index, backend in enumerate(pool.backends):
        if (other := first.setdefault(backend.key, index)) != index:
            yield index, other


def backend_conflicts(name: str, pool: Pool) -> Iterator[Finding]:
    """What is wrong with the pool's backends together, in a file or by a change at runtime."""
    for index, other in _duplicates(pool):
        backend = pool.backends[index]
        yield ("pools", name, "backends", index), f'"{backend.key}": the same backend as backends[{other}]'
    for index, backend in enumerate(pool.backends) if pool.agent.port else ():
        if parse_address(backend.address).kind != "ip":
            yield ("pools", name, "backends", index), f'"{backend.address}": an agent has a port on a host'
    if pool.table_size < len(pool.backends) and _hashes(pool):
        yield ("pools", name, "table_size"), f"smaller than the number of backends ({len(pool.backends)})"
    yield from _source(name, pool)


def _pool(name: str, pool: Pool) -> Iterator[Finding]:
    yield from backend_conflicts(name, pool)
    yield from _policy(name, pool)
    yield from ((("pools", name, *path), message) for path, message in send_conflicts(pool))
    if pool.on_backend_down != "keep" and pool.health.type == "none" and not pool.agent.port:
        yield (
            ("pools", name, "on_backend_down"),
            "has no effect without checks and agent: no backend goes down",
        )
    if pool.retry_pause and pool.connect_attempts == 1:
        yield ("pools", name, "retry_pause"), "has no effect with connect_attempts = 1"
    if given(pool, "queue_timeout") and not pool.queue_size:
        yield ("pools", name, "queue_timeout"), "has no effect without queue_size"
    if pool.discovery is not None:
        yield from (
            (("pools", name, "discovery", key), message) for key, message in discovery_conflicts(pool.discovery)
        )
    elif pool.zone and all(backend.zone != pool.zone for backend in pool.backends):
        yield ("pools", name, "zone"), f'"{pool.zone}": no backend of the pool is in this zone'
    yield from ((("pools", name, "health", key), message) for key, message in health_conflicts(pool.health))


def _pool_of_protocols(config: Options, name: str, pool: Pool) -> Iterator[Finding]:
    """What only one of the protocols has, in a pool that the other uses alone or too."""
    protocols = config.protocols_of(name)
    if protocols == {Protocol.UDP}:
        for option in ("queue_size", "connect_timeout", "retry_pause"):
            if given(pool, option):
                yield ("pools", name, option), "has no effect: only udp listeners use the pool"
        if pool.health.type == "none":
            for option in (one for one in sorted(pool.health.model_fields_set - {"type"}) if given(pool.health, one)):
                yield ("pools", name, "health", option), "has no effect without a type: udp pools have no checks then"
    if Protocol.TCP in protocols and pool.hash_key == "quic_cid":
        yield ("pools", name, "hash_key"), '"quic_cid": a tcp listener uses the pool: it is for QUIC, over udp'
    if Protocol.UDP in protocols:
        if pool.send_proxy == "v1":
            yield ("pools", name, "send_proxy"), '"v1": a udp listener uses the pool, and version 1 knows no datagrams'
        for index, backend in enumerate(pool.backends):
            if parse_address(backend.address).kind == "unix":
                yield ("pools", name, "backends", index), f'"{backend.address}": a udp listener uses the pool'


def _hashes(pool: Pool) -> bool:
    with contextlib.suppress(ValueError):  # a policy that cannot be loaded: `_policy` says so
        return find_policy(pool.policy).hashes
    return False


def _policy(name: str, pool: Pool) -> Iterator[Finding]:
    try:
        policy = find_policy(pool.policy)
    except ValueError as error:
        yield ("pools", name, "policy"), f'"{pool.policy}": {error}'
        return
    if not policy.hashes:
        for option in ("hash_key", "hash_prefix_v4", "hash_prefix_v6", "table_size", "bounded_load"):
            if given(pool, option):
                yield ("pools", name, option), f'has no effect with policy "{pool.policy}"'
    if pool.slow_start and pool.health.type == "none" and not pool.passive.failures:
        yield ("pools", name, "slow_start"), "has no effect without checks (health) and passive: no backend comes back"


def _source(name: str, pool: Pool) -> Iterator[Finding]:
    """The source address must be of the family that every backend with a numeric address has."""
    if not pool.source_address:
        return
    if pool.source_address == "client":
        for index, backend in enumerate(pool.backends):
            if parse_address(backend.address).kind != "ip":
                message = f'"{backend.address}": cannot be reached from the client\'s address (source_address)'
                yield ("pools", name, "backends", index), message
        return
    version = ipaddress.ip_address(pool.source_address).version
    for index, backend in enumerate(pool.backends):
        address = parse_address(backend.address)
        try:
            fits = address.kind == "ip" and ipaddress.ip_address(address.host).version == version
        except ValueError:
            fits = True  # a name: known when it is resolved
        if not fits:
            message = f'"{backend.address}": cannot be reached from source_address "{pool.source_address}"'
            yield ("pools", name, "backends", index), message


def _admin(config: Options) -> Iterator[Finding]:
    bind = config.admin.bind
    if bind in ("", "off") or config.admin.token_file:
        return
    address = parse_address(bind)
    if address.kind != "ip":
        return
    try:
        loopback = ipaddress.ip_address(address.host or "::").is_loopback
    except ValueError:
        loopback = address.host == "localhost"
    if not loopback:
        yield ("admin", "bind"), f'"{bind}": beyond loopback requires token_file'
