# PROXY protocol, version 2: the binary header (PROXY 2.2). What cannot become a header is refused at the first byte
# that shows it. Called by `header.pxd`. Pure: no state, any thread.
#
#   0            12             13                  14       16          16 + addresses
#   | signature  | version, cmd | family, transport | length | addresses | TLVs ...     |  16 + length
#
# LOCAL: the rest is skipped unread, whatever its family is. UNSPEC (either half of byte 13): addresses are ignored;
# what follows is read only if it consists of TLVs from its first byte to its last, else it is skipped too.

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcmp, memcpy, memset

from l4lb._dataplane.base.enums cimport (
    PROXY_BAD_COMMAND, PROXY_BAD_FAMILY, PROXY_BAD_SIGNATURE, PROXY_BAD_TRANSPORT, PROXY_BAD_VERSION, PROXY_COMPLETE,
    PROXY_CRC_MISMATCH, PROXY_HEADER_MAX_BYTES, PROXY_NEED_MORE, PROXY_TOO_LARGE, PROXY_TOO_SHORT, proxy_result_t,
)
from l4lb._dataplane.proxy_protocol.crc32c cimport CRC32C_BEGIN, crc32c_end, crc32c_extend
from l4lb._dataplane.proxy_protocol.tlv cimport proxy_tlvs_parse
from l4lb._dataplane.proxy_protocol.types cimport (
    PROXY_COMMAND_LOCAL, PROXY_COMMAND_PROXY, PROXY_DGRAM, PROXY_INET, PROXY_INET6, PROXY_TRANSPORT_UNSPEC, PROXY_UNIX,
    PROXY_UNIX_BYTES, PROXY_UNSPEC, PROXY_V2_FIXED_BYTES, proxy_header_t,
)

cdef extern from * nogil:
    """
    #include <stdint.h>
    static const uint8_t proxy_v2_signature[12] = {13, 10, 13, 10, 0, 13, 10, 'Q', 'U', 'I', 'T', 10};
    """
    const uint8_t *proxy_v2_signature

cdef enum:
    V2_SIGNATURE_BYTES = 12


cdef inline uint32_t proxy_address_bytes(uint8_t family) noexcept nogil:
    """Of both endpoints and their ports."""
    if family == PROXY_INET:
        return 12
    if family == PROXY_INET6:
        return 36
    return 2 * PROXY_UNIX_BYTES if family == PROXY_UNIX else 0


cdef inline proxy_result_t v2_kind(proxy_header_t *header, const uint8_t *data, uint32_t available) noexcept nogil:
    """Version, command, family and transport, as far as they are here."""
    if available > 12:
        if data[12] >> 4 != 2:
            return PROXY_BAD_VERSION
        header.command = data[12] & 15
        if header.command > PROXY_COMMAND_PROXY:
            return PROXY_BAD_COMMAND
    if available > 13 and header.command != PROXY_COMMAND_LOCAL:
        header.family = data[13] >> 4
        header.transport = data[13] & 15
        if header.family > PROXY_UNIX:
            return PROXY_BAD_FAMILY
        if header.transport > PROXY_DGRAM:
            return PROXY_BAD_TRANSPORT
        if header.family == PROXY_UNSPEC or header.transport == PROXY_TRANSPORT_UNSPEC:
            header.family = PROXY_UNSPEC
            header.transport = PROXY_TRANSPORT_UNSPEC
    return PROXY_COMPLETE


cdef inline proxy_result_t v2_size(proxy_header_t *header, const uint8_t *data, uint32_t available) noexcept nogil:
    """The whole header's length, and where TLVs may begin."""
    cdef uint32_t length, addresses
    if available > 14 and (<uint32_t>data[14] << 8) + PROXY_V2_FIXED_BYTES > PROXY_HEADER_MAX_BYTES:
        return PROXY_TOO_LARGE
    if available < PROXY_V2_FIXED_BYTES:
        return PROXY_NEED_MORE
    length = (<uint32_t>data[14] << 8) | data[15]
    addresses = proxy_address_bytes(header.family)
    if length + PROXY_V2_FIXED_BYTES > PROXY_HEADER_MAX_BYTES:
        return PROXY_TOO_LARGE
    if length < addresses:
        return PROXY_TOO_SHORT
    header.length = PROXY_V2_FIXED_BYTES + length
    header.tlvs.offset = PROXY_V2_FIXED_BYTES + addresses
    header.tlvs.length = length - addresses
    return PROXY_COMPLETE


