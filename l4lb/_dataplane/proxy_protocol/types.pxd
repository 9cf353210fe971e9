# PROXY protocol: its structs and enums (doc/proxy-protocol.txt of HAProxy, whose sections are cited as "PROXY 2.2").
# No functions. `header.pxd` parses a header and `writer.pxd` writes one; both own nothing.

from libc.stdint cimport uint16_t, uint32_t, uint8_t

from l4lb._dataplane.base.types cimport source_address_t

cdef enum:
    PROXY_V1_MAX_BYTES = 107      # with its CRLF, PROXY 2.1
    PROXY_V2_FIXED_BYTES = 16
    PROXY_UNIX_BYTES = 108
    PROXY_UNIQUE_ID_MAX_BYTES = 128   # PROXY 2.2.5
    PROXY_SSL_FIXED_BYTES = 5

# What a listener expects and a pool sends; "any" is for listeners.
cdef enum proxy_mode_t:
    PROXY_OFF = 0
    PROXY_V1
    PROXY_V2
    PROXY_ANY

# As they are on the wire, PROXY 2.2.
cdef enum proxy_command_t:
    PROXY_COMMAND_LOCAL = 0
    PROXY_COMMAND_PROXY = 1

cdef enum proxy_family_t:
    PROXY_UNSPEC = 0
    PROXY_INET = 1
    PROXY_INET6 = 2
    PROXY_UNIX = 3

cdef enum proxy_transport_t:
    PROXY_TRANSPORT_UNSPEC = 0
    PROXY_STREAM = 1
    PROXY_DGRAM = 2

cdef enum proxy_tlv_type_t:
    PROXY_TLV_ALPN = 0x01
    PROXY_TLV_AUTHORITY = 0x02
    PROXY_TLV_CRC32C = 0x03
    PROXY_TLV_NOOP = 0x04
    PROXY_TLV_UNIQUE_ID = 0x05
    PROXY_TLV_SSL = 0x20
    PROXY_TLV_NETNS = 0x30

cdef struct proxy_span_t:         # bytes of the header, counted from its first; offset 0: there are none
    uint16_t offset
    uint16_t length

# With the family PROXY_UNSPEC the header names no client (LOCAL, UNKNOWN, UNSPEC): the socket's own addresses are the
# session's. All other families come with a transport and both endpoints, of which one of these is set:
#   PROXY_INET, PROXY_INET6   source, destination
#   PROXY_UNIX                source_path, destination_path: as in sockaddr_un, padded with zeros
# A known TLV's span is its value; of several of one type it is the first.
cdef struct proxy_header_t:
    uint16_t length               # of the whole header: what to skip. 0 only with PROXY_OFF
    uint8_t version
    uint8_t command
    uint8_t family
    uint8_t transport
    source_address_t source
    source_address_t destination
    proxy_span_t tlvs             # all of them, well-formed
    proxy_span_t alpn
    proxy_span_t authority
    proxy_span_t crc32c           # checked
    proxy_span_t unique_id
    proxy_span_t ssl
    proxy_span_t netns
    uint8_t source_path[PROXY_UNIX_BYTES]
    uint8_t destination_path[PROXY_UNIX_BYTES]

cdef struct proxy_tlvs_t:         # a walk through TLVs; `available` bytes from `data` on have arrived
    const uint8_t *data
    uint32_t available
    uint32_t at                   # the next TLV
    uint32_t end
    uint8_t type                  # of the one just read
    proxy_span_t value

cdef struct proxy_writer_t:       # fills `bytes`, which the caller owns
    uint8_t *bytes
    uint32_t capacity
    uint32_t length
    uint32_t crc_at               # where the CRC32C's value goes; 0: none
    int error                     # of the first write that failed, as -errno; 0
    uint8_t version
    uint8_t command
