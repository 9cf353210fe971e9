# Backend socket: what TCP and UDP share on the way to a backend: the address to connect from, the address to connect
# to, and why a call failed. Called on the worker's thread.

from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.enums cimport SHORTAGE_NONE, connect_failure_t, shortage_t
from l4lb._dataplane.base.linux cimport (
    AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6, IPV6_TRANSPARENT, IP_BIND_ADDRESS_NO_PORT, IP_TRANSPARENT, bind,
    connect, setsockopt, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage,
)
from l4lb._dataplane.base.types cimport backend_t, pool_t, source_address_t
from l4lb._dataplane.base.verdicts cimport failure_of, shortage_count, shortage_of
from l4lb._dataplane.base.worker_types cimport worker_t


cdef inline int backend_connect_to(int fd, backend_t *backend, uint16_t local_port) noexcept nogil:
    """connect(2); `local_port` is the port that the client connected to, in network order."""
    cdef sockaddr_storage address
    if not backend.same_port:
        return connect(fd, <sockaddr *>&backend.address, backend.address_length)
    address = backend.address
    (<sockaddr_in *>&address).sin_port = local_port        # at the same place in sockaddr_in6
    return connect(fd, <sockaddr *>&address, backend.address_length)


cdef inline int source_bind(int fd, pool_t *pool) noexcept nogil:
    """bind(2) the pool's source_address: see base/verdicts.pxd.

    IP_BIND_ADDRESS_NO_PORT leaves the port to connect(2), so that one source address serves 28,000 sessions to each
    backend, not to all of them together.
    """
    cdef int on = 1
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on))
    return bind(fd, <sockaddr *>&pool.source, pool.source_length)


cdef inline bint client_fits(const source_address_t *client, int family) noexcept nogil:
    """Whether a socket of `family` can have the client's address."""
    return (family == AF_INET and client.length == 4) or (family == AF_INET6 and client.length == 16)


cdef inline int client_bind(int fd, const source_address_t *client) noexcept nogil:
    """Connect from the client's own address, which this host does not have: ip(7), IP_TRANSPARENT.

    setsockopt(2): EPERM without the capability, which control has checked. bind(2): as in `source_bind`.
    """
    cdef sockaddr_storage address
    cdef bint v4 = client.length == 4
    cdef int failed, on = 1
    memset(&address, 0, sizeof(address))
    if v4:
        address.ss_family = AF_INET
        memcpy(&(<sockaddr_in *>&address).sin_addr, client.bytes, 4)
        failed = setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof(on))
    else:
        address.ss_family = AF_INET6
        memcpy(&(<sockaddr_in6 *>&address).sin6_addr, client.bytes, 16)
        failed = setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, &on, sizeof(on))
    if failed < 0:
        return -1
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on))
    return bind(fd, <sockaddr *>&address, sizeof(sockaddr_in) if v4 else sizeof(sockaddr_in6))


cdef inline connect_failure_t attempt_failure(worker_t *w, int error, int family) noexcept nogil:
    """Why a call of an attempt failed; our own shortages are counted."""
    cdef shortage_t shortage = shortage_of(error, family)
    if shortage != SHORTAGE_NONE:
        shortage_count(w, shortage)
    return failure_of(error, family)
