"""keepalived.conf for VRRP alone: addresses that move between nodes, and what keeps them where the balancer can serve:
a check, which keepalived runs, and a file, which `l4lb announce keepalived` writes. Pure: what is written here was
validated before. keepalived.conf(5)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from l4lb.cli.addresses.prefixes import Host

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
INSTANCE = "l4lb_v{version}"
TRACK_FILE = "/run/l4lb-announce/keepalived"  # the directory is that of l4lb-announce.service


@dataclass(frozen=True, slots=True)
class Check:
    """The program that says whether this node is fit: `command` as keepalived splits it; times in seconds."""

    command: str
    user: str
    interval_s: int
    timeout_s: int
    rise: int
    fall: int


@dataclass(frozen=True, slots=True)
class Vrrp:
    """A virtual router for each family of `addresses`. `peers` and `sources`: unicast instead of multicast, in the
    families that they have."""

    addresses: tuple[Interface, ...]
    interface: str
    router_id: int
    priority: int
    advert_s: float
    check: Check
    track_file: str
    peers: tuple[Host, ...] = ()
    sources: tuple[Host, ...] = ()

    @property
    def versions(self) -> list[int]:
        return sorted({one.version for one in self.addresses})


def configuration(vrrp: Vrrp) -> str:
    parts = [_global(vrrp.check), _script(vrrp.check), _file(vrrp.track_file)]
    parts += [_instance(vrrp, version) for version in vrrp.versions]
    if len(vrrp.versions) > 1:
        parts.append(_group(vrrp))
    return "\n".join("\n".join(part) + "\n" for part in parts)


def _block(name: str, *lines: str) -> list[str]:
    return [f"{name} {{", *(f"    {line}" for line in lines), "}"]


def _global(check: Check) -> list[str]:
    comment = "# VRRP alone: l4lb balances, keepalived moves the addresses. All nodes need the same advert_int."
    return [
        comment,
        *_block("global_defs", "vrrp_version 3", f"script_user {check.user}", "enable_script_security"),
    ]


def _script(check: Check) -> list[str]:
    return _block(
        "vrrp_script l4lb_health",
        f'script "{check.command}"',
        f"interval {check.interval_s}",
        f"timeout {check.timeout_s}",
        f"rise {check.rise}",
        f"fall {check.fall}",
        "init_fail",
    )


def _file(path: str) -> list[str]:
    """Weight 0: any number but 0 makes the node unfit. A file that is missing is made, with 0; where its directory is
    missing, keepalived logs that and goes by the check alone."""
    return _block("track_file l4lb_ready", f'file "{path}"', "weight 0", "init_file 0")


def _instance(vrrp: Vrrp, version: int) -> list[str]:
    return _block(
        f"vrrp_instance {INSTANCE.format(version=version)}",
        "state BACKUP",
        "nopreempt",
        f"interface {vrrp.interface}",
        f"virtual_router_id {vrrp.router_id}",
        f"priority {vrrp.priority}",
        f"advert_int {vrrp.advert_s:g}",
        *_unicast(vrrp, version),
        *_block("virtual_ipaddress", *(str(one) for one in vrrp.addresses if one.version == version)),
        *(_tracked() if len(vrrp.versions) == 1 else ()),
    )


def _tracked() -> list[str]:
    return [*_block("track_script", "l4lb_health"), *_block("track_file", "l4lb_ready")]


def _unicast(vrrp: Vrrp, version: int) -> Iterator[str]:
    for source in vrrp.sources:
        if source.version == version:
            yield f"unicast_src_ip {source}"
    if peers := [str(one) for one in vrrp.peers if one.version == version]:
        yield from _block("unicast_peer", *peers)


def _group(vrrp: Vrrp) -> list[str]:
    """Both families are on the same node."""
    names = [INSTANCE.format(version=version) for version in vrrp.versions]
    return _block("vrrp_sync_group l4lb", *_block("group", *names), *_tracked())