cdef inline void v2_skip_tlvs(proxy_header_t *header) noexcept nogil:
    memset(&header.tlvs, 0, sizeof(header.tlvs))
    memset(&header.alpn, 0, sizeof(header.alpn))
    memset(&header.authority, 0, sizeof(header.authority))
    memset(&header.crc32c, 0, sizeof(header.crc32c))
    memset(&header.unique_id, 0, sizeof(header.unique_id))
    memset(&header.ssl, 0, sizeof(header.ssl))
    memset(&header.netns, 0, sizeof(header.netns))


cdef inline proxy_result_t v2_tlvs(proxy_header_t *header, const uint8_t *data, uint32_t available) noexcept nogil:
    cdef proxy_result_t result
    if header.command == PROXY_COMMAND_LOCAL:
        header.tlvs.offset = header.tlvs.length = 0
    elif header.family != PROXY_UNSPEC:
        result = proxy_tlvs_parse(header, data, available)
        if result != PROXY_COMPLETE:
            return result
    elif available >= header.length and proxy_tlvs_parse(header, data, available) != PROXY_COMPLETE:
        v2_skip_tlvs(header)
    return PROXY_COMPLETE if available >= header.length else PROXY_NEED_MORE


cdef inline uint32_t proxy_crc32c(const uint8_t *data, uint32_t length, uint32_t field_at) noexcept nogil:
    """Of a whole header, with its four bytes at `field_at` taken as zeros (PROXY 2.2.3)."""
    cdef uint8_t zeros[4]
    cdef uint32_t crc
    memset(zeros, 0, 4)
    crc = crc32c_extend(CRC32C_BEGIN, data, field_at)
    crc = crc32c_extend(crc, zeros, 4)
    return crc32c_end(crc32c_extend(crc, data + field_at + 4, length - field_at - 4))


cdef inline bint v2_crc_matches(proxy_header_t *header, const uint8_t *data) noexcept nogil:
    cdef const uint8_t *field = data + header.crc32c.offset
    cdef uint32_t given = (<uint32_t>field[0] << 24) | (<uint32_t>field[1] << 16) | (<uint32_t>field[2] << 8) | field[3]
    return header.crc32c.offset == 0 or proxy_crc32c(data, header.length, header.crc32c.offset) == given


cdef inline void v2_endpoints(proxy_header_t *header, const uint8_t *data) noexcept nogil:
    """The whole address block is here; ports stay in network order."""
    cdef uint32_t size = 4 if header.family == PROXY_INET else 16
    if header.family == PROXY_UNIX:
        memcpy(header.source_path, data, PROXY_UNIX_BYTES)
        memcpy(header.destination_path, data + PROXY_UNIX_BYTES, PROXY_UNIX_BYTES)
    elif header.family != PROXY_UNSPEC:
        header.source.length = header.destination.length = size
        memcpy(header.source.bytes, data, size)
        memcpy(header.destination.bytes, data + size, size)
        memcpy(&header.source.port, data + 2 * size, 2)
        memcpy(&header.destination.port, data + 2 * size + 2, 2)


cdef inline proxy_result_t proxy_v2_parse(
    proxy_header_t *header, const uint8_t *data, uint32_t available
) noexcept nogil:
    cdef uint32_t seen = available if available < V2_SIGNATURE_BYTES else <uint32_t>V2_SIGNATURE_BYTES
    cdef proxy_result_t result
    if memcmp(data, proxy_v2_signature, seen) != 0:
        return PROXY_BAD_SIGNATURE
    header.version = 2
    result = v2_kind(header, data, available)
    if result == PROXY_COMPLETE:
        result = v2_size(header, data, available)
    if result == PROXY_COMPLETE:
        result = v2_tlvs(header, data, available)
    if result != PROXY_COMPLETE:
        return result
    if not v2_crc_matches(header, data):
        return PROXY_CRC_MISMATCH
    v2_endpoints(header, data + PROXY_V2_FIXED_BYTES)
    return PROXY_COMPLETE
