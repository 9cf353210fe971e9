# Paths: what the network reports about datagrams on their way to backends, and which backends are passed over for it.
# Called on the worker's thread by links.pxd, connect.pxd, picking.pxd and reports.pxd, and by send_batch.pxd for errors
# alone.
#
# A connected UDP socket reports an ICMP message once, as the error of whichever call comes next, before it does what it
# was asked to (net/ipv4/udp.c:__udp4_lib_err, net/ipv6/udp.c; without IP_RECVERR the kernel drops those that it takes
# for transient: host and net unreachable by a router, time exceeded):
#
#   ECONNREFUSED              port unreachable: nobody listens there
#   EHOSTUNREACH              IPv4: host or communication prohibited, precedence violation or cutoff
#   EHOSTDOWN                 IPv4: host unknown
#   ENETUNREACH, ENONET       IPv4: net prohibited or unknown; source host isolated
#   EACCES                    IPv6: prohibited, source address failed policy, route rejected
#   EMSGSIZE                  fragmentation needed, packet too big: that datagram is lost, the next ones are fragmented
#   ENOPROTOOPT, EPROTO       IPv4: protocol unreachable; parameter problem
#
# So after any of them there may be answers to read, and the datagram that was to be sent was not. EHOSTUNREACH,
# ENETUNREACH, EACCES and ENETDOWN may also come from our own route for the datagram at hand; then sending it again
# fails again.

from libc.stdint cimport int32_t, uint32_t

from l4lb._dataplane.base.enums cimport (
    PATH_ERROR_COUNT, PATH_HOST_UNREACHABLE, PATH_NET_UNREACHABLE, PATH_PROHIBITED, PATH_PROTOCOL, PATH_REFUSED,
    PATH_TOO_LARGE, REFUSED_MS, REFUSED_SLOTS, path_error_t,
)
from l4lb._dataplane.base.linux cimport (
    EACCES, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EMSGSIZE, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EOPNOTSUPP,
    EPROTO,
)
from l4lb._dataplane.base.udp_types cimport refused_t
from l4lb._dataplane.base.worker_types cimport worker_t


cdef inline path_error_t path_error_of(int error) noexcept nogil:
    """PATH_ERROR_COUNT: the error says nothing about the path (EAGAIN, EINTR, ENOBUFS, ENOMEM, EPERM of a local
    firewall)."""
    if error == ECONNREFUSED:
        return PATH_REFUSED
    if error == EHOSTUNREACH or error == EHOSTDOWN:
        return PATH_HOST_UNREACHABLE
    if error == ENETUNREACH or error == ENONET or error == ENETDOWN:
        return PATH_NET_UNREACHABLE
    if error == EACCES:
        return PATH_PROHIBITED
    if error == EMSGSIZE:
        return PATH_TOO_LARGE
    if error == EPROTO or error == ENOPROTOOPT or error == EOPNOTSUPP:
        return PATH_PROTOCOL
    return PATH_ERROR_COUNT


cdef inline bint path_is_closed(path_error_t kind) noexcept nogil:
    """Whether the backend cannot be reached while this lasts."""
    return kind == PATH_HOST_UNREACHABLE or kind == PATH_NET_UNREACHABLE or kind == PATH_PROHIBITED


# ---- backends that are passed over ----

cdef inline refused_t *refused_place(worker_t *w, uint32_t backend_id) noexcept nogil:
    return &w.udp.refused[backend_id % REFUSED_SLOTS]


cdef inline bint refused_lately(worker_t *w, uint32_t backend_id) noexcept nogil:
    cdef refused_t *place = refused_place(w, backend_id)
    return place.backend_id == backend_id and <int32_t>(place.until_ms - <uint32_t>w.now_ms) > 0


cdef inline void refused_note(worker_t *w, uint32_t backend_id) noexcept nogil:
    """It refused, or cannot be reached: for a while new sessions go elsewhere, if they can."""
    cdef refused_t *place = refused_place(w, backend_id)
    place.backend_id = backend_id
    place.until_ms = <uint32_t>w.now_ms + REFUSED_MS
