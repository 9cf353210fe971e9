# PROXY protocol, sent: builds a header of either version in a buffer of the caller's. Called by a worker for the first
# bytes to a backend and for each datagram, by `_native/algorithms.pyx` for health checks and scripts. No system call,
# no allocation, no state but the struct; any thread. The first failure sticks, so only the end must be checked:
#
#   proxy_write_begin -> proxy_write_tlv, proxy_write_received, proxy_write_crc32c in any order -> proxy_write_end
#
# A header that is to arrive in one piece through any network has at most 536 bytes (PROXY 2); the caller chooses.

from libc.stdint cimport uint32_t, uint8_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.enums cimport PROXY_COMPLETE
from l4lb._dataplane.base.linux cimport EINVAL, ENOBUFS, ntohs
from l4lb._dataplane.base.types cimport source_address_t
from l4lb._dataplane.proxy_protocol.header cimport source_address_unmap
from l4lb._dataplane.proxy_protocol.tlv cimport proxy_tlv_next
from l4lb._dataplane.proxy_protocol.types cimport (
    PROXY_COMMAND_LOCAL, PROXY_COMMAND_PROXY, PROXY_INET, PROXY_INET6, PROXY_STREAM, PROXY_TLV_CRC32C, PROXY_TLV_NOOP,
    PROXY_TLV_UNIQUE_ID, PROXY_TRANSPORT_UNSPEC, PROXY_UNIQUE_ID_MAX_BYTES, PROXY_UNIX, PROXY_UNIX_BYTES, PROXY_UNSPEC,
    PROXY_V1_MAX_BYTES, PROXY_V2_FIXED_BYTES, proxy_header_t, proxy_tlvs_t, proxy_writer_t,
)
from l4lb._dataplane.proxy_protocol.v2 cimport proxy_address_bytes, proxy_crc32c, proxy_v2_signature

cdef enum:
    V6_TEXT_BYTES = 40            # eight groups of four, seven colons, the zero byte
    PROXY_BLOCK_MAX_BYTES = 65535     # after the fixed part: the most that its length field can hold


cdef inline void source_address_map(source_address_t *address) noexcept nogil:
    """An IPv4 address becomes a v4-mapped IPv6 address (RFC 4291 2.5.5.2)."""
    if address.length == 4:
        memcpy(&address.bytes[12], address.bytes, 4)
        memset(address.bytes, 0, 10)
        memset(&address.bytes[10], 0xFF, 2)
        address.length = 16


cdef inline void proxy_header_name(
    proxy_header_t *header, const source_address_t *source, const source_address_t *destination, uint8_t transport
) noexcept nogil:
    """Name the endpoints, and set family and command. Of two families, the IPv4 side is written as IPv6. When a side
    has no IP address the header is LOCAL: receivers may refuse PROXY with UNSPEC or a unix socket (HAProxy does both),
    and it is what HAProxy sends for unix clients."""
    header.command = PROXY_COMMAND_PROXY
    header.source = source[0]
    header.destination = destination[0]
    header.transport = transport
    source_address_unmap(&header.source)
    source_address_unmap(&header.destination)
    if not header.source.length or not header.destination.length:
        header.command = PROXY_COMMAND_LOCAL
        header.family = PROXY_UNSPEC
        header.transport = PROXY_TRANSPORT_UNSPEC
    elif header.source.length == 4 and header.destination.length == 4:
        header.family = PROXY_INET
    else:
        header.family = PROXY_INET6
        source_address_map(&header.source)
        source_address_map(&header.destination)


cdef inline void writer_append(proxy_writer_t *writer, const void *data, uint32_t length) noexcept nogil:
    if writer.error:
        return
    if length > writer.capacity - writer.length:
        writer.error = -ENOBUFS
        return
    if length:
        memcpy(writer.bytes + writer.length, data, length)
    writer.length += length


cdef inline void writer_append_u16(proxy_writer_t *writer, uint32_t value) noexcept nogil:
    cdef uint8_t bytes[2]
    bytes[0] = value >> 8
    bytes[1] = value & 0xFF
    writer_append(writer, bytes, 2)


