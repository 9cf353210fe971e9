# PROXY protocol, version 1: one line of text, read to the letter of its grammar (PROXY 2.1). Each byte is judged as it
# comes, so that what cannot become a line is refused at once; the addresses are valid only when the CRLF is there.
# Called by `header.pxd`. Pure: no state, any thread.
#
# One form goes beyond that grammar: an IPv6 address may end in four decimals ("::ffff:192.0.2.1", RFC 4291 2.2), since
# HAProxy writes it so when a client and a server are of different families.

from libc.stdint cimport uint16_t, uint32_t, uint8_t
from libc.string cimport memset

from l4lb._dataplane.base.enums cimport (
    PROXY_BAD_ADDRESS, PROXY_BAD_LINE_END, PROXY_BAD_PORT, PROXY_BAD_PROTOCOL, PROXY_BAD_SIGNATURE, PROXY_COMPLETE,
    PROXY_LINE_TOO_LONG, PROXY_NEED_MORE, proxy_result_t,
)
from l4lb._dataplane.base.linux cimport htons
from l4lb._dataplane.base.types cimport source_address_t
from l4lb._dataplane.proxy_protocol.types cimport (
    PROXY_COMMAND_PROXY, PROXY_INET, PROXY_INET6, PROXY_STREAM, PROXY_UNSPEC, PROXY_V1_MAX_BYTES, proxy_header_t,
)

cdef enum:
    SPACE = 0x20
    CR = 0x0D
    LF = 0x0A
    COLON = 0x3A
    DOT = 0x2E
    ZERO = 0x30

cdef struct v1_line_t:            # what has arrived, and how far it is read
    const uint8_t *data
    uint32_t length
    uint32_t at

cdef struct v1_groups_t:          # an IPv6 address while it is read
    uint16_t words[8]
    int count                     # whole groups so far
    int gap                       # how many of them stand before "::"; -1: none yet
    int colons                    # just before this place
    int digits                    # of the group being read, which began at:
    uint32_t group_at
    uint32_t value


cdef inline proxy_result_t v1_peek(v1_line_t *line, uint8_t *byte) noexcept nogil:
    if line.at == line.length:
        return PROXY_NEED_MORE
    byte[0] = line.data[line.at]
    if line.at == PROXY_V1_MAX_BYTES - 2 and byte[0] != CR:
        return PROXY_LINE_TOO_LONG
    return PROXY_COMPLETE


cdef inline proxy_result_t v1_expect(
    v1_line_t *line, const char *text, uint32_t length, proxy_result_t refusal
) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t byte = 0
    cdef proxy_result_t result
    for i in range(length):
        result = v1_peek(line, &byte)
        if result != PROXY_COMPLETE:
            return result
        if byte != <uint8_t>text[i]:
            return refusal
        line.at += 1
    return PROXY_COMPLETE


cdef inline proxy_result_t v1_number(
    v1_line_t *line, uint32_t largest, uint32_t *number, proxy_result_t refusal
) noexcept nogil:
    """Decimal, without leading zeros; the byte that ends it is not read."""
    cdef uint32_t digits = 0
    cdef uint8_t byte = 0
    cdef proxy_result_t result
    number[0] = 0
    while True:
        result = v1_peek(line, &byte)
        if result != PROXY_COMPLETE:
            return result
        if byte < ZERO or byte > ZERO + 9:
            return PROXY_COMPLETE if digits else refusal
        if digits and number[0] == 0:
            return refusal
        number[0] = number[0] * 10 + byte - ZERO
        if number[0] > largest:
            return refusal
        digits += 1
        line.at += 1


cdef inline proxy_result_t v1_address_v4(v1_line_t *line, uint8_t *bytes) noexcept nogil:
    """With the space that ends it."""
    cdef uint32_t octet = 0
    cdef int i
    cdef proxy_result_t result
    for i in range(4):
        result = v1_number(line, 255, &octet, PROXY_BAD_ADDRESS)
        if result == PROXY_COMPLETE:
            bytes[i] = octet
            result = v1_expect(line, b" " if i == 3 else b".", 1, PROXY_BAD_ADDRESS)
        if result != PROXY_COMPLETE:
            return result
    return PROXY_COMPLETE


