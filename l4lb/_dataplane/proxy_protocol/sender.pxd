# PROXY protocol, sent: the header that a pool's settings produce for one client. Knows nothing of sessions: called by a
# worker for the first bytes to a TCP backend and for each datagram. No system call, no allocation, no state; any
# thread.
#
# Order of the TLVs: received ones, then authority, alpn, unique_id, the pool's own, the checksum. What was received is
# not sent twice, and a TLV of the pool's own replaces a received one of its type.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdio cimport snprintf
from libc.string cimport memset

from l4lb._dataplane.base.enums cimport (
    PROXY_COMPLETE, PROXY_SEND_ALPN, PROXY_SEND_AUTHORITY, PROXY_SEND_CRC32C, PROXY_SEND_RECEIVED,
    PROXY_SEND_UNIQUE_ID,
)
from l4lb._dataplane.base.linux cimport ENOBUFS
from l4lb._dataplane.base.parts cimport proxy_send_t
from l4lb._dataplane.base.types cimport source_address_t
from l4lb._dataplane.proxy_protocol.tlv cimport proxy_tlv_next
from l4lb._dataplane.proxy_protocol.types cimport (
    PROXY_TLV_ALPN, PROXY_TLV_AUTHORITY, PROXY_TLV_CRC32C, PROXY_TLV_NOOP, PROXY_TLV_UNIQUE_ID, proxy_header_t,
    proxy_tlvs_t, proxy_writer_t,
)
from l4lb._dataplane.proxy_protocol.writer cimport (
    proxy_header_name, proxy_write_begin, proxy_write_crc32c, proxy_write_end, proxy_write_tlv, writer_append,
)

cdef enum:
    UNIQUE_ID_BYTES_MAX = 37      # the instance in hexadecimal, a dash, the session id as in the access log

cdef struct proxy_bytes_t:        # length 0: there are none, whatever `data` is
    const uint8_t *data
    uint16_t length

cdef struct proxy_client_t:       # the client that a header describes; nothing in here is owned
    const source_address_t *source
    const source_address_t *destination
    proxy_bytes_t received        # well-formed TLVs of the header that came with the client
    proxy_bytes_t authority       # from the client's own TLS
    proxy_bytes_t alpn
    uint64_t instance             # of the plane
    uint64_t session_id
    uint8_t transport             # proxy_transport_t


cdef inline void tlvs_begin(proxy_tlvs_t *walk, const uint8_t *data, uint32_t length) noexcept nogil:
    walk.data = data
    walk.available = walk.end = length
    walk.at = 0


cdef inline bint tlvs_have(const uint8_t *data, uint32_t length, uint8_t type) noexcept nogil:
    cdef proxy_tlvs_t walk
    tlvs_begin(&walk, data, length)
    while walk.at < walk.end and proxy_tlv_next(&walk) == PROXY_COMPLETE:
        if walk.type == type:
            return True
    return False


cdef inline bint received_has(const proxy_client_t *client, uint8_t type) noexcept nogil:
    return tlvs_have(client.received.data, client.received.length, type)


cdef inline void send_received(
    proxy_writer_t *writer, const proxy_client_t *client, const proxy_send_t *send
) noexcept nogil:
    """All except padding and the checksum, which covered the received header."""
    cdef proxy_tlvs_t walk
    tlvs_begin(&walk, client.received.data, client.received.length)
    while walk.at < walk.end and proxy_tlv_next(&walk) == PROXY_COMPLETE:
        if walk.type == PROXY_TLV_CRC32C or walk.type == PROXY_TLV_NOOP:
            continue
        if not tlvs_have(send.custom, send.custom_length, walk.type):
            proxy_write_tlv(writer, walk.type, walk.data + walk.value.offset, walk.value.length)


cdef inline void send_named(
    proxy_writer_t *writer, const proxy_client_t *client, uint8_t type, const proxy_bytes_t *own, bint passed_on
) noexcept nogil:
    """The value of this type in the header that came with the client, or else what is known of the client itself."""
    cdef proxy_tlvs_t walk
    tlvs_begin(&walk, client.received.data, client.received.length)
    while walk.at < walk.end and proxy_tlv_next(&walk) == PROXY_COMPLETE:
        if walk.type == type:
            if not passed_on:
                proxy_write_tlv(writer, type, walk.data + walk.value.offset, walk.value.length)
            return
    if own.length:
        proxy_write_tlv(writer, type, own.data, own.length)


cdef inline void send_unique_id(proxy_writer_t *writer, const proxy_client_t *client) noexcept nogil:
    cdef char text[UNIQUE_ID_BYTES_MAX + 1]
    cdef int length = snprintf(
        text, sizeof(text), b"%016llx-%llu",
        <unsigned long long>client.instance, <unsigned long long>client.session_id
    )
    proxy_write_tlv(writer, PROXY_TLV_UNIQUE_ID, <const uint8_t *>text, length)


cdef inline void send_tlvs(
    proxy_writer_t *writer, const proxy_client_t *client, const proxy_send_t *send, bint passed_on
) noexcept nogil:
    if passed_on:
        send_received(writer, client, send)
    if send.tlvs & PROXY_SEND_AUTHORITY:
        send_named(writer, client, PROXY_TLV_AUTHORITY, &client.authority, passed_on)
    if send.tlvs & PROXY_SEND_ALPN:
        send_named(writer, client, PROXY_TLV_ALPN, &client.alpn, passed_on)
    if send.tlvs & PROXY_SEND_UNIQUE_ID and not (passed_on and received_has(client, PROXY_TLV_UNIQUE_ID)):
        send_unique_id(writer, client)
    if send.custom_length:
        writer_append(writer, send.custom, send.custom_length)
    if send.tlvs & PROXY_SEND_CRC32C:
        proxy_write_crc32c(writer)


cdef inline int proxy_send_try(
    const proxy_client_t *client, const proxy_send_t *send, uint8_t *bytes, uint32_t capacity, bint passed_on
) noexcept nogil:
    cdef proxy_header_t header
    cdef proxy_writer_t writer
    memset(&header, 0, sizeof(header))
    header.version = send.version
    proxy_header_name(&header, client.source, client.destination, client.transport)
    proxy_write_begin(&writer, &header, bytes, capacity)
    if send.version == 2 and header.family:                    # LOCAL names no client, and has no TLVs
        send_tlvs(&writer, client, send, passed_on)
    return proxy_write_end(&writer)


cdef inline int proxy_send_write(
    const proxy_client_t *client, const proxy_send_t *send, uint8_t *bytes, uint32_t capacity
) noexcept nogil:
    """The header that `send` asks for. Returns its length, or -ENOBUFS. When the received TLVs do not fit as well, they
    are left out: the backend then still learns who its client is."""
    cdef bint passed_on = send.tlvs & PROXY_SEND_RECEIVED and client.received.length
    cdef int length = proxy_send_try(client, send, bytes, capacity, passed_on)
    if length == -ENOBUFS and passed_on:
        length = proxy_send_try(client, send, bytes, capacity, False)
    return length
