# ClientHello: which name a TLS client asks for and which protocols it offers (RFC 8446 4.1.2, RFC 6066 3, RFC 7301
# 3.1), read from its first bytes, which it never changes. Strict; no system call, no allocation, no state of its own.
# Called by a worker, again with all bytes whenever more have come. Any thread.
#
#   record:     0x16, version 3.x, length | a part of the message; the message may go on in the next record
#   message:    1, length | version, random, session id, cipher suites, compression methods, extensions
#
# QUIC carries the message without records (RFC 9001 4.1.3). With Encrypted Client Hello it is the outer name that is
# found: the true one is readable to the server alone.
#
#   data so far --> HELLO_FOUND: the whole message is here, and well-formed
#               --> HELLO_NEED_MORE: only without mistakes so far; more than HELLO_MAX_BYTES are never needed
#               --> HELLO_NOT_TLS: the same for every longer piece of the same stream

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy, memset

cdef enum:
    HELLO_MAX_BYTES = 16384       # of the message and its record headers; the largest in use have 4 KiB
    HELLO_NAME_MAX_BYTES = 255    # a host name is never longer
    RECORD_HEAD_BYTES = 5
    RECORD_HANDSHAKE = 22
    RECORD_MAX_BYTES = 16384      # RFC 8446 5.1
    MESSAGE_CLIENT_HELLO = 1
    EXTENSION_SERVER_NAME = 0
    EXTENSION_ALPN = 16

cdef enum hello_result_t:
    HELLO_FOUND = 0
    HELLO_NEED_MORE
    HELLO_NOT_TLS

cdef struct client_hello_t:
    uint8_t server_name[HELLO_NAME_MAX_BYTES]
    uint8_t server_name_length    # 0: no name
    uint8_t alpn[HELLO_NAME_MAX_BYTES]
    uint8_t alpn_length           # of the first protocol that it offers; 0: it offers none
    uint8_t offered[HELLO_NAME_MAX_BYTES]  # all of them, each after its length, as far as they fit
    uint8_t offered_length
    uint8_t seen                  # extensions that may be there only once

cdef struct hello_reader_t:       # the message, without the headers of the records that carry it
    const uint8_t *data
    uint32_t available
    uint32_t at
    uint32_t record_left
    uint32_t left                 # of the message
    hello_result_t result         # HELLO_FOUND as long as nothing was wrong or missing: the first failure sticks


cdef inline void hello_fail(hello_reader_t *reader, hello_result_t result) noexcept nogil:
    if reader.result == HELLO_FOUND:
        reader.result = result


cdef inline void hello_record(hello_reader_t *reader) noexcept nogil:
    """Read the header of the next record, which holds a part of the message. Empty ones are forbidden (RFC 8446
    5.1)."""
    cdef const uint8_t *head = reader.data + reader.at
    cdef uint32_t here = reader.available - reader.at
    cdef uint32_t length
    if (here > 0 and head[0] != RECORD_HANDSHAKE) or (here > 1 and head[1] != 3):
        hello_fail(reader, HELLO_NOT_TLS)
    if here < RECORD_HEAD_BYTES:
        hello_fail(reader, HELLO_NEED_MORE)
        return
    length = (<uint32_t>head[3] << 8) | head[4]
    if length == 0 or length > RECORD_MAX_BYTES:
        hello_fail(reader, HELLO_NOT_TLS)
    reader.at += RECORD_HEAD_BYTES
    reader.record_left = length


cdef inline uint32_t hello_take(hello_reader_t *reader, uint32_t wanted) noexcept nogil:
    """Advance by up to `wanted` bytes that lie together, at least one; the caller finds them before `at`. 0: failed."""
    if wanted > reader.left:
        hello_fail(reader, HELLO_NOT_TLS)
    if reader.result == HELLO_FOUND and reader.record_left == 0:
        hello_record(reader)
    if reader.result == HELLO_FOUND and reader.at == reader.available:
        hello_fail(reader, HELLO_NEED_MORE)
    if reader.result != HELLO_FOUND:
        return 0
    if wanted > reader.record_left:
        wanted = reader.record_left
    if wanted > reader.available - reader.at:
        wanted = reader.available - reader.at
    reader.at += wanted
    reader.record_left -= wanted
    reader.left -= wanted
    return wanted


