"""Where the programs see packets, and how: by tcx, or by XDP in the driver (native) or in front of the stack (generic).

`auto` takes what is cheapest on such a device: XDP in the driver of a network card; tcx on virtual devices, which pass
packets on in large pieces that XDP would have to see apart. Each is tried before the next one.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import psutil

from l4lb._native import kernel

_WAYS = {
    "tcx": ("tcx", kernel.ATTACH_TCX_INGRESS, 0),
    "native": ("xdp", kernel.ATTACH_XDP, 1 << 2),  # XDP_FLAGS_DRV_MODE
    "generic": ("xdp", kernel.ATTACH_XDP, 1 << 1),  # XDP_FLAGS_SKB_MODE
}
_SIOCGIFFLAGS, _SIOCGIFHWADDR = 0x8913, 0x8927  # linux/sockios.h
_REASONS = {
    errno.EBUSY: "another program is there",
    errno.EOPNOTSUPP: "the device cannot",
    errno.EINVAL: "the kernel cannot (tcx: Linux 6.6)",
    errno.ENODEV: "there is no such device",
    errno.EPERM: "not permitted: CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed",
    errno.ERANGE: "the device's MTU is too large for it",
}


@dataclass(frozen=True, slots=True)
class Attached:
    """While `link` is open, or pinned, packets that come in by the device go through a program. `way`: tcx, native or
    generic; `why`: what was tried before."""

    device: str
    way: str
    why: str
    link: kernel.Fd

    @property
    def program(self) -> str:
        """xdp or tcx."""
        return program_of(self.way)


def program_of(way: str) -> str:
    """xdp or tcx. KeyError for a way that is not known."""
    return _WAYS[way][0]


def ways_for(device: str, wanted: str) -> Sequence[str]:
    if wanted != "auto":
        return (wanted,)
    is_card = Path(f"/sys/class/net/{device}/device").exists()
    return ("native", "tcx", "generic") if is_card else ("tcx", "generic")


def images() -> dict[str, bytes]:
    """The object files of the programs, as they were built. ImportError when they were not."""
    there = resources.files("l4lb._kernel")
    try:
        return {name: (there / f"{name}.o").read_bytes() for name in ("xdp", "tcx")}
    except FileNotFoundError as error:
        raise ImportError(str(error)) from error


def attach(program: Callable[[str], kernel.Program], device: str, wanted: str) -> Attached:
    """`program`: xdp or tcx, by name. OSError with a message when no way can be had."""
    tried: list[str] = []
    error = OSError(errno.ENODEV, f'device "{device}"')
    for way in ways_for(device, wanted):
        name, kind, flags = _WAYS[way]
        try:
            link = program(name).attach(socket.if_nametoindex(device), kind, flags)
        except OSError as failed:
            error = failed
            tried.append(f"{way}: {_REASONS.get(failed.errno or 0, str(failed))}")
        else:
            return Attached(device, way, ", ".join(tried), link)
    raise OSError(error.errno, f'device "{device}": {", ".join(tried)}')


def packet_devices(family: int, hosts: Sequence[str], *, all_of_them: bool) -> list[str]:
    """Where packets for `hosts`, service addresses of that family, come in: the devices that have these addresses, or,
    for those on loopback or nowhere, the one of the default route. `all_of_them`: also those by which backends may
    answer, which are all that are up and have an address of the family."""
    owners = {
        address.address.partition("%")[0]: name
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == family
    }
    up = {name for _, name in socket.if_nameindex() if _is_ethernet(name) and _is_up(name)}
    if all_of_them:
        return sorted(up.intersection(owners.values()))
    found = {owners.get(host, "") for host in hosts}
    if not found <= up:
        found.add(owners.get(_source_to_the_world(family), ""))
    return sorted(found & up)


def _is_ethernet(device: str) -> bool:
    return _asked(_SIOCGIFHWADDR, device) == 1  # ARPHRD_ETHER


def _is_up(device: str) -> bool:
    return bool(_asked(_SIOCGIFFLAGS, device) & 1)  # IFF_UP


def _asked(request: int, device: str) -> int:
    """netdevice(7): what it says first. 0 when the device is gone (ENODEV)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            found = fcntl.ioctl(sock, request, struct.pack("256s", device.encode()))
        except OSError:
            return 0
    return int(struct.unpack_from("H", found, 16)[0])


def _source_to_the_world(family: int) -> str:
    return source_to("192.0.2.1" if family == socket.AF_INET else "2001:db8::1")  # for documentation


def source_to(host: str) -> str:
    """This host's address on the route to an IP address; empty when there is no route. No packet is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((host, 9))
        except OSError:
            return ""
        return str(sock.getsockname()[0])