# ---- version 1 ----

cdef inline uint32_t v6_word(const uint8_t *bytes, int group) noexcept nogil:
    return (<uint32_t>bytes[2 * group] << 8) | bytes[2 * group + 1]


cdef inline void v6_longest_zeros(const uint8_t *bytes, int *first, int *count) noexcept nogil:
    """The first longest run of zero groups; one alone is no run (RFC 5952 4.2)."""
    cdef int i, run = 0
    first[0] = -1
    count[0] = 1
    for i in range(8):
        run = run + 1 if v6_word(bytes, i) == 0 else 0
        if run > count[0]:
            count[0] = run
            first[0] = i + 1 - run


cdef inline void v6_text(char *text, const uint8_t *bytes) noexcept nogil:
    """As RFC 5952 section 4 requires; v4-mapped addresses in hexadecimal too, as PROXY 2.1 requires."""
    cdef int first, count, length = 0, i = 0
    v6_longest_zeros(bytes, &first, &count)
    while i < 8:
        if i == first:
            length += snprintf(text + length, V6_TEXT_BYTES - length, b"::")
            i += count
            continue
        if i and i != first + count:
            length += snprintf(text + length, V6_TEXT_BYTES - length, b":")
        length += snprintf(text + length, V6_TEXT_BYTES - length, b"%x", v6_word(bytes, i))
        i += 1


cdef inline void address_text(char *text, const source_address_t *address) noexcept nogil:
    cdef const uint8_t *octets = &address.bytes[0]
    if address.length == 4:
        snprintf(text, V6_TEXT_BYTES, b"%u.%u.%u.%u", octets[0], octets[1], octets[2], octets[3])
    else:
        v6_text(text, octets)


cdef inline void write_v1(proxy_writer_t *writer, const proxy_header_t *header) noexcept nogil:
    """UNKNOWN is for all that a line cannot express: LOCAL, datagrams, unix sockets."""
    cdef char source[V6_TEXT_BYTES]
    cdef char destination[V6_TEXT_BYTES]
    cdef char line[PROXY_V1_MAX_BYTES + 1]
    cdef int length, digit = 4 if header.family == PROXY_INET else 6
    cdef bint tcp = header.command != PROXY_COMMAND_LOCAL and header.transport == PROXY_STREAM
    if not tcp or (header.family != PROXY_INET and header.family != PROXY_INET6):
        writer_append(writer, b"PROXY UNKNOWN\r\n", 15)
        return
    address_text(source, &header.source)
    address_text(destination, &header.destination)
    length = snprintf(
        line, sizeof(line), b"PROXY TCP%d %s %s %u %u\r\n", digit, source, destination,
        ntohs(header.source.port), ntohs(header.destination.port)
    )
    writer_append(writer, line, length)


# ---- version 2 ----

