# QUIC Initial: the first packet of a client's connection (RFC 9000 17.2.2) and, once it is decrypted, the parts of its
# ClientHello in it. The message may be spread over several packets, in any order, as browsers do on purpose. Strict; no
# system call, no allocation. Any thread.

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

from l4lb._dataplane.tls.client_hello cimport HELLO_MAX_BYTES

cdef enum:
    QUIC_V1 = 1                   # RFC 9000
    QUIC_V2 = 0x6B3343CF          # RFC 9369
    QUIC_INITIAL_ID_MAX = 20      # bytes of a connection id in versions 1 and 2
    QUIC_TAG_BYTES = 16
    QUIC_SAMPLE_BYTES = 16
    QUIC_SAMPLE_AT = 4            # behind the start of the packet number
    HELLO_HAVE_BYTES = HELLO_MAX_BYTES // 8

cdef struct quic_initial_t:       # offsets into the datagram
    uint32_t version
    const uint8_t *id             # the client's first destination: the keys follow from it
    uint32_t id_length
    uint32_t number_at            # of the packet number, which is protected, as is its length
    uint32_t end                  # of the packet

cdef struct hello_stream_t:       # a message whose parts come in any order
    uint8_t *bytes                # HELLO_MAX_BYTES of them
    uint8_t *have                 # HELLO_HAVE_BYTES: a bit for each
    uint32_t whole                # so many from the first on are there

cdef struct quic_frames_t:        # what is left of a decrypted packet
    const uint8_t *data
    uint32_t length
    uint32_t at
    bint failed


cdef inline void hello_stream_clear(hello_stream_t *stream) noexcept nogil:
    memset(stream.have, 0, HELLO_HAVE_BYTES)
    stream.whole = 0


cdef inline void hello_stream_add(
    hello_stream_t *stream, uint64_t offset, const uint8_t *data, uint32_t length
) noexcept nogil:
    """What lies beyond the largest hello is left out."""
    cdef uint32_t i
    if offset >= HELLO_MAX_BYTES:
        return
    if length > HELLO_MAX_BYTES - offset:
        length = <uint32_t>(HELLO_MAX_BYTES - offset)
    memcpy(stream.bytes + offset, data, length)
    for i in range(<uint32_t>offset, <uint32_t>offset + length):
        stream.have[i // 8] |= <uint8_t>(1 << (i % 8))
    while stream.whole < HELLO_MAX_BYTES and stream.have[stream.whole // 8] >> (stream.whole % 8) & 1:
        stream.whole += 1


# ---- the header ----

cdef inline bint varint_take(const uint8_t *data, uint32_t length, uint32_t *at, uint64_t *value) noexcept nogil:
    """RFC 9000 16: the first two bits say how long the number is."""
    cdef uint32_t size, i
    if at[0] >= length:
        return False
    size = 1 << (data[at[0]] >> 6)
    if size > length - at[0]:
        return False
    value[0] = data[at[0]] & 0x3F
    for i in range(1, size):
        value[0] = (value[0] << 8) | data[at[0] + i]
    at[0] += size
    return True


cdef inline bint quic_is_initial(uint8_t first, uint32_t version) noexcept nogil:
    """A long header with the fixed bit, and the type of an Initial."""
    if first & 0xC0 != 0xC0:
        return False
    if version == QUIC_V1:
        return first & 0x30 == 0
    return version == <uint32_t>QUIC_V2 and first & 0x30 == 0x10


cdef inline bint quic_initial_read(quic_initial_t *packet, const uint8_t *data, uint32_t length) noexcept nogil:
    """The packet at the start of a datagram. False: it is none that this can read."""
    cdef uint32_t at = 5
    cdef uint64_t token = 0, rest = 0
    if length < 7:
        return False
    packet.version = <uint32_t>data[1] << 24 | <uint32_t>data[2] << 16 | <uint32_t>data[3] << 8 | data[4]
    if not quic_is_initial(data[0], packet.version):
        return False
    packet.id_length = data[at]
    packet.id = data + at + 1
    if packet.id_length > QUIC_INITIAL_ID_MAX or at + 1 + packet.id_length >= length:
        return False
    at += 1 + packet.id_length
    if data[at] > QUIC_INITIAL_ID_MAX or at + 1 + data[at] > length:
        return False
    at += 1 + data[at]
    if not varint_take(data, length, &at, &token) or token > length - at:
        return False
    at += <uint32_t>token
    if not varint_take(data, length, &at, &rest) or rest > length - at:
        return False
    packet.number_at = at
    packet.end = at + <uint32_t>rest
    return rest >= QUIC_SAMPLE_AT + QUIC_SAMPLE_BYTES


# ---- frames ----

cdef inline uint64_t frames_number(quic_frames_t *frames) noexcept nogil:
    cdef uint64_t value = 0
    if not varint_take(frames.data, frames.length, &frames.at, &value):
        frames.failed = True
    return value


cdef inline void frames_ack(quic_frames_t *frames, bint with_ecn) noexcept nogil:
    """RFC 9000 19.3, which says nothing here."""
    cdef uint64_t ranges
    frames_number(frames)
    frames_number(frames)
    ranges = frames_number(frames)
    frames_number(frames)
    while ranges and not frames.failed:
        frames_number(frames)
        frames_number(frames)
        ranges -= 1
    if with_ecn and not frames.failed:
        frames_number(frames)
        frames_number(frames)
        frames_number(frames)


cdef inline void frames_crypto(quic_frames_t *frames, hello_stream_t *stream) noexcept nogil:
    """RFC 9000 19.6: a part of the handshake."""
    cdef uint64_t offset = frames_number(frames)
    cdef uint64_t length = frames_number(frames)
    if frames.failed or length > frames.length - frames.at:
        frames.failed = True
        return
    hello_stream_add(stream, offset, frames.data + frames.at, <uint32_t>length)
    frames.at += <uint32_t>length


cdef inline bint quic_frames_read(hello_stream_t *stream, const uint8_t *data, uint32_t length) noexcept nogil:
    """The frames of an Initial (RFC 9000 12.4, table 3). False: they are no client's."""
    cdef quic_frames_t frames
    cdef uint8_t kind
    frames.data = data
    frames.length = length
    frames.at = 0
    frames.failed = False
    while frames.at < length and not frames.failed:
        kind = data[frames.at]
        frames.at += 1
        if kind == 2 or kind == 3:
            frames_ack(&frames, kind == 3)
        elif kind == 6:
            frames_crypto(&frames, stream)
        elif kind == 0x1C:
            return True                        # it closes the connection: nothing more counts
        elif kind > 1:                         # 0, 1: padding, ping
            return False
    return not frames.failed
