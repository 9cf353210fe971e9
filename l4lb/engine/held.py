"""Sockets that hold the addresses of listeners in the kernel, so that nobody else gets them."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from ipaddress import ip_address

from l4lb.model.address import SocketAddress
from l4lb.model.states import Protocol
from l4lb.net.listen.filters import DROP_ALL
from l4lb.net.listen.options import SO_ATTACH_FILTER, attach

Bound = tuple[Protocol, SocketAddress]
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h (since Linux 4.15)


def expect_bound(held: Sequence[Bound], fds: Sequence[int]) -> None:
    """That each is a socket with that address. The descriptors stay the caller's. ValueError; TypeError, OSError."""
    if len(set(held)) != len(held):
        raise ValueError("an address comes twice")
    for (protocol, address), fd in zip(held, fds, strict=True):
        sock = socket.socket(fileno=fd)
        try:
            kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
            host, port = sock.getsockname()[:2]
            if (sock.family, sock.type, port) != (address.family, kind, address.port) or not _is_host(address, host):
                raise ValueError(f"{address}: another socket")
        finally:
            sock.detach()


def expect_directory(fds: Sequence[int]) -> None:
    """ValueError, OSError."""
    if not all(stat.S_ISDIR(os.fstat(fd).st_mode) for fd in fds):
        raise ValueError("what is pinned is in no directory")


def _is_host(address: SocketAddress, host: str) -> bool:
    """getsockname(2) leaves out the device of a link-local address. ValueError, TypeError when it is no address."""
    return ip_address(str(address.host).partition("%")[0]) == ip_address(host.partition("%")[0])


def bound_socket(protocol: Protocol, address: SocketAddress) -> socket.socket:
    """Without listening; a datagram that comes all the same is dropped. The address need not be this host's.

    bind(2): EADDRINUSE. For TCP that may be connections in TIME_WAIT, as of a proxy that was here before: then the
    address is shared with them (SO_REUSEADDR), and others could listen there.
    """
    try:
        return _bind(protocol, address, reuse=False)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or protocol is not Protocol.TCP:
            raise
        return _bind(protocol, address, reuse=True)


def _bind(protocol: Protocol, address: SocketAddress, *, reuse: bool) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    sock = socket.socket(address.family, kind | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if protocol is Protocol.UDP:
            attach(sock, SO_ATTACH_FILTER, DROP_ALL)
        sock.bind((address.host, address.port))
    except BaseException:
        sock.close()
        raise
    return sock