cdef inline int hex_digit(uint8_t byte) noexcept nogil:
    """-1 when it is none."""
    if ZERO <= byte <= ZERO + 9:
        return byte - ZERO
    byte |= 0x20
    return byte - 0x61 + 10 if 0x61 <= byte <= 0x66 else -1


cdef inline bint groups_digit(v1_groups_t *groups, uint32_t at, int digit) noexcept nogil:
    """Another hexadecimal digit; False when it is not allowed here."""
    if groups.digits == 0:
        if groups.count + (groups.gap >= 0) >= 8 or (groups.colons == 1 and groups.count == 0):
            return False
        groups.group_at = at
    if groups.digits == 4:
        return False
    groups.digits += 1
    groups.colons = 0
    groups.value = (groups.value << 4) | <uint32_t>digit
    return True


cdef inline void groups_push(v1_groups_t *groups, uint32_t value) noexcept nogil:
    groups.words[groups.count] = value
    groups.count += 1
    groups.digits = 0
    groups.value = 0


cdef inline bint groups_colon(v1_groups_t *groups) noexcept nogil:
    """A colon; False when it is not allowed here. A group follows it, or a second colon that stands for at least
    one."""
    if groups.digits:
        groups_push(groups, groups.value)
        groups.colons = 1
        return groups.count + (groups.gap >= 0) < 8
    if groups.colons == 1 and groups.gap < 0:
        groups.gap = groups.count
        groups.colons = 2
        return True
    if groups.colons == 0 and groups.count == 0 and groups.gap < 0:
        groups.colons = 1
        return True
    return False


cdef inline proxy_result_t groups_dotted(v1_groups_t *groups, v1_line_t *line) noexcept nogil:
    """A dot came: the last two groups are four decimals, and the first of them was read as hexadecimal digits."""
    cdef uint8_t octets[4]
    cdef proxy_result_t result
    if groups.digits == 0 or (groups.count > 5 if groups.gap >= 0 else groups.count != 6):
        return PROXY_BAD_ADDRESS
    line.at = groups.group_at
    result = v1_address_v4(line, octets)
    if result == PROXY_COMPLETE:
        groups_push(groups, (<uint32_t>octets[0] << 8) | octets[1])
        groups_push(groups, (<uint32_t>octets[2] << 8) | octets[3])
    return result


cdef inline bint groups_end(v1_groups_t *groups) noexcept nogil:
    """The address ended here; False when it may not: not 128 bits, or a single colon before the end."""
    if groups.digits:
        groups_push(groups, groups.value)
    elif groups.colons == 1:
        return False
    return groups.count == 8 if groups.gap < 0 else groups.count < 8


cdef inline void groups_store(v1_groups_t *groups, uint8_t *bytes) noexcept nogil:
    cdef int i, place
    memset(bytes, 0, 16)
    for i in range(groups.count):
        place = i if groups.gap < 0 or i < groups.gap else 8 - groups.count + i
        bytes[2 * place] = groups.words[i] >> 8
        bytes[2 * place + 1] = groups.words[i] & 0xFF


cdef inline proxy_result_t v1_groups(v1_line_t *line, v1_groups_t *groups) noexcept nogil:
    """With the space that ends it."""
    cdef uint8_t byte = 0
    cdef proxy_result_t result
    while True:
        result = v1_peek(line, &byte)
        if result != PROXY_COMPLETE:
            return result
        if byte == DOT:
            return groups_dotted(groups, line)
        line.at += 1
        if byte == SPACE:
            return PROXY_COMPLETE if groups_end(groups) else PROXY_BAD_ADDRESS
        if byte == COLON:
            if not groups_colon(groups):
                return PROXY_BAD_ADDRESS
        elif hex_digit(byte) < 0 or not groups_digit(groups, line.at - 1, hex_digit(byte)):
            return PROXY_BAD_ADDRESS


