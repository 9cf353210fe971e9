# The pure functions of the data plane for Python: no state, no system call, any thread. What they compute is in
# `_dataplane/*.pxd`; the classes that own native memory are in `_fastpath.pyx`.
"""Native hashing, tables and PROXY headers; each has a twin in Python, which the tests hold it to."""

from array import array

from cpython.array cimport array as c_array, clone
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.enums cimport (
    PROXY_COMPLETE, PROXY_HEADER_MAX_BYTES, TABLE_MAGLEV, TABLE_RENDEZVOUS, TABLE_RING, proxy_result_t, table_kind_t,
)
from l4lb._dataplane.base.hashing cimport xxh64 as native_xxh64
from l4lb._dataplane.base.linux cimport ENOBUFS, htons, ntohs
from l4lb._dataplane.base.parts cimport candidate_t
from l4lb._dataplane.base.types cimport source_address_t
from l4lb._dataplane.proxy_protocol.crc32c cimport CRC32C_BEGIN, crc32c_end, crc32c_extend
from l4lb._dataplane.proxy_protocol.header cimport proxy_datagram_parse, proxy_header_parse
from l4lb._dataplane.proxy_protocol.tlv cimport proxy_tlv_next
from l4lb._dataplane.proxy_protocol.types cimport (
    PROXY_INET, PROXY_INET6, PROXY_TRANSPORT_UNSPEC, PROXY_UNIX, PROXY_UNIX_BYTES, PROXY_UNSPEC, proxy_header_t,
    proxy_mode_t, proxy_tlvs_t, proxy_writer_t,
)
from l4lb._dataplane.proxy_protocol.writer cimport (
    proxy_write_begin, proxy_write_crc32c, proxy_write_end, proxy_write_tlv, source_address_map,
)
from l4lb._dataplane.tables.tables cimport table_build

from l4lb._native.headers import ParsedHeader

TABLE_KINDS = {"maglev": <int>TABLE_MAGLEV, "ring": <int>TABLE_RING, "rendezvous": <int>TABLE_RENDEZVOUS}


def xxh64(bytes data not None, uint64_t seed):
    """XXH64 of `data` as the workers compute it."""
    return native_xxh64(<const uint8_t *><char *>data, len(data), seed)


def build_table(int kind, list ids, list weights, uint32_t table_size, uint64_t seed):
    """A table of `table_size` (prime) indices into `ids` (bytes). Weights are above 0; for a ring they are points."""
    cdef uint32_t i, count = len(ids)
    cdef c_array slots = clone(array("I"), table_size, zero=False)
    cdef uint32_t *slot = slots.data.as_uints
    cdef candidate_t *candidates = <candidate_t *>calloc(count if count else 1, sizeof(candidate_t))
    cdef bytes id
    cdef int built
    if candidates == NULL:
        raise MemoryError
    try:
        for i in range(count):
            id = ids[i]
            candidates[i] = candidate_t(<const uint8_t *><char *>id, len(id), weights[i])
        with nogil:
            built = table_build(<table_kind_t>kind, candidates, count, slot, table_size, seed)
    finally:
        free(candidates)
    if built < 0:
        raise MemoryError
    return slots


# ---- PROXY protocol; the typed face is l4lb/proxy_protocol.py ----

def crc32c(bytes data not None):
    """CRC32C (RFC 4960, appendix B) of `data`."""
    return crc32c_end(crc32c_extend(CRC32C_BEGIN, <const uint8_t *><char *>data, len(data)))


cdef tuple endpoint_get(source_address_t *address):
    return (<char *>address.bytes)[:address.length], ntohs(address.port)


cdef int endpoint_set(source_address_t *address, tuple endpoint) except -1:
    cdef bytes host = endpoint[0]
    memset(address, 0, sizeof(address[0]))
    if len(host) != 4 and len(host) != 16:
        raise ValueError("an IP address has 4 or 16 bytes")
    address.length = len(host)
    memcpy(address.bytes, <char *>host, len(host))
    address.port = htons(endpoint[1])
    return 0