cdef inline void write_v2(proxy_writer_t *writer, const proxy_header_t *header) noexcept nogil:
    """A LOCAL header names no client and has no block (PROXY 2.2)."""
    cdef bint local = header.command == PROXY_COMMAND_LOCAL
    cdef uint8_t family = PROXY_UNSPEC if local else header.family
    cdef uint8_t kind[4]
    kind[0] = 0x20 | header.command
    kind[1] = (family << 4) | (PROXY_TRANSPORT_UNSPEC if family == PROXY_UNSPEC else header.transport)
    kind[2] = kind[3] = 0                                      # the length is filled in at the end
    writer_append(writer, proxy_v2_signature, 12)
    writer_append(writer, kind, 4)
    if family == PROXY_UNIX:
        writer_append(writer, header.source_path, PROXY_UNIX_BYTES)
        writer_append(writer, header.destination_path, PROXY_UNIX_BYTES)
    elif family == PROXY_INET or family == PROXY_INET6:
        writer_append(writer, header.source.bytes, (proxy_address_bytes(family) - 4) // 2)
        writer_append(writer, header.destination.bytes, (proxy_address_bytes(family) - 4) // 2)
        writer_append(writer, &header.source.port, 2)
        writer_append(writer, &header.destination.port, 2)


cdef inline void proxy_write_begin(
    proxy_writer_t *writer, const proxy_header_t *header, uint8_t *bytes, uint32_t capacity
) noexcept nogil:
    """Version, command, family and endpoints are those of `header`; the rest of it is not read."""
    memset(writer, 0, sizeof(writer[0]))
    writer.bytes = bytes
    writer.capacity = capacity
    writer.version = header.version
    writer.command = header.command
    if header.version == 1:
        write_v1(writer, header)
    else:
        write_v2(writer, header)


cdef inline void proxy_write_tlv(
    proxy_writer_t *writer, uint8_t type, const uint8_t *value, uint32_t length
) noexcept nogil:
    """-EINVAL with version 1, which has none, for a unique id that is too long, and for a CRC32C, which
    `proxy_write_crc32c` computes. A LOCAL header has no block: TLVs are left out."""
    if writer.version == 1 or type == PROXY_TLV_CRC32C:
        writer.error = writer.error or -EINVAL
    elif type == PROXY_TLV_UNIQUE_ID and length > PROXY_UNIQUE_ID_MAX_BYTES:
        writer.error = writer.error or -EINVAL
    elif length > PROXY_BLOCK_MAX_BYTES:
        writer.error = writer.error or -ENOBUFS
    elif writer.command != PROXY_COMMAND_LOCAL:
        writer_append(writer, &type, 1)
        writer_append_u16(writer, length)
        writer_append(writer, value, length)


cdef inline void proxy_write_received(
    proxy_writer_t *writer, const proxy_header_t *received, const uint8_t *data
) noexcept nogil:
    """Pass on the TLVs of a header that `data` begins with, except padding and the checksum, which covered that
    header."""
    cdef proxy_tlvs_t walk
    walk.data = data
    walk.available = received.length
    walk.at = received.tlvs.offset
    walk.end = walk.at + received.tlvs.length
    while walk.at < walk.end and proxy_tlv_next(&walk) == PROXY_COMPLETE:
        if walk.type != PROXY_TLV_CRC32C and walk.type != PROXY_TLV_NOOP:
            proxy_write_tlv(writer, walk.type, data + walk.value.offset, walk.value.length)


cdef inline void proxy_write_crc32c(proxy_writer_t *writer) noexcept nogil:
    """Reserve the checksum's place; its value is that of the finished header. -EINVAL for a second one and
    with version 1; left out of a LOCAL header."""
    cdef uint8_t blank[7]
    if writer.version == 1 or writer.crc_at:
        writer.error = writer.error or -EINVAL
    if writer.error or writer.command == PROXY_COMMAND_LOCAL:
        return
    memset(blank, 0, sizeof(blank))
    blank[0] = PROXY_TLV_CRC32C
    blank[2] = 4
    writer_append(writer, blank, sizeof(blank))
    writer.crc_at = writer.length - 4


cdef inline int proxy_write_end(proxy_writer_t *writer) noexcept nogil:
    """The header's length, or -ENOBUFS (does not fit) or -EINVAL (see `proxy_write_tlv`)."""
    cdef uint32_t block, crc
    if writer.error or writer.version == 1:
        return writer.error if writer.error else <int>writer.length
    block = writer.length - PROXY_V2_FIXED_BYTES
    if block > PROXY_BLOCK_MAX_BYTES:
        return -ENOBUFS
    writer.bytes[14] = block >> 8
    writer.bytes[15] = block & 0xFF
    if writer.crc_at:
        crc = proxy_crc32c(writer.bytes, writer.length, writer.crc_at)
        writer.bytes[writer.crc_at] = crc >> 24
        writer.bytes[writer.crc_at + 1] = (crc >> 16) & 0xFF
        writer.bytes[writer.crc_at + 2] = (crc >> 8) & 0xFF
        writer.bytes[writer.crc_at + 3] = crc & 0xFF
    return <int>writer.length
