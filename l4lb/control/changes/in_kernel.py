"""For `l4lb check`: what listeners with ``engine = "kernel"`` need of this host, and of their backends. Starts
nothing."""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path

from l4lb.config import Config
from l4lb.net.address import parse_address
from l4lb.net.environment import KERNEL_NEEDS, forwarding_problem

Key = tuple[str | int, ...]


def kernel_problems(config: Config, sysctls: Path = Path("/proc/sys")) -> Iterator[tuple[Key, str]]:
    """What `l4lb serve` would refuse here: (path, message)."""
    for name, listener in config.listeners.items():
        if listener.engine != "kernel":
            continue
        if importlib.util.find_spec("l4lb._native.kernel") is None:
            yield ("listeners", name, "engine"), f'"kernel": {KERNEL_NEEDS}'
        family = socket.AF_INET if _version(listener.bind[0]) == 4 else socket.AF_INET6
        if reason := forwarding_problem(family, sysctls):
            yield ("listeners", name, "engine"), f'"kernel": {reason}'


def kernel_needs(config: Config) -> Iterator[str]:
    """What backends have to be like, one line a listener."""
    for name, listener in config.listeners.items():
        if listener.engine != "kernel":
            continue
        hosts = [parse_address(bind).host for bind in listener.bind]
        if listener.mode == "nat":
            yield f"listeners.{name}: the way from each backend to every client leads through this host: its gateway"
        elif _version(listener.bind[0]) == 4:
            addresses = " and ".join(f"`ip addr add {host}/32 dev lo`" for host in hosts)
            silent = "`sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2`"
            yield f"listeners.{name}: each backend is on this host's link and has its address: {silent}, {addresses}"
        else:
            addresses = " and ".join(f"`ip addr add {host}/128 dev lo nodad`" for host in hosts)
            yield f"listeners.{name}: each backend is on this host's link and has its address: {addresses}"


def _version(bind: str) -> int:
    return ipaddress.ip_address(parse_address(bind).host).version
