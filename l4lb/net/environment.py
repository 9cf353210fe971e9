"""What this process may do and where it runs, as far as options depend on it. Asks the kernel and changes nothing."""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import os
import socket
from pathlib import Path

TRANSPARENT_CAPABILITY = "CAP_NET_ADMIN"  # or CAP_NET_RAW: ip(7), IP_TRANSPARENT
_IP_TRANSPARENT = 19  # linux/in.h; the socket module does not name it
_IP_BIND_ADDRESS_NO_PORT = 24  # likewise
KERNEL_NEEDS = "l4lb was installed without it, which takes clang and libbpf, on Debian clang and libbpf-dev"
_FORWARDING = {socket.AF_INET: "net.ipv4.ip_forward", socket.AF_INET6: "net.ipv6.conf.all.forwarding"}
_LOCAL_PORTS = "net.ipv4.ip_local_port_range"  # of IPv6 too
_PORTS = range(1024, 65536)  # those below are for services
_PORTS_LEAST = 1024
_NAMESPACES = "/run/netns"  # ip-netns(8)


def can_be_transparent() -> bool:
    """Whether this process may use addresses that are not this host's: that needs TRANSPARENT_CAPABILITY."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(PermissionError):
        probe.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        return True
    return False


def why_not_source(host: str) -> str:
    """Why this host cannot connect from the numeric address `host`; empty when it can. It has the address, or
    net.ipv4.ip_nonlocal_bind (net.ipv6.ip_nonlocal_bind) lets sockets have any.

    socket(2): EAFNOSUPPORT. bind(2), without a port: EADDRNOTAVAIL; EINVAL for a link-local one without its interface.
    A resource that ran out for the moment is no reason.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            probe.bind((host, 0))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return "not an address of this host"
        if error.errno in (errno.EAFNOSUPPORT, errno.EINVAL):
            return os.strerror(error.errno).lower()
    return ""


@functools.cache
def namespace_name() -> str:
    """What `ip netns identify` calls the network namespace of this process; empty when it has no name."""
    own = os.stat("/proc/self/ns/net")
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(os.listdir(_NAMESPACES)):
            with contextlib.suppress(OSError):
                if os.path.samestat(own, os.stat(f"{_NAMESPACES}/{entry}")):
                    return entry
    return ""


def is_own_address(host: str) -> bool:
    """Whether the numeric address `host` belongs to this host. The kernel reaches own addresses from themselves;
    connect(2) of a datagram socket sends nothing, and fails without a route."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect((host, 9))
        except OSError:
            return False
        found = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    asked = ipaddress.ip_address(host.partition("%")[0])
    return found == asked or asked.is_loopback or asked.is_unspecified


def forwarding_problem(family: int, sysctls: Path = Path("/proc/sys")) -> str:
    """Why this host forwards no packets of that family; empty when it does."""
    name = _FORWARDING[socket.AddressFamily(family)]
    try:
        value = sysctls.joinpath(*name.split(".")).read_text().strip()
    except FileNotFoundError:
        return f"{name} is missing: this host has no such network"
    return f"{name} is 0, so that this host forwards nothing: `sysctl -w {name}=1`" if value == "0" else ""


def forwarding_ports(sysctls: Path = Path("/proc/sys")) -> range:
    """Those of this host that its own connections never have: the larger part of what is above or below the kernel's
    range for them. Empty: that cannot be read."""
    try:
        first, last = map(int, sysctls.joinpath(*_LOCAL_PORTS.split(".")).read_text().split())
    except (OSError, ValueError):
        return range(0)
    return max(range(_PORTS.start, first), range(max(last + 1, _PORTS.start), _PORTS.stop), key=len)


def forwarding_ports_problem(sysctls: Path = Path("/proc/sys")) -> str:
    """Why the kernel engine cannot have ports of this host; empty when it can."""
    count = len(forwarding_ports(sysctls))
    if count >= _PORTS_LEAST:
        return ""
    return f"{_LOCAL_PORTS} leaves {count} ports in a row for forwarding, expected {_PORTS_LEAST} or more: narrow it"
