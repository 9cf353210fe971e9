"""Backends that lead back: to a listener that gives its sessions to the same pool, at once or by way of others. Every
session would connect to this process again, until nothing is left to connect with."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence

from l4lb.config.options.listener import Listener
from l4lb.config.options.models import Options
from l4lb.model.states import Protocol
from l4lb.net.address import Address, parse_address
from l4lb.net.environment import is_own_address

Hosts = Sequence[tuple[int, str]]  # family and numeric address
Resolve = Callable[[str], Hosts]


def nothing(name: str) -> Hosts:
    """Names are left out: a `Resolve` for where none may be looked up."""
    return ()


def loop_conflicts(
    config: Options, pools: Iterable[str] | None = None, resolve: Resolve = nothing, before: Options | None = None
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The backends of `pools` (None: all) that lead back, as (path, message).

    `before` is a configuration without loops. With the same listeners, a new loop has a new backend in it: the others
    are not looked at again, which takes 40 us each where a listener has their port.
    """
    near: dict[int, bool] = {}  # by port: whether a listener may be there
    singles, ranges = _ports(config)
    for name in config.pools if pools is None else pools:
        known = _addresses(before, name) if before is not None and before.listeners is config.listeners else ()
        for index, backend in enumerate(config.pools[name].backends):
            if backend.address in known:
                continue
            first, _ = parse_address(backend.address).ports
            if first not in near:
                near[first] = not first or first in singles or any(low <= first <= high for low, high in ranges)
            if not near[first]:
                continue  # nearly all, and there may be many
            if listener := leads_back(config, name, backend.address, resolve):
                message = f'"{backend.address}": is listener "{listener}" of this process, and leads back to this pool'
                yield ("pools", name, "backends", index), message


def _addresses(config: Options, pool: str) -> set[str]:
    return {backend.address for backend in config.pools[pool].backends} if pool in config.pools else set()


def _ports(config: Options) -> tuple[set[int], list[tuple[int, int]]]:
    """Those that are listened on: single ones, and ranges."""
    ports = [parse_address(bind).ports for listener in config.listeners.values() for bind in listener.bind]
    return {low for low, high in ports if low == high}, [(low, high) for low, high in ports if low != high]


def leads_back(config: Options, pool: str, address: str, resolve: Resolve = nothing) -> str:
    """The listener by which a backend of `pool` at that address leads back to it; empty when it does not."""
    for protocol in config.protocols_of(pool):
        for name in _listeners_at(config, pool, protocol, parse_address(address), resolve):
            starts = config.listeners[name].pools
            if any(_reaches(config, start, pool, protocol, resolve, set()) for start in starts):
                return name
    return ""


def _reaches(config: Options, start: str, wanted: str, protocol: Protocol, resolve: Resolve, seen: set[str]) -> bool:
    if start == wanted:
        return True
    if start in seen or start not in config.pools:
        return False
    seen.add(start)
    addresses = [parse_address(backend.address) for backend in config.pools[start].backends]
    reached = (name for one in addresses for name in _listeners_at(config, start, protocol, one, resolve))
    starts = (start for name in reached for start in config.listeners[name].pools)
    return any(_reaches(config, start, wanted, protocol, resolve, seen) for start in starts)


def _listeners_at(config: Options, pool: str, protocol: Protocol, address: Address, resolve: Resolve) -> list[str]:
    """Those that a connect to `address` comes to: of several the one that is bound most specifically."""
    exact, wide = [], []
    for name, listener in config.listeners.items():
        if listener.protocol is not protocol:
            continue
        for bind in _near(listener, address, same_port=pool in listener.pools):
            if bind.kind == "unix" or _numeric(bind, resolve) & _numeric(address, resolve):
                exact.append(name)
            elif any(_takes(bind, host) for _, host in _numeric(address, resolve)):
                wide.append(name)
    return exact or wide


def _near(listener: Listener, address: Address, *, same_port: bool) -> Iterator[Address]:
    """Its binds of the same kind and port. A backend's port 0 is the one that the client came to."""
    for text in listener.bind:
        bind = parse_address(text)
        if bind.kind == "unix" or address.kind == "unix":
            if bind == address:
                yield bind
        elif bind.kind == address.kind == "ip":
            port = address.ports[0]
            if same_port if port == 0 else bind.ports[0] <= port <= bind.ports[1]:
                yield bind


def _numeric(address: Address, resolve: Resolve) -> set[tuple[int, str]]:
    if not address.host:
        return set()
    try:
        numeric = ipaddress.ip_address(address.host)
    except ValueError:
        return {(int(family), host) for family, host in resolve(address.host)}
    return {(int(socket.AF_INET6 if numeric.version == 6 else socket.AF_INET), str(numeric))}


def _takes(bind: Address, host: str) -> bool:
    """Whether it is bound to all addresses of this host, and `host` is one."""
    families = {"": (4, 6), "::": (4, 6), "0.0.0.0": (4,)}.get(bind.host, ())
    return ipaddress.ip_address(host.partition("%")[0]).version in families and is_own_address(host)
