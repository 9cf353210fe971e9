# Addresses: from the kernel's form to the compact one that sessions keep. Pure: any thread.

from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memcpy

from l4lb._dataplane.base.linux cimport AF_INET, AF_INET6, sockaddr_in, sockaddr_in6, sockaddr_storage
from l4lb._dataplane.base.types cimport source_address_t


cdef inline void source_address_from(source_address_t *address, const uint8_t *bytes, uint8_t length) noexcept nogil:
    """Set the address from `bytes`: IPv4, or IPv6 that may be v4-mapped. The port stays."""
    if bytes[10] == 0xFF and bytes[11] == 0xFF and bytes[0] == 0 and bytes[8] == 0:
        memcpy(address.bytes, bytes + 12, 4)
        address.length = 4
    else:
        memcpy(address.bytes, bytes, length)
        address.length = length


cdef inline void source_address_set(source_address_t *source, sockaddr_storage *address) noexcept nogil:
    """Keep a v4-mapped IPv6 address (RFC 4291, section 2.5.5.2) as the IPv4 address that it is. The kernel names the
    interface of a link-local address."""
    cdef sockaddr_in *v4 = <sockaddr_in *>address
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>address
    cdef uint8_t *bytes = <uint8_t *>&v6.sin6_addr
    cdef uint64_t *words = <uint64_t *>bytes
    source.length = 0
    source.port = 0
    source.scope_id = 0
    if address.ss_family == AF_INET:
        memcpy(source.bytes, &v4.sin_addr, 4)
        source.port = v4.sin_port
        source.length = 4
    elif address.ss_family == AF_INET6:
        source.port = v6.sin6_port
        if words[0] == 0 and bytes[8] == 0 and bytes[9] == 0 and bytes[10] == 0xFF and bytes[11] == 0xFF:
            memcpy(source.bytes, bytes + 12, 4)
            source.length = 4
        else:
            memcpy(source.bytes, bytes, 16)
            source.length = 16
            source.scope_id = v6.sin6_scope_id
