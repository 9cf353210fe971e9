"""Addresses as users write them: parsed here, resolved here, and nowhere else. Called at configuration time.

``host:port``, ``[v6]:port``, ``:port`` (all addresses, v4 and v6), ``unix:/path``, ``unix:@abstract``, ``fd:NAME``;
a listener may bind a range ``host:8000-8010``.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from l4lb.model.address import SocketAddress

if TYPE_CHECKING:
    from l4lb.model.snapshot import InheritedSocket

EXPECTED = 'expected "host:port", "[v6]:port", ":port", "unix:/path" or "unix:@name"'
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_UNIX_PATH_MAX = 107  # sun_path without its zero byte, unix(7)


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address. `kind` is ``ip`` (any host), ``unix`` or ``fd``; `host` is empty for all addresses."""

    kind: str
    host: str
    ports: tuple[int, int] = (0, 0)

    @property
    def is_range(self) -> bool:
        return self.ports[0] != self.ports[1]


_KNOWN = 32_768  # addresses: more than a change looks at, or all of them are parsed anew each time


@functools.lru_cache(maxsize=_KNOWN)
def parse_address(text: str) -> Address:
    """Parse without looking anything up. ValueError says what was expected."""
    _expect_plain(text)
    if text.startswith("unix:"):
        return Address("unix", _unix_name(text.removeprefix("unix:")))
    if text.startswith("fd:"):
        if not text.removeprefix("fd:"):
            raise ValueError('expected a name after "fd:"')
        return Address("fd", text.removeprefix("fd:"))
    host, colon, ports = text.rpartition(":")
    if not colon:
        raise ValueError(EXPECTED)
    return Address("ip", _host(host), _port_range(ports))


def _expect_plain(text: str) -> None:
    """ValueError names characters that are pasted along with addresses."""
    if text != text.strip():
        raise ValueError("a blank at the beginning or the end")
    if wrong := next((char for char in text if ord(char) < 32 or ord(char) == 127), ""):
        raise ValueError(f"a control character (U+{ord(wrong):04X}), which no address has")
    if "\ufeff" in text:
        raise ValueError("a byte order mark (U+FEFF), which no address has")
    scheme, found, _ = text.partition("://")
    if found:
        raise ValueError(f'without "{scheme}://": {EXPECTED}')


def _unix_name(name: str) -> str:
    if len(name) < 2 or not name.startswith(("/", "@")):
        raise ValueError('expected "unix:/path" or "unix:@name"')
    if len(os.fsencode(name)) > _UNIX_PATH_MAX:
        raise ValueError(f"a unix socket's name has at most {_UNIX_PATH_MAX} bytes")
    return name


def _host(host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]")))
        except ValueError:
            raise ValueError(f"{host} is not an IPv6 address in brackets") from None
    if ":" in host:
        raise ValueError('an IPv6 address goes in brackets: "[v6]:port"')
    if host and re.fullmatch(r"[\d.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f"{host} is not an IPv4 address") from None
    if host and not _HOSTNAME.fullmatch(host):
        raise ValueError(EXPECTED)
    return host


def _port_range(text: str) -> tuple[int, int]:
    match = _PORTS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text or 'nothing'} is not a port; {EXPECTED}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last > 65535 or first > 65535:
        raise ValueError("ports go from 0 to 65535")
    if first > last:
        raise ValueError("a range of ports begins with the lower one")
    return first, last


def _numeric(host: str) -> tuple[int, str]:
    """(family, numeric host). A name is looked up and its first address taken. ValueError when it has none."""
    if not host:
        return socket.AF_INET6, "::"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return (socket.AF_INET6 if address.version == 6 else socket.AF_INET), host
    try:
        family, _, _, _, name = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(f"cannot resolve {host}: {error.strerror}") from None
    return family, str(name[0])


@functools.lru_cache(maxsize=_KNOWN)
def name_of(text: str) -> str:
    """The host of this valid address if it is a name that has to be looked up; otherwise empty."""
    address = parse_address(text)
    if address.kind != "ip" or not address.host:
        return ""
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        return address.host
    return ""


def resolve_backend(address: Address) -> SocketAddress:
    """Where to connect. Port 0 stays: it means the port that the client connected to."""
    if address.kind == "unix":
        return SocketAddress(socket.AF_UNIX, address.host)
    family, host = _numeric(address.host)
    return SocketAddress(family, host, address.ports[0])


def resolve_listener(address: Address) -> list[SocketAddress | InheritedSocket]:
    """Where to listen; more than one for a range of ports."""
    if address.kind == "fd":
        from l4lb.model.snapshot import InheritedSocket  # slow to import, and `l4lb health` is started each second

        return [InheritedSocket(address.host)]
    if address.kind == "unix":
        return [SocketAddress(socket.AF_UNIX, address.host)]
    family, host = _numeric(address.host)
    return [SocketAddress(family, host, port) for port in range(address.ports[0], address.ports[1] + 1)]


def parse_source(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, int]:
    """Clients: an address with a port or without (0 then), or a network such as ``192.0.2.0/24``. A v4-mapped IPv6
    address becomes the IPv4 address. ValueError for anything else."""
    if "/" in text:
        try:
            return ipaddress.ip_network(text, strict=False), 0
        except ValueError:
            raise ValueError(f'"{text}": expected a network such as 192.0.2.0/24 or 2001:db8::/32') from None
    host, port = parse_endpoint(text)
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return ipaddress.ip_network((mapped or address).packed), port


def source_interface(text: str) -> int:
    """The number of the interface that a source names (``fe80::1%eth0``); 0: none. ValueError for an unknown
    interface."""
    found = re.search(r"%([^]/:]+)", text)
    if found is None:
        return 0
    if found[1].isascii() and found[1].isdigit():
        return int(found[1])
    try:
        return socket.if_nametoindex(found[1])
    except OSError:
        raise ValueError(f'"{text}": no interface "{found[1]}"') from None


def parse_endpoint(text: str) -> tuple[str, int]:
    """A numeric address with or without a port (0 then): ``192.0.2.1``, ``192.0.2.1:5000``, ``2001:db8::1``,
    ``[2001:db8::1]:5000``. ValueError for anything else."""
    bracketed = re.fullmatch(r"\[(.*)\](?::(.*))?", text)
    if bracketed is not None:
        host, port = bracketed[1], "0" if bracketed[2] is None else bracketed[2]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, "0"
    try:
        ipaddress.ip_address(host)
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ValueError
    except ValueError:
        raise ValueError(f'"{text}": expected an IP address, with or without a port') from None
    return host, int(port)
