"""For `l4lb check`: what listeners with ``engine = "kernel"`` need of this host, and of their backends. Starts
nothing."""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path

from l4lb.config import Config, Listener
from l4lb.config.options.listener import gue_port_of
from l4lb.net.address import parse_address
from l4lb.net.environment import KERNEL_NEEDS, forwarding_ports_problem, forwarding_problem

Key = tuple[str | int, ...]

_OUTER_BYTES = {4: 20, 6: 40}
_GUE_BYTES = 12
_TCP_BYTES = {4: 40, 6: 60}  # of a segment's headers
# What opens a tunnel of Linux: by the versions inside and outside, the device and how to have it.
_DEVICES = {
    (4, 4): ("l4lb4", "ip link add l4lb4 type ipip external"),
    (6, 4): ("sit0", "modprobe sit"),
    (4, 6): ("l4lb6", "ip link add l4lb6 type ip6tnl external"),
    (6, 6): ("l4lb6", "ip link add l4lb6 type ip6tnl external"),
}


def kernel_problems(config: Config, sysctls: Path = Path("/proc/sys")) -> Iterator[tuple[Key, str]]:
    """What `l4lb serve` would refuse here: (path, message)."""
    for name, listener in config.listeners.items():
        if listener.engine != "kernel":
            continue
        if importlib.util.find_spec("l4lb._native.kernel") is None:
            yield ("listeners", name, "engine"), f'"kernel": {KERNEL_NEEDS}'
        for version in sorted({version for ways in _tunnels(config, listener) for version in ways}):
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            if reason := forwarding_problem(family, sysctls):
                yield ("listeners", name, "engine"), f'"kernel": {reason}'
        if (source := _source(config, listener)) and (reason := forwarding_ports_problem(sysctls)):
            yield ("pools", listener.pool, "source_address"), f'"{source}": {reason}'


def kernel_needs(config: Config) -> Iterator[str]:
    """What backends have to be like, one line a listener."""
    for name, listener in config.listeners.items():
        if listener.engine != "kernel":
            continue
        hosts = [parse_address(bind).host for bind in listener.bind]
        if source := _source(config, listener):
            yield f"listeners.{name}: backends see {source} in place of clients, and answer it by any way"
        elif listener.mode == "nat":
            yield f"listeners.{name}: the way from each backend to every client leads through this host: its gateway"
        elif listener.mode == "tunnel":
            yield from (f"listeners.{name}: {need}" for need in _tunnel_needs(config, listener))
        elif _version(listener.bind[0]) == 4:
            addresses = " and ".join(f"`ip addr add {host}/32 dev lo`" for host in hosts)
            silent = "`sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2`"
            yield f"listeners.{name}: each backend is on this host's link and has its address: {silent}, {addresses}"
        else:
            addresses = " and ".join(f"`ip addr add {host}/128 dev lo nodad`" for host in hosts)
            yield f"listeners.{name}: each backend is on this host's link and has its address: {addresses}"


def _source(config: Config, listener: Listener) -> str:
    """The address of this host that backends see; empty: they see the client's."""
    pool = config.pools.get(listener.pool)
    return pool.source_address if pool is not None and listener.mode == "nat" else ""


def _tunnels(config: Config, listener: Listener) -> list[tuple[int, int]]:
    """The versions of IP inside and outside; the same where nothing is known of backends, or no tunnel is there."""
    inside = sorted({_version(bind) for bind in listener.bind})
    pool = config.pools.get(listener.pool)
    hosts = [parse_address(backend.address).host for backend in pool.backends] if pool else []
    outside = sorted({ip.version for host in hosts if (ip := _number(host)) is not None})
    if listener.mode != "tunnel" or not outside:
        return [(version, version) for version in inside]
    return [(one, other) for one in inside for other in outside]


def _tunnel_needs(config: Config, listener: Listener) -> Iterator[str]:
    gue_port = gue_port_of(listener.encapsulation)
    hosts = [parse_address(bind).host for bind in listener.bind]
    addresses = " and ".join(f"`ip addr add {host}/{_bits(host)} dev lo`" for host in hosts)
    yield f"each backend has its address: {addresses}. Health checks go to the backend's own address, and the same port"
    for inside, outside in _tunnels(config, listener):
        device, have = _DEVICES[inside, outside]
        opened = [f"`{have}`", f"`ip link set {device} up`"]
        if inside == 4:
            opened.append(f"`sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{device}.rp_filter=0`")
        if gue_port:
            opened.append(f"`ip fou add port {gue_port} gue{' -6' if outside == 6 else ''}`")
        taken = _OUTER_BYTES[outside] + (_GUE_BYTES if gue_port else 0)
        mss = 1500 - taken - _TCP_BYTES[inside]
        yield f"each backend opens the tunnel for IPv{inside} in IPv{outside}: {', '.join(opened)}"
        yield f"the way to backends has an MTU {taken} bytes above the clients', or their routes say so: `advmss {mss}`"


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None: a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _bits(host: str) -> str:
    return "32" if ipaddress.ip_address(host).version == 4 else "128"


def _version(bind: str) -> int:
    return ipaddress.ip_address(parse_address(bind).host).version
