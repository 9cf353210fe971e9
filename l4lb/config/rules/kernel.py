"""What a listener that is forwarded in the kernel cannot have: nothing ends here, so nothing is added or bounded."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator

from l4lb.config.options.base import given
from l4lb.config.options.listener import Listener
from l4lb.config.options.models import Options, Pool
from l4lb.net.address import Address, parse_address

Finding = tuple[tuple[str | int, ...], str]  # (path, message)

POLICIES = ("maglev", "ring", "rendezvous", "random")
_OF_KERNEL = ("mode", "encapsulation", "attach", "devices")
_INSTEAD = 'engine = "kernel" only forwards packets; expected engine = "proxy"'
# What needs a connection that ends here, or a look into it.
_NEEDS_PROXY = (
    "accept_proxy",
    "max_sessions",
    "half_close",
    "half_close_timeout",
    "max_session_duration",
    "backlog",
    "nodelay",
    "keepalive",
    "user_timeout",
    "fast_open",
    "defer_accept",
    "transparent",
    "splice",
    "session_rate",
    "bandwidth_up",
    "bandwidth_down",
    "total_bandwidth_up",
    "total_bandwidth_down",
    "per_source",
    "routes",
    "when_no_backend",
    "udp_responses",
    "udp_requests",
    "udp_gro",
)
_POOL_NEEDS_PROXY = (
    "bounded_load",
    "send_proxy",
    "connect_timeout",
    "connect_attempts",
    "retry_pause",
    "queue_size",
    "passive",
)


def kernel_conflicts(config: Options) -> Iterator[Finding]:
    for name, listener in config.listeners.items():
        if listener.engine == "proxy":
            for key in _OF_KERNEL:
                if given(listener, key):
                    yield ("listeners", name, key), 'has no effect without engine = "kernel"'
            continue
        yield from ((("listeners", name, *path), message) for path, message in _listener(listener))
        if (pool := config.pools.get(listener.pool)) is not None:
            yield from ((("pools", listener.pool, *path), message) for path, message in _pool(listener, pool))
    yield from _shared_backends(config)


def kernel_backend_conflicts(config: Options, pools: Collection[str]) -> Iterator[Finding]:
    """Of what may change at runtime: the backends of these pools."""
    for listener in config.listeners.values():
        if listener.engine == "kernel" and listener.pool in pools:
            found = _backends(listener, config.pools[listener.pool])
            yield from ((("pools", listener.pool, *path), message) for path, message in found)
    yield from _shared_backends(config)


def _listener(listener: Listener) -> Iterator[Finding]:
    if listener.mode != "tunnel" and given(listener, "encapsulation"):
        yield ("encapsulation",), 'has no effect without mode = "tunnel"'
    for key in _NEEDS_PROXY:
        if given(listener, key):
            yield (key,), f"cannot be had: {_INSTEAD}"
    if given(listener, "deny_action") and listener.deny_action != "drop":
        yield ("deny_action",), f'"{listener.deny_action}": engine = "kernel" answers nothing; expected "drop"'
    for index, text in enumerate(listener.bind):
        address = parse_address(text)
        if address.kind != "ip":
            yield ("bind", index), f'"{text}": {_INSTEAD}'
        elif address.is_range or not address.ports[0]:
            yield ("bind", index), f'"{text}": engine = "kernel" expects one port'
        elif (version := _version(address)) is None or ipaddress.ip_address(address.host).is_unspecified:
            yield ("bind", index), f'"{text}": engine = "kernel" expects an address of the service\'s own, as a number'
        elif listener.mode != "tunnel" and version != _version(parse_address(listener.bind[0])):
            yield ("bind", index), f'"{text}": engine = "kernel" expects addresses of one family; make two listeners'
        elif version == 6 and ipaddress.IPv6Address(address.host).scope_id:
            yield ("bind", index), f'"{text}": engine = "kernel" forwards nothing for link-local addresses'


def _version(address: Address) -> int | None:
    """None: a name, or no host at all."""
    try:
        return ipaddress.ip_address(address.host).version
    except ValueError:
        return None


def _pool(listener: Listener, pool: Pool) -> Iterator[Finding]:
    if pool.policy not in POLICIES:
        expected = ", ".join(POLICIES)
        yield ("policy",), f'"{pool.policy}": a listener with engine = "kernel" uses the pool; expected {expected}'
    for key in _POOL_NEEDS_PROXY:
        if given(pool, key):
            yield (key,), f"cannot be had: {_INSTEAD}"
    yield from _source(listener, pool)
    yield from _backends(listener, pool)


def _source(listener: Listener, pool: Pool) -> Iterator[Finding]:
    """What backends see by full NAT."""
    source = pool.source_address
    if not source:
        return
    if listener.mode != "nat":
        yield ("source_address",), f'"{source}": mode = "{listener.mode}" keeps the client\'s address; expected "nat"'
    elif source == "client":
        yield ("source_address",), '"client": mode = "nat" keeps the client\'s address as it is; leave this out'
    elif _version(parse_address(listener.bind[0])) not in (ipaddress.ip_address(source).version, None):
        other = f'listener bound to "{listener.bind[0]}"'
        yield ("source_address",), f'"{source}": is of another family than the {other}, and nothing is translated'


def _backends(listener: Listener, pool: Pool) -> Iterator[Finding]:
    versions = {_version(parse_address(text)) for text in listener.bind}
    ports = {parse_address(text).ports[0] for text in listener.bind}
    for index, backend in enumerate(pool.backends):
        address = parse_address(backend.address)
        place = ("backends", index)
        if address.kind != "ip":
            yield place, f'"{backend.address}": {_INSTEAD}'
        elif not address.ports[0]:
            yield place, f'"{backend.address}": engine = "kernel" expects a port'
        elif listener.mode != "nat" and address.ports[0] not in ports:
            expected = f'with mode = "{listener.mode}" ports stay as they are: expected {min(ports)}'
            yield place, f'"{backend.address}": {expected}'
        elif backend.max_sessions:
            yield place, f'"{backend.address}": max_sessions cannot be had: {_INSTEAD}'
        elif listener.mode != "tunnel" and None not in versions and _version(address) not in {None, *versions}:
            other = 'engine = "kernel" does not translate between IPv4 and IPv6; mode = "tunnel" has one in the other'
            yield place, f'"{backend.address}": {other}'


def _shared_backends(config: Options) -> Iterator[Finding]:
    """By nat, a backend's answers say nothing about which of several services the client asked. By full NAT, their
    port does."""
    owners: dict[tuple[str, str, int | None], tuple[str, str]] = {}
    for name, listener in config.listeners.items():
        pool = config.pools.get(listener.pool)
        if listener.engine != "kernel" or listener.mode != "nat" or pool is None or pool.source_address:
            continue
        for bind in listener.bind:
            version = _version(parse_address(bind))
            for backend in pool.backends:
                address = parse_address(backend.address)
                if _version(address) not in (version, None):
                    continue
                key = (listener.protocol, str(address), version)
                other = owners.setdefault(key, (name, bind))
                if other != (name, bind):
                    taken = f'backend "{backend.address}" answers for {other[1]} of listener "{other[0]}"'
                    yield ("listeners", name, "bind"), f'"{bind}": by nat, {taken}, and for nothing else'
                    break
