# A fuzzer of the native ClientHello parser for clang's libFuzzer, as `fuzz_proxy.pyx` is of the PROXY codec: a program
# without Python. An input is what a client sends.
#
# Held to be true of any: no read beyond what has arrived; every piece of a stream is in need of more or judged like the
# whole; what is found fits a host name, and is no more than the input has.

from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport abort, free, malloc
from libc.string cimport memcmp, memcpy

from l4lb._dataplane.tls.client_hello cimport (
    HELLO_FOUND, HELLO_MAX_BYTES, HELLO_NAME_MAX_BYTES, HELLO_NEED_MORE, HELLO_NOT_TLS, client_hello_parse,
    client_hello_parse_message, client_hello_t, hello_result_t,
)

cdef enum:
    EVERY_PIECE_BYTES = 300       # of longer inputs some pieces more are tried


cdef inline void require(bint condition) noexcept nogil:
    if not condition:
        abort()


cdef hello_result_t parse_piece(client_hello_t *hello, const uint8_t *data, uint32_t length) noexcept nogil:
    """From a copy that ends where the sanitizer sees it."""
    cdef uint8_t *piece = <uint8_t *>malloc(length if length else 1)
    cdef hello_result_t result
    if length:
        memcpy(piece, data, length)
    result = client_hello_parse(hello, piece, length)
    free(piece)
    return result


cdef void check_pieces(const uint8_t *data, uint32_t size, hello_result_t whole) noexcept nogil:
    cdef client_hello_t hello
    cdef hello_result_t result
    cdef bint judged = False
    cdef uint32_t length
    for length in range(size if size < EVERY_PIECE_BYTES else <uint32_t>EVERY_PIECE_BYTES):
        result = parse_piece(&hello, data, length)
        judged = judged or result != HELLO_NEED_MORE
        require(result == (whole if judged else HELLO_NEED_MORE))
    if size > EVERY_PIECE_BYTES:
        length = ((<uint32_t>data[size - 1] << 8) | data[size - 2]) % size
        result = parse_piece(&hello, data, length)
        require(result == whole or result == HELLO_NEED_MORE)


cdef void check_found(client_hello_t *hello, const uint8_t *data, uint32_t size) noexcept nogil:
    cdef client_hello_t again
    cdef uint32_t i
    require(<uint32_t>hello.server_name_length + hello.alpn_length < size)
    for i in range(hello.server_name_length):
        require(0x20 < hello.server_name[i] < 0x7F)
    require(parse_piece(&again, data, size) == HELLO_FOUND)
    require(again.server_name_length == hello.server_name_length and again.alpn_length == hello.alpn_length)
    require(memcmp(again.server_name, hello.server_name, hello.server_name_length) == 0)
    require(memcmp(again.alpn, hello.alpn, hello.alpn_length) == 0)
    require(again.offered_length == hello.offered_length <= HELLO_NAME_MAX_BYTES)
    require(memcmp(again.offered, hello.offered, hello.offered_length) == 0)


cdef void check_message(const uint8_t *data, uint32_t size) noexcept nogil:
    """The same without records: from a copy too, and a part of it is not judged otherwise."""
    cdef uint8_t *copy = <uint8_t *>malloc(size if size else 1)
    cdef client_hello_t hello
    cdef hello_result_t whole, part
    if size:
        memcpy(copy, data, size)
    whole = client_hello_parse_message(&hello, copy, size)
    part = client_hello_parse_message(&hello, copy, size // 2)
    require(part == whole or part == HELLO_NEED_MORE)
    free(copy)


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) noexcept nogil:
    cdef client_hello_t hello
    cdef uint32_t length = size
    cdef hello_result_t whole = parse_piece(&hello, data, length)
    require(whole == HELLO_FOUND or whole == HELLO_NEED_MORE or whole == HELLO_NOT_TLS)
    require(whole != HELLO_NEED_MORE or length < HELLO_MAX_BYTES)
    check_pieces(data, length, whole)
    check_message(data, length)
    if whole == HELLO_FOUND:
        check_found(&hello, data, length)
    return 0
