# Verdicts: what an errno of a call to a backend means, and for whom. The one table of the data plane;
# l4lb/model/verdicts.py is the same for health checks, and tests/unit/dataplane/test_verdicts.py holds them together.
#
#   peer  the backend said or did it             refused, reset
#   path  the way there did                      timeout, unreachable, other
#   own   this host could or would not ask it    resources: nothing was learnt of the backend
#
# Own wants count no failure in a row, so they eject nobody, and they are no sign of a slow backend. What is true of
# each call was found by causing it, on Linux 6.18 (tests/scenarios/test_own_shortage.py, test_errnos.py):
#
#   socket(2)   all is ours: EMFILE, ENFILE, ENOBUFS, ENOMEM, EAFNOSUPPORT (no IPv6 here), EACCES, EPERM.
#   bind(2)     all is ours: EADDRNOTAVAIL, the source address is not of this host; EADDRINUSE, no port with it.
#   connect(2)  EADDRNOTAVAIL: every port is in use from this source to this destination (others may do), or this host
#               has no address of the family. UDP says EAGAIN, and its ports are those of a source address for all
#               destinations together. EAGAIN of a unix socket is the backend's: its queue is full. ENOENT, ENOTDIR and
#               ELOOP are of its path.
#               Routes: unreachable EHOSTUNREACH, none or throw ENETUNREACH, blackhole EINVAL: path, as if a router said
#               so. prohibit EACCES: ours, as is a broadcast address.
#               A firewall's output rule: drop says nothing over TCP (a time-out: nobody can tell it from a backend that
#               is gone), reject is what its ICMP says (ECONNREFUSED, EHOSTUNREACH: nor that from a remote one).
#   send(2)     of UDP: EPERM, an output rule, drop or reject alike; what reject's ICMP says comes after it. EAGAIN,
#               ENOBUFS, ENOMEM: no room here. EMSGSIZE: one datagram. Of TCP: only what the connection ended of.
#   SO_ERROR    and reads: what the network said by ICMP: see icmp(7). EACCES comes from there too (ICMPv6, prohibited):
#               then it is of the path, see `failure_reported`.

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
    """What of our own was short; SHORTAGE_NONE: it is not ours. `family` is the backend's."""
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
    """Whether no other backend would do either, and nobody is to be accepted for a while."""
    return shortage == SHORTAGE_FILES or shortage == SHORTAGE_MEMORY


cdef inline void shortage_count(worker_t *w, shortage_t shortage) noexcept nogil:
    """For control, which says in the log what to do about it."""
    counter_add(&w.counters.shortages[<int>shortage], 1)


cdef inline shortage_t shortage_of_bind(int error, int family) noexcept nogil:
    """bind(2), IP_TRANSPARENT: none of its errors is a backend's."""
    cdef shortage_t shortage = shortage_of(error, family)
    return SHORTAGE_ADDRESS if error == EADDRNOTAVAIL or shortage == SHORTAGE_NONE else shortage


cdef inline connect_failure_t failure_of(int error, int family) noexcept nogil:
    """What a call of an attempt failed of: socket(2), connect(2), send(2)."""
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
    """The same of an error that came from the network: SO_ERROR of a pending connect, reads."""
    return FAILURE_UNREACHABLE if error == EACCES else failure_of(error, family)