cdef inline proxy_result_t v1_address(v1_line_t *line, source_address_t *address) noexcept nogil:
    """`address.length` gives the family."""
    cdef v1_groups_t groups
    cdef proxy_result_t result
    if address.length == 4:
        return v1_address_v4(line, address.bytes)
    memset(&groups, 0, sizeof(groups))
    groups.gap = -1
    result = v1_groups(line, &groups)
    if result == PROXY_COMPLETE:
        groups_store(&groups, address.bytes)
    return result


cdef inline proxy_result_t v1_end(v1_line_t *line, proxy_result_t refusal) noexcept nogil:
    """The CRLF. `refusal` is for bytes that end nothing."""
    cdef uint8_t byte = 0
    cdef proxy_result_t result = v1_peek(line, &byte)
    if result != PROXY_COMPLETE:
        return result
    if byte != CR:
        return PROXY_BAD_LINE_END if byte == LF else refusal
    line.at += 1
    return v1_expect(line, b"\n", 1, PROXY_BAD_LINE_END)


cdef inline proxy_result_t v1_port(v1_line_t *line, source_address_t *address) noexcept nogil:
    cdef uint32_t port = 0
    cdef proxy_result_t result = v1_number(line, 65535, &port, PROXY_BAD_PORT)
    address.port = htons(port)
    return result


cdef inline proxy_result_t v1_endpoints(proxy_header_t *header, v1_line_t *line) noexcept nogil:
    cdef proxy_result_t result = v1_address(line, &header.source)
    if result == PROXY_COMPLETE:
        result = v1_address(line, &header.destination)
    if result == PROXY_COMPLETE:
        result = v1_port(line, &header.source)
    if result == PROXY_COMPLETE:
        result = v1_expect(line, b" ", 1, PROXY_BAD_PORT)
    if result == PROXY_COMPLETE:
        result = v1_port(line, &header.destination)
    return v1_end(line, PROXY_BAD_PORT) if result == PROXY_COMPLETE else result


cdef inline proxy_result_t v1_unknown(v1_line_t *line) noexcept nogil:
    """After "UNKNOWN": the CRLF, or a space and whatever else the line holds, which is ignored."""
    cdef uint8_t byte = 0
    cdef proxy_result_t result = v1_peek(line, &byte)
    if result == PROXY_COMPLETE and byte == SPACE:
        while result == PROXY_COMPLETE and byte != CR and byte != LF:
            line.at += 1
            result = v1_peek(line, &byte)
    return v1_end(line, PROXY_BAD_PROTOCOL) if result == PROXY_COMPLETE else result


cdef inline proxy_result_t proxy_v1_parse(
    proxy_header_t *header, const uint8_t *data, uint32_t available
) noexcept nogil:
    cdef v1_line_t line = v1_line_t(data, available, 0)
    cdef uint8_t byte = 0
    cdef proxy_result_t result = v1_expect(&line, b"PROXY ", 6, PROXY_BAD_SIGNATURE)
    if result == PROXY_COMPLETE:
        result = v1_peek(&line, &byte)
    if result != PROXY_COMPLETE:
        return result
    header.version = 1
    header.command = PROXY_COMMAND_PROXY
    if byte == <uint8_t>b"U":
        header.family = PROXY_UNSPEC
        result = v1_expect(&line, b"UNKNOWN", 7, PROXY_BAD_PROTOCOL)
        if result == PROXY_COMPLETE:
            result = v1_unknown(&line)
    else:
        result = v1_expect(&line, b"TCP", 3, PROXY_BAD_PROTOCOL)
        if result == PROXY_COMPLETE:
            result = v1_peek(&line, &byte)
        if result == PROXY_COMPLETE:
            header.family = PROXY_INET if byte == <uint8_t>b"4" else PROXY_INET6
            header.transport = PROXY_STREAM
            header.source.length = header.destination.length = 4 if header.family == PROXY_INET else 16
            result = v1_expect(&line, b"4 " if header.family == PROXY_INET else b"6 ", 2, PROXY_BAD_PROTOCOL)
        if result == PROXY_COMPLETE:
            result = v1_endpoints(header, &line)
    header.length = line.at
    return result
