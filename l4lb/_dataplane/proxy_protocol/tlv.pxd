# PROXY protocol, TLVs: walked one after the other, also before all of them have arrived (PROXY 2.2, 2.2.1 to 2.2.8).
# Called by `v2.pxd` (parse), `writer.pxd` (pass on) and `_native/algorithms.pyx`. Pure: no state, any thread.

from libc.stdint cimport uint32_t, uint8_t

from l4lb._dataplane.base.enums cimport (
    PROXY_BAD_TLV, PROXY_COMPLETE, PROXY_NEED_MORE, PROXY_TLV_OVERRUN, proxy_result_t,
)
from l4lb._dataplane.proxy_protocol.types cimport (
    PROXY_SSL_FIXED_BYTES, PROXY_TLV_ALPN, PROXY_TLV_AUTHORITY, PROXY_TLV_CRC32C, PROXY_TLV_NETNS, PROXY_TLV_SSL,
    PROXY_TLV_UNIQUE_ID, PROXY_UNIQUE_ID_MAX_BYTES, proxy_header_t, proxy_span_t, proxy_tlvs_t,
)

cdef enum:
    TLV_FIXED_BYTES = 3


cdef inline proxy_result_t proxy_tlv_next(proxy_tlvs_t *walk) noexcept nogil:
    """Read the type and length of the TLV at `walk.at`, which is before `walk.end`; its value may not be here yet."""
    cdef uint32_t left = walk.end - walk.at
    cdef uint32_t length
    if left < TLV_FIXED_BYTES:
        return PROXY_TLV_OVERRUN
    if walk.available < walk.at + TLV_FIXED_BYTES:
        return PROXY_NEED_MORE
    walk.type = walk.data[walk.at]
    length = (<uint32_t>walk.data[walk.at + 1] << 8) | walk.data[walk.at + 2]
    if length > left - TLV_FIXED_BYTES:
        return PROXY_TLV_OVERRUN
    walk.value.offset = walk.at + TLV_FIXED_BYTES
    walk.value.length = length
    walk.at += TLV_FIXED_BYTES + length
    return PROXY_COMPLETE


cdef inline proxy_result_t proxy_ssl_check(proxy_tlvs_t *outer) noexcept nogil:
    """The TLVs within an SSL TLV must end where it does (PROXY 2.2.6); their values are left to their reader."""
    cdef proxy_tlvs_t walk = outer[0]
    cdef proxy_result_t result = PROXY_COMPLETE
    if outer.value.length < PROXY_SSL_FIXED_BYTES:
        return PROXY_BAD_TLV
    walk.at = outer.value.offset + PROXY_SSL_FIXED_BYTES
    walk.end = outer.value.offset + outer.value.length
    while result == PROXY_COMPLETE and walk.at < walk.end:
        result = proxy_tlv_next(&walk)
    return result


cdef inline proxy_span_t *proxy_span_of(proxy_header_t *header, uint8_t type) noexcept nogil:
    if type == PROXY_TLV_ALPN:
        return &header.alpn
    if type == PROXY_TLV_AUTHORITY:
        return &header.authority
    if type == PROXY_TLV_CRC32C:
        return &header.crc32c
    if type == PROXY_TLV_UNIQUE_ID:
        return &header.unique_id
    if type == PROXY_TLV_SSL:
        return &header.ssl
    if type == PROXY_TLV_NETNS:
        return &header.netns
    return NULL


cdef inline proxy_result_t proxy_tlv_note(proxy_header_t *header, proxy_tlvs_t *walk) noexcept nogil:
    """Check the TLV just read by its type and note the first of each type. Unknown types may hold anything."""
    cdef proxy_span_t *span = proxy_span_of(header, walk.type)
    cdef proxy_result_t result
    if walk.type == PROXY_TLV_CRC32C and (walk.value.length != 4 or span.offset):
        return PROXY_BAD_TLV       # two of them would leave undefined what each covers
    if walk.type == PROXY_TLV_UNIQUE_ID and walk.value.length > PROXY_UNIQUE_ID_MAX_BYTES:
        return PROXY_BAD_TLV
    if walk.type == PROXY_TLV_SSL:
        result = proxy_ssl_check(walk)
        if result != PROXY_COMPLETE:
            return result
    if span != NULL and span.offset == 0:
        span[0] = walk.value
    return PROXY_COMPLETE


cdef inline proxy_result_t proxy_tlvs_parse(
    proxy_header_t *header, const uint8_t *data, uint32_t available
) noexcept nogil:
    """Parse all of `header.tlvs`. Refuses at the first impossible byte; complete once nothing can go wrong any more."""
    cdef proxy_tlvs_t walk
    cdef proxy_result_t result
    walk.data = data
    walk.available = available
    walk.at = header.tlvs.offset
    walk.end = walk.at + header.tlvs.length
    while walk.at < walk.end:
        result = proxy_tlv_next(&walk)
        if result == PROXY_COMPLETE:
            result = proxy_tlv_note(header, &walk)
        if result != PROXY_COMPLETE:
            return result
    return PROXY_COMPLETE