cdef int path_set(uint8_t *path, bytes name) except -1:
    if len(name) > PROXY_UNIX_BYTES:
        raise ValueError("a unix socket's address has at most 108 bytes")
    memcpy(path, <char *>name, len(name))
    return 0


cdef list tlvs_get(const proxy_header_t *header, bytes data):
    cdef proxy_tlvs_t walk
    walk.data = <const uint8_t *><char *>data
    walk.available = header.length
    walk.at = header.tlvs.offset
    walk.end = walk.at + header.tlvs.length
    tlvs = []
    while walk.at < walk.end and proxy_tlv_next(&walk) == PROXY_COMPLETE:
        tlvs.append((walk.type, data[walk.value.offset:walk.value.offset + walk.value.length]))
    return tlvs


cdef int header_name(proxy_header_t *header, tuple source, tuple destination) except -1:
    if header.family == PROXY_UNIX:
        path_set(header.source_path, source[0])
        path_set(header.destination_path, destination[0])
    elif header.family != PROXY_UNSPEC:
        endpoint_set(&header.source, source)
        endpoint_set(&header.destination, destination)
        if header.source.length != header.destination.length:
            source_address_map(&header.source)
            source_address_map(&header.destination)
        header.family = PROXY_INET if header.source.length == 4 else PROXY_INET6
    return 0


def proxy_parse(bytes data, int mode, bint datagram=False):
    """`ParsedHeader` of what `data` begins with."""
    cdef proxy_header_t header
    cdef proxy_result_t result
    cdef const uint8_t *start = <const uint8_t *><char *>data
    cdef uint32_t length = min(len(data), PROXY_HEADER_MAX_BYTES)
    with nogil:
        if datagram:
            result = proxy_datagram_parse(&header, start, length, <proxy_mode_t>mode)
        else:
            result = proxy_header_parse(&header, start, length, <proxy_mode_t>mode)
    if result != PROXY_COMPLETE:
        return ParsedHeader(<int>result)
    if header.family == PROXY_UNIX:
        source = (<char *>header.source_path)[:PROXY_UNIX_BYTES], 0
        destination = (<char *>header.destination_path)[:PROXY_UNIX_BYTES], 0
    else:
        source, destination = endpoint_get(&header.source), endpoint_get(&header.destination)
    return ParsedHeader(
        result=<int>result,
        length=header.length,
        version=header.version,
        command=header.command,
        family=header.family,
        transport=header.transport,
        source=source,
        destination=destination,
        tlvs=tlvs_get(&header, data),
    )


def proxy_build(kind, tuple source, tuple destination, list tlvs, bint with_crc32c, uint32_t capacity):
    """The header's bytes. `kind` is a `HeaderKind`, endpoints and TLVs are as in `proxy_parse`.

    Endpoints of two IP families become IPv6. ValueError for what the version cannot say; BufferError when `capacity`
    bytes are too few.
    """
    cdef proxy_header_t header
    cdef proxy_writer_t writer
    cdef bytearray out = bytearray(capacity)
    cdef bytes value
    cdef int length
    memset(&header, 0, sizeof(header))
    header.version, header.command, header.family, header.transport = kind
    header_name(&header, source, destination)
    if header.family == PROXY_UNSPEC:
        header.transport = PROXY_TRANSPORT_UNSPEC
    proxy_write_begin(&writer, &header, <uint8_t *><char *>out, capacity)
    for type_, value in tlvs:
        proxy_write_tlv(&writer, type_, <const uint8_t *><char *>value, len(value))
    if with_crc32c:
        proxy_write_crc32c(&writer)
    length = proxy_write_end(&writer)
    if length == -ENOBUFS:
        raise BufferError(f"the header has more than {capacity} bytes")
    if length < 0:
        raise ValueError("TLVs need version 2, a unique id has at most 128 bytes, CRC32C is computed")
    return bytes(out[:length])
