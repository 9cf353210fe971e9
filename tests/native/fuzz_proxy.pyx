# A fuzzer of the native PROXY codec for clang's libFuzzer, built by `tests/support/fuzzing.py` with AddressSanitizer
# and UndefinedBehaviorSanitizer. It is a program without Python: nothing here or below may need the interpreter.
#
# An input is what a client sends. Held to be true of any: no read beyond what has arrived; every piece of a stream is
# in need of more or judged like the whole; what is complete lies within its length, and written again says the same.

from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport abort, free, malloc
from libc.string cimport memcmp, memcpy

from l4lb._dataplane.base.enums cimport (
    PROXY_COMPLETE, PROXY_HEADER_MAX_BYTES, PROXY_NEED_MORE, PROXY_RESULT_COUNT, PROXY_TRUNCATED, proxy_result_t,
)
from l4lb._dataplane.base.types cimport source_address_t
from l4lb._dataplane.proxy_protocol.header cimport proxy_datagram_parse, proxy_header_parse
from l4lb._dataplane.proxy_protocol.types cimport (
    PROXY_ANY, PROXY_COMMAND_LOCAL, PROXY_INET, PROXY_UNIX, PROXY_UNSPEC, PROXY_V1, PROXY_V1_MAX_BYTES, PROXY_V2,
    proxy_header_t, proxy_mode_t, proxy_span_t, proxy_writer_t,
)
from l4lb._dataplane.proxy_protocol.writer cimport (
    proxy_write_begin, proxy_write_crc32c, proxy_write_end, proxy_write_received,
)

cdef enum:
    EVERY_PIECE_BYTES = 128       # of longer inputs one piece more is tried
    OUT_BYTES = 2 * PROXY_HEADER_MAX_BYTES


cdef inline void require(bint condition) noexcept nogil:
    if not condition:
        abort()


cdef proxy_result_t parse_piece(
    proxy_header_t *header, const uint8_t *data, uint32_t length, proxy_mode_t mode
) noexcept nogil:
    """From a copy that ends where the sanitizer sees it."""
    cdef uint8_t *piece = <uint8_t *>malloc(length if length else 1)
    cdef proxy_result_t result
    if length:
        memcpy(piece, data, length)
    result = proxy_header_parse(header, piece, length, mode)
    free(piece)
    return result


cdef void check_pieces(const uint8_t *data, uint32_t size, proxy_mode_t mode, proxy_result_t whole) noexcept nogil:
    cdef proxy_header_t header
    cdef proxy_result_t result
    cdef bint judged = False
    cdef uint32_t length
    for length in range(size if size < EVERY_PIECE_BYTES else <uint32_t>EVERY_PIECE_BYTES):
        result = parse_piece(&header, data, length, mode)
        judged = judged or result != PROXY_NEED_MORE
        require(result == (whole if judged else PROXY_NEED_MORE))
    if size > EVERY_PIECE_BYTES:
        length = ((<uint32_t>data[size - 1] << 8) | data[size - 2]) % size
        result = parse_piece(&header, data, length, mode)
        require(result == whole or result == PROXY_NEED_MORE)


cdef void check_span(const proxy_header_t *header, proxy_span_t span) noexcept nogil:
    require(span.offset + span.length <= header.length)
    require(span.offset == 0 or span.offset >= header.tlvs.offset)


cdef bint same_endpoint(const source_address_t *one, const source_address_t *other) noexcept nogil:
    if one.length != other.length or one.port != other.port:
        return False
    return memcmp(&one.bytes[0], &other.bytes[0], one.length) == 0


cdef void check_written_again(const proxy_header_t *header, const uint8_t *data, uint8_t *out) noexcept nogil:
    """`out` has room for any header that is accepted, and a checksum."""
    cdef proxy_writer_t writer
    cdef proxy_header_t again
    cdef int length
    proxy_write_begin(&writer, header, out, OUT_BYTES)
    proxy_write_received(&writer, header, data)
    if header.version == 2 and header.command != PROXY_COMMAND_LOCAL:
        proxy_write_crc32c(&writer)
    length = proxy_write_end(&writer)
    require(length > 0)
    if length > PROXY_HEADER_MAX_BYTES:
        return
    require(parse_piece(&again, out, length, PROXY_ANY) == PROXY_COMPLETE)
    require(again.length == length and again.version == header.version and again.command == header.command)
    require(again.family == header.family and again.transport == header.transport)
    if header.family == PROXY_UNIX:
        require(memcmp(&header.source_path[0], &again.source_path[0], sizeof(again.source_path)) == 0)
        require(memcmp(&header.destination_path[0], &again.destination_path[0], sizeof(again.destination_path)) == 0)
    require(same_endpoint(&header.source, &again.source) and same_endpoint(&header.destination, &again.destination))
    require(again.authority.length == header.authority.length and again.unique_id.length == header.unique_id.length)


cdef void check_complete(const proxy_header_t *header, const uint8_t *data, uint32_t size, uint8_t *out) noexcept nogil:
    cdef proxy_header_t again
    require(0 < header.length <= size)
    require(header.length <= (PROXY_V1_MAX_BYTES if header.version == 1 else PROXY_HEADER_MAX_BYTES))
    require(header.family <= PROXY_UNIX)
    require((header.family == PROXY_UNSPEC) == (header.transport == 0))
    if header.family != PROXY_UNSPEC and header.family != PROXY_UNIX:
        require(header.source.length == (4 if header.family == PROXY_INET else 16))
    require(header.tlvs.offset + header.tlvs.length <= header.length)
    check_span(header, header.alpn)
    check_span(header, header.authority)
    check_span(header, header.crc32c)
    check_span(header, header.unique_id)
    check_span(header, header.ssl)
    check_span(header, header.netns)
    require(parse_piece(&again, data, header.length, PROXY_ANY) == PROXY_COMPLETE)
    require(parse_piece(&again, data, header.length - 1, PROXY_ANY) == PROXY_NEED_MORE)
    check_written_again(header, data, out)


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) noexcept nogil:
    cdef proxy_header_t header
    cdef proxy_result_t whole, datagram
    cdef uint8_t out[OUT_BYTES]
    cdef uint32_t length = size
    whole = parse_piece(&header, data, length, PROXY_ANY)
    require(whole < PROXY_RESULT_COUNT and whole != PROXY_TRUNCATED)
    require(whole != PROXY_NEED_MORE or length < PROXY_HEADER_MAX_BYTES)
    check_pieces(data, length, PROXY_ANY, whole)
    if whole == PROXY_COMPLETE:
        check_complete(&header, data, length, out)
    check_pieces(data, length, PROXY_V1, parse_piece(&header, data, length, PROXY_V1))
    check_pieces(data, length, PROXY_V2, parse_piece(&header, data, length, PROXY_V2))
    datagram = proxy_datagram_parse(&header, data, length, PROXY_V2)
    require(datagram != PROXY_NEED_MORE)
    return 0