cdef inline uint32_t hello_number(hello_reader_t *reader, int size) noexcept nogil:
    """A number of `size` bytes; 0 after a failure."""
    cdef uint32_t value = 0
    while size:
        if hello_take(reader, 1) == 0:
            return 0
        value = (value << 8) | reader.data[reader.at - 1]
        size -= 1
    return value


cdef inline void hello_copy(hello_reader_t *reader, uint8_t *out, uint32_t length) noexcept nogil:
    """The next bytes; `out` may be NULL."""
    cdef uint32_t taken, i
    while length:
        taken = hello_take(reader, length)
        if taken == 0:
            return
        if out != NULL:
            for i in range(taken):
                out[i] = reader.data[reader.at - taken + i]
            out += taken
        length -= taken


cdef inline uint32_t hello_length(hello_reader_t *reader, int size, uint32_t least, uint32_t most) noexcept nogil:
    """The length of what follows: within the given bounds, and no more than is left. 0 after a failure."""
    cdef uint32_t length = hello_number(reader, size)
    if reader.result == HELLO_FOUND and not (least <= length <= most and length <= reader.left):
        hello_fail(reader, HELLO_NOT_TLS)
    return length if reader.result == HELLO_FOUND else 0


cdef inline bint name_is_sound(const uint8_t *name, uint32_t length) noexcept nogil:
    """Printable ASCII without blanks: nothing more is required of a host name, since it is passed on, not looked up."""
    cdef uint32_t i
    for i in range(length):
        if name[i] <= 0x20 or name[i] >= 0x7F:
            return False
    return True


cdef inline void hello_server_name(hello_reader_t *reader, client_hello_t *hello, uint32_t length) noexcept nogil:
    """A list of names, in which the only kind that exists (host_name) may come once (RFC 6066 3)."""
    cdef uint32_t rest
    if length < 2 or hello_length(reader, 2, 1, 65535) != length - 2:
        hello_fail(reader, HELLO_NOT_TLS)
        return
    if hello_number(reader, 1) != 0:
        hello_fail(reader, HELLO_NOT_TLS)
    rest = hello_length(reader, 2, 1, HELLO_NAME_MAX_BYTES)
    if reader.result == HELLO_FOUND and rest != length - 5:
        hello_fail(reader, HELLO_NOT_TLS)
    hello_copy(reader, hello.server_name, rest)
    if reader.result == HELLO_FOUND and not name_is_sound(hello.server_name, rest):
        hello_fail(reader, HELLO_NOT_TLS)
    hello.server_name_length = rest


cdef inline bint alpn_is_grease(const uint8_t *name, uint32_t length) noexcept nogil:
    """RFC 8701 2: a value such as 0x0A0A, which means nothing."""
    return length == 2 and name[0] == name[1] and name[0] & 15 == 10


cdef inline void hello_offer(client_hello_t *hello, const uint8_t *name, uint32_t size) noexcept nogil:
    if not hello.alpn_length:
        memcpy(hello.alpn, name, size)
        hello.alpn_length = size
    if hello.offered_length + 1 + size <= HELLO_NAME_MAX_BYTES:
        hello.offered[hello.offered_length] = size
        memcpy(hello.offered + hello.offered_length + 1, name, size)
        hello.offered_length += 1 + size


