"""What the errno of a call to a backend means: whether the peer, the path to it, or this host is the cause.

The same table as the data plane's (`_dataplane/base/verdicts.pxd`, which documents each call); a test compares them.
Health checks use this one.
"""

from __future__ import annotations

import errno
import socket
from enum import StrEnum

from l4lb.model.states import ConnectFailure, Shortage


class Verdict(StrEnum):
    PEER = "peer"
    PATH = "path"
    OWN = "own"


_SHORTAGES = {
    errno.EMFILE: Shortage.FILES,
    errno.ENFILE: Shortage.FILES,
    errno.ENOBUFS: Shortage.MEMORY,
    errno.ENOMEM: Shortage.MEMORY,
    errno.ENOSPC: Shortage.MEMORY,  # epoll_ctl(2): max_user_watches
    errno.EADDRNOTAVAIL: Shortage.PORTS,
    errno.EADDRINUSE: Shortage.PORTS,
    errno.EAGAIN: Shortage.PORTS,  # not of a unix socket
    errno.EPERM: Shortage.DENIED,
    errno.EACCES: Shortage.DENIED,
    errno.EAFNOSUPPORT: Shortage.FAMILY,
    errno.EPROTONOSUPPORT: Shortage.FAMILY,
}
_FAILURES = {
    **dict.fromkeys(
        (errno.ECONNREFUSED, errno.EAGAIN, errno.ENOENT, errno.ENOTDIR, errno.ELOOP), ConnectFailure.REFUSED
    ),
    errno.ECONNRESET: ConnectFailure.RESET,
    errno.ETIMEDOUT: ConnectFailure.TIMEOUT,
    **dict.fromkeys(
        (
            *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENONET),
            *(errno.EINVAL, errno.EPROTO, errno.ENOPROTOOPT, errno.EMSGSIZE),
        ),
        ConnectFailure.UNREACHABLE,
    ),
}
_VERDICTS = {
    ConnectFailure.REFUSED: Verdict.PEER,
    ConnectFailure.RESET: Verdict.PEER,
    ConnectFailure.RESOURCES: Verdict.OWN,
}  # everything else is a problem of the path

ADVICE = {
    Shortage.PORTS: "no local port is left for it: widen net.ipv4.ip_local_port_range, or add backends or addresses",
    Shortage.ADDRESS: "source_address is not an address of this host: see `ip address`",
    Shortage.FILES: "out of file descriptors: raise RLIMIT_NOFILE (LimitNOFILE= of the unit) or fs.file-max",
    Shortage.MEMORY: "out of memory for sockets: see net.ipv4.tcp_mem, net.ipv4.udp_mem and the limits of the service",
    Shortage.DENIED: "not permitted: look at this host's firewall (output), prohibiting routes and socket permissions",
    Shortage.FAMILY: "this host has no such address family: is IPv6 turned off?",
}


def shortage_of(error: int, family: int) -> Shortage | None:
    """The local resource that was short; None for other errors. `family` is the backend's."""
    if error == errno.EAGAIN and family == socket.AF_UNIX:
        return None
    return _SHORTAGES.get(error)


def shortage_of_bind(error: int, family: int) -> Shortage:
    """For bind(2) of a source address: a backend causes none of its errors."""
    shortage = shortage_of(error, family)
    return Shortage.ADDRESS if error == errno.EADDRNOTAVAIL or shortage is None else shortage


def failure_of(error: int, family: int, *, reported: bool = False) -> ConnectFailure:
    """Why a connect failed. `reported`: by the network (SO_ERROR, a read), not by a call."""
    if reported and error == errno.EACCES:
        return ConnectFailure.UNREACHABLE
    if shortage_of(error, family) is not None:
        return ConnectFailure.RESOURCES
    return _FAILURES.get(error, ConnectFailure.OTHER)


def verdict_of(error: int, family: int, *, reported: bool = False) -> Verdict:
    return _VERDICTS.get(failure_of(error, family, reported=reported), Verdict.PATH)
