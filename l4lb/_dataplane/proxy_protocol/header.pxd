# PROXY protocol, received: strict; no system call, no allocation, no state of its own (HAProxy's
# doc/proxy-protocol.txt). Called by a worker on the first bytes of a client, peeked at or in its scratch buffer, again
# with all of them whenever more have come; on each datagram as a whole. Any thread.
#
#   data so far --> PROXY_COMPLETE: skip header.length bytes; header.family says whose addresses count
#               --> PROXY_NEED_MORE: only without mistakes so far; more than PROXY_HEADER_MAX_BYTES are never needed
#               --> a refusal: the same for every longer piece of the same stream

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcmp, memset

from l4lb._dataplane.base.enums cimport (
    PROXY_BAD_SIGNATURE, PROXY_COMPLETE, PROXY_NEED_MORE, PROXY_TRUNCATED, proxy_result_t,
)
from l4lb._dataplane.base.types cimport source_address_t
from l4lb._dataplane.proxy_protocol.types cimport (
    PROXY_ANY, PROXY_OFF, PROXY_V1, PROXY_V2, proxy_header_t, proxy_mode_t,
)
from l4lb._dataplane.proxy_protocol.v1 cimport proxy_v1_parse
from l4lb._dataplane.proxy_protocol.v2 cimport proxy_v2_parse

cdef enum:
    V1_FIRST_BYTE = 0x50          # "P"; a v2 header begins with CR


cdef inline proxy_result_t proxy_header_parse(
    proxy_header_t *header, const uint8_t *data, uint32_t length, proxy_mode_t mode
) noexcept nogil:
    """`header` is meaningful only when complete. With PROXY_OFF it is complete at once, and nothing is to be
    skipped."""
    memset(header, 0, sizeof(header[0]))
    if mode == PROXY_OFF:
        return PROXY_COMPLETE
    if length == 0:
        return PROXY_NEED_MORE
    if mode == PROXY_V1 or (mode == PROXY_ANY and data[0] == V1_FIRST_BYTE):
        return proxy_v1_parse(header, data, length)
    return proxy_v2_parse(header, data, length)


cdef inline proxy_result_t proxy_datagram_parse(
    proxy_header_t *header, const uint8_t *data, uint32_t length, proxy_mode_t mode
) noexcept nogil:
    """Header and payload share the datagram, so the rest can never come later; version 1 does not support datagrams."""
    cdef proxy_result_t result
    if mode == PROXY_V1:
        return PROXY_BAD_SIGNATURE
    result = proxy_header_parse(header, data, length, PROXY_OFF if mode == PROXY_OFF else PROXY_V2)
    return PROXY_TRUNCATED if result == PROXY_NEED_MORE else result


cdef inline void source_address_unmap(source_address_t *address) noexcept nogil:
    """A v4-mapped IPv6 address becomes the IPv4 address that it is, as everywhere in the data plane. A header
    names no interface."""
    cdef const char *prefix = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"
    cdef int i
    address.scope_id = 0
    if address.length == 16 and memcmp(address.bytes, prefix, 12) == 0:
        for i in range(4):
            address.bytes[i] = address.bytes[12 + i]
        memset(&address.bytes[4], 0, 12)
        address.length = 4