cdef inline void hello_alpn(hello_reader_t *reader, client_hello_t *hello, uint32_t length) noexcept nogil:
    """The protocols, which are in the order of the client's preference (RFC 7301 3.1)."""
    cdef uint32_t left, size
    cdef uint8_t name[HELLO_NAME_MAX_BYTES]
    if length < 2 or hello_length(reader, 2, 2, 65535) != length - 2:
        hello_fail(reader, HELLO_NOT_TLS)
    left = length - 2
    while left and reader.result == HELLO_FOUND:
        size = hello_length(reader, 1, 1, left - 1)
        hello_copy(reader, name, size)
        if reader.result == HELLO_FOUND and not alpn_is_grease(name, size):
            hello_offer(hello, name, size)
        left -= 1 + size


cdef inline void hello_once(hello_reader_t *reader, client_hello_t *hello, uint8_t bit) noexcept nogil:
    if hello.seen & bit:
        hello_fail(reader, HELLO_NOT_TLS)
    hello.seen |= bit


cdef inline void hello_extensions(hello_reader_t *reader, client_hello_t *hello) noexcept nogil:
    cdef uint32_t type, length
    while reader.left and reader.result == HELLO_FOUND:
        type = hello_number(reader, 2)
        length = hello_length(reader, 2, 0, 65535)
        if reader.result != HELLO_FOUND:
            return
        if type == EXTENSION_SERVER_NAME:
            hello_once(reader, hello, 1)
            hello_server_name(reader, hello, length)
        elif type == EXTENSION_ALPN:
            hello_once(reader, hello, 2)
            hello_alpn(reader, hello, length)
        else:
            hello_copy(reader, NULL, length)


cdef inline void hello_message(hello_reader_t *reader, client_hello_t *hello) noexcept nogil:
    cdef uint32_t suites
    reader.left = 4
    if hello_number(reader, 1) != MESSAGE_CLIENT_HELLO:
        hello_fail(reader, HELLO_NOT_TLS)
    reader.left = hello_number(reader, 3)
    if reader.left > HELLO_MAX_BYTES or hello_number(reader, 1) != 3:
        hello_fail(reader, HELLO_NOT_TLS)
    hello_copy(reader, NULL, 33)                               # the minor version, the random
    hello_copy(reader, NULL, hello_length(reader, 1, 0, 32))
    suites = hello_length(reader, 2, 2, 65534)
    if suites & 1:
        hello_fail(reader, HELLO_NOT_TLS)
    hello_copy(reader, NULL, suites)
    hello_copy(reader, NULL, hello_length(reader, 1, 1, 255))
    if reader.left and reader.result == HELLO_FOUND:           # before TLS 1.3 there may be no extensions
        if hello_length(reader, 2, 0, 65535) != reader.left:
            hello_fail(reader, HELLO_NOT_TLS)
        hello_extensions(reader, hello)


cdef inline hello_result_t hello_parse(
    client_hello_t *hello, const uint8_t *data, uint32_t length, uint32_t record_left
) noexcept nogil:
    """`record_left`: of a record that has begun before."""
    cdef hello_reader_t reader
    hello.server_name_length = hello.alpn_length = hello.offered_length = hello.seen = 0
    memset(&reader, 0, sizeof(reader))
    reader.data = data
    reader.available = length if length < HELLO_MAX_BYTES else <uint32_t>HELLO_MAX_BYTES
    reader.record_left = record_left
    reader.result = HELLO_FOUND
    hello_message(&reader, hello)
    if reader.result == HELLO_NEED_MORE and length >= HELLO_MAX_BYTES:
        return HELLO_NOT_TLS
    return reader.result


cdef inline hello_result_t client_hello_parse(
    client_hello_t *hello, const uint8_t *data, uint32_t length
) noexcept nogil:
    """Of a TLS stream. `hello` is meaningful only when found."""
    return hello_parse(hello, data, length, 0)


cdef inline hello_result_t client_hello_parse_message(
    client_hello_t *hello, const uint8_t *data, uint32_t length
) noexcept nogil:
    """Of a message without records."""
    return hello_parse(hello, data, length, HELLO_MAX_BYTES)
