# A fuzzer of what is read of a QUIC Initial, for clang's libFuzzer, as `fuzz_proxy.pyx` is of the PROXY codec: a
# program without Python. An input's first byte says what the rest is: a datagram (odd), or the frames of a decrypted
# packet, which no fuzzer could encrypt.
#
# Held to be true of any: no access beyond what is there; what the header says lies within the datagram; as much of the
# message is whole as its bytes are there, and the frames that came once more change nothing.

from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport abort, free, malloc
from libc.string cimport memcpy

from l4lb._dataplane.tls.client_hello cimport HELLO_MAX_BYTES, client_hello_parse_message, client_hello_t
from l4lb._dataplane.tls.quic_initial cimport (
    HELLO_HAVE_BYTES, QUIC_INITIAL_ID_MAX, QUIC_SAMPLE_AT, QUIC_SAMPLE_BYTES, hello_stream_clear, hello_stream_t,
    quic_frames_read, quic_initial_read, quic_initial_t,
)


cdef inline void require(bint condition) noexcept nogil:
    if not condition:
        abort()


cdef void check_datagram(const uint8_t *data, uint32_t length) noexcept nogil:
    cdef quic_initial_t packet
    if not quic_initial_read(&packet, data, length):
        return
    require(packet.id_length <= QUIC_INITIAL_ID_MAX)
    require(packet.id >= data and packet.id + packet.id_length <= data + length)
    require(packet.number_at + QUIC_SAMPLE_AT + QUIC_SAMPLE_BYTES <= packet.end <= length)


cdef void stream_open(hello_stream_t *stream) noexcept nogil:
    stream.bytes = <uint8_t *>malloc(HELLO_MAX_BYTES)
    stream.have = <uint8_t *>malloc(HELLO_HAVE_BYTES)
    hello_stream_clear(stream)


cdef void check_frames(const uint8_t *data, uint32_t length) noexcept nogil:
    cdef hello_stream_t stream
    cdef client_hello_t hello
    cdef bint sound
    cdef uint32_t whole
    stream_open(&stream)
    sound = quic_frames_read(&stream, data, length)
    whole = stream.whole
    require(whole <= HELLO_MAX_BYTES and whole <= length)
    client_hello_parse_message(&hello, stream.bytes, whole)
    require(quic_frames_read(&stream, data, length) == sound and stream.whole == whole)
    free(stream.bytes)
    free(stream.have)


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) noexcept nogil:
    cdef uint8_t *copy
    cdef uint32_t length
    if size == 0:
        return 0
    length = <uint32_t>size - 1
    copy = <uint8_t *>malloc(length if length else 1)          # which ends where the sanitizer sees it
    memcpy(copy, data + 1, length)
    if data[0] & 1:
        check_datagram(copy, length)
    else:
        check_frames(copy, length)
    free(copy)
    return 0
