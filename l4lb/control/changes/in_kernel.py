"""For `l4lb check`: what listeners with ``engine = "kernel"`` need of this host, and of their backends. Starts
nothing."""

from __future__ import annotations

import importlib.util
import ipaddress
from collections.abc import Iterator
from pathlib import Path

from l4lb.config import Config
from l4lb.net.address import parse_address

Key = tuple[str | int, ...]
_FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


def kernel_problems(config: Config, sysctls: Path = Path("/proc/sys")) -> Iterator[tuple[Key, str]]:
    """What `l4lb serve` would refuse here: (path, message)."""
    for name, listener in config.listeners.items():
        if listener.engine != "kernel":
            continue
        if importlib.util.find_spec("l4lb._native.kernel") is None:
            needs = "clang and libbpf, on Debian the packages clang and libbpf-dev"
            yield ("listeners", name, "engine"), f'"kernel": l4lb was installed without it, which takes {needs}'
        key = _FORWARDING[_version(listener.bind[0])]
        if sysctls.joinpath(*key.split(".")).read_text().strip() == "0":
            yield ("listeners", name, "engine"), f'"kernel": {key} is 0, so that this host forwards nothing'


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
