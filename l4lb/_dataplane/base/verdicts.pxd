# Verdicts: what an errno of a call to a backend means, and for whom. The one table of the data plane;
# l4lb/model/verdicts.py is the same for health checks, and tests/unit/dataplane/base/test_verdicts.py holds them
# together.
#
#   peer  the backend said or did it             refused, reset
#   path  the way there did                      timeout, unreachable, other
#   own   this host could or would not ask it    resources: nothing was learnt about the backend
#
# Our own shortages do not count as failures in a row, so they eject no backend, and they are no sign of a slow one.
# What each call returns was found by causing it, on Linux 6.18 (tests/scenarios/test_own_shortage.py, test_errnos.py):
#
#   socket(2)   all errors are ours: EMFILE, ENFILE, ENOBUFS, ENOMEM, EAFNOSUPPORT (no IPv6 here), EACCES, EPERM.
#   bind(2)     all errors are ours: EADDRNOTAVAIL, this host does not have the source address; EADDRINUSE, no port with
#               it is free.
#   connect(2)  EADDRNOTAVAIL: every port is in use from this source to this destination (others may do), or this host
#               has no address of the family. UDP returns EAGAIN, and all destinations share the ports of a source
#               address. EAGAIN on a unix socket is the backend's: its queue is full. ENOENT, ENOTDIR and ELOOP concern
#               its path.
#               Routes: unreachable EHOSTUNREACH, none or throw ENETUNREACH, blackhole EINVAL: path, as if a router had
#               reported it. prohibit EACCES: ours, as is a broadcast address.
#               A firewall's output rule: drop is silent over TCP (a time-out, which looks like a backend that is gone),
#               reject is what its ICMP message means (ECONNREFUSED, EHOSTUNREACH, as from a remote firewall).
#   send(2)     UDP: EPERM, an output rule, drop or reject alike; the error of reject's ICMP message follows. EAGAIN,
#               ENOBUFS, ENOMEM: no room here. EMSGSIZE: this datagram alone. TCP: only what ended the connection.
#   SO_ERROR    and reads: what the network reported by ICMP, see icmp(7). EACCES comes from there too (ICMPv6,
#               prohibited): then it is the path's, see `failure_reported`.

from l4lb._dataplane.base.enums cimport (
    FAILURE_OTHER, FAILURE_REFUSED, FAILURE_RESET, FAILURE_RESOURCES, FAILURE_TIMEOUT, FAILURE_UNREACHABLE,
    SHORTAGE_ADDRESS, SHORTAGE_DENIED, SHORTAGE_FAMILY, SHORTAGE_FILES, SHORTAGE_MEMORY, SHORTAGE_NONE, SHORTAGE_PORTS,
    connect_failure_t, shortage_t,
)
from l4lb._dataplane.base.linux cimport (
    AF_UNIX, EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, ECONNREFUSED, ECONNRESET, EHOSTDOWN,
    EHOSTUNREACH, EINVAL, ELOOP, EMFILE, EMSGSIZE, ENETDOWN, ENETUNREACH, ENFILE, ENOBUFS, ENOENT, ENOMEM, ENONET,
    ENOPROTOOPT, ENOSPC, ENOTDIR, EPERM, EPROTO, EPROTONOSUPPORT, ETIMEDOUT, counter_add,
)
from l4lb._dataplane.base.worker_types cimport worker_t


cdef inline shortage_t shortage_of(int error, int family) noexcept nogil:
    """What this host was short of; SHORTAGE_NONE: the error is not ours. `family` is the backend's."""
    if error == EMFILE or error == ENFILE:
        return SHORTAGE_FILES
    if error == ENOBUFS or error == ENOMEM or error == ENOSPC:        # ENOSPC of epoll_ctl(2): max_user_watches
        return SHORTAGE_MEMORY
    if error == EADDRNOTAVAIL or error == EADDRINUSE or (error == EAGAIN and family != AF_UNIX):
        return SHORTAGE_PORTS
    if error == EPERM or error == EACCES:
        return SHORTAGE_DENIED
    if error == EAFNOSUPPORT or error == EPROTONOSUPPORT:
        return SHORTAGE_FAMILY
    return SHORTAGE_NONE


cdef inline bint shortage_is_everywhere(shortage_t shortage) noexcept nogil:
    """Whether every other backend would fail too, so that accepting should pause."""
    return shortage == SHORTAGE_FILES or shortage == SHORTAGE_MEMORY


cdef inline void shortage_count(worker_t *w, shortage_t shortage) noexcept nogil:
    """Count it for control, which logs what to do about it."""
    counter_add(&w.counters.shortages[<int>shortage], 1)


cdef inline shortage_t shortage_of_bind(int error, int family) noexcept nogil:
    """bind(2), IP_TRANSPARENT: none of its errors is a backend's."""
    cdef shortage_t shortage = shortage_of(error, family)
    return SHORTAGE_ADDRESS if error == EADDRNOTAVAIL or shortage == SHORTAGE_NONE else shortage


cdef inline connect_failure_t failure_of(int error, int family) noexcept nogil:
    """Why a call of an attempt failed: socket(2), connect(2), send(2)."""
    if shortage_of(error, family) != SHORTAGE_NONE:
        return FAILURE_RESOURCES
    if error == ECONNREFUSED or error == EAGAIN or error == ENOENT or error == ENOTDIR or error == ELOOP:
        return FAILURE_REFUSED
    if error == ECONNRESET:
        return FAILURE_RESET
    if error == ETIMEDOUT:
        return FAILURE_TIMEOUT
    if error == EHOSTUNREACH or error == ENETUNREACH or error == ENETDOWN or error == EHOSTDOWN or error == ENONET:
        return FAILURE_UNREACHABLE
    if error == EINVAL or error == EPROTO or error == ENOPROTOOPT or error == EMSGSIZE:
        return FAILURE_UNREACHABLE
    return FAILURE_OTHER


cdef inline connect_failure_t failure_reported(int error, int family) noexcept nogil:
    """The same for an error that came from the network: SO_ERROR of a pending connect, reads."""
    return FAILURE_UNREACHABLE if error == EACCES else failure_of(error, family)
