# CRC32C: the checksum of PROXY protocol headers (RFC 4960, appendix B: Castagnoli's polynomial, reflected). It uses
# the CPU's own instruction where there is one, else a table of 16 words: headers are short and the table stays in the
# cache. Pure: no state, any thread.

from libc.stdint cimport uint32_t, uint64_t, uint8_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>

    /* Entry i: the remainder of the four bits i by 0x82F63B78, the polynomial with its lowest power first. */
    static const uint32_t crc32c_of_nibble[16] = {
        0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1, 0x417B1DBC, 0x5125DAD3, 0x61C69362, 0x7198540D,
        0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9, 0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75,
    };

    #if defined(__x86_64__)
    #define crc32c_has_instruction() __builtin_cpu_supports("sse4.2")
    __attribute__((target("sse4.2"), unused))
    static uint32_t crc32c_by_instruction(uint32_t crc, const uint8_t *data, uint64_t length) {
        for (; length >= 8; data += 8, length -= 8) {
            uint64_t word;
            memcpy(&word, data, 8);
            crc = (uint32_t)__builtin_ia32_crc32di(crc, word);
        }
        for (; length; data++, length--)
            crc = __builtin_ia32_crc32qi(crc, *data);
        return crc;
    }
    #else
    #define crc32c_has_instruction() 0
    #define crc32c_by_instruction(crc, data, length) (crc)
    #endif
    """
    const uint32_t *crc32c_of_nibble
    bint crc32c_has_instruction()
    uint32_t crc32c_by_instruction(uint32_t crc, const uint8_t *data, uint64_t length)

cdef enum:
    CRC32C_BEGIN = 0xFFFFFFFF


cdef inline uint32_t crc32c_by_table(uint32_t crc, const uint8_t *data, uint64_t length) noexcept nogil:
    cdef uint64_t i
    for i in range(length):
        crc ^= data[i]
        crc = crc32c_of_nibble[crc & 15] ^ (crc >> 4)
        crc = crc32c_of_nibble[crc & 15] ^ (crc >> 4)
    return crc


cdef inline uint32_t crc32c_extend(uint32_t crc, const uint8_t *data, uint64_t length) noexcept nogil:
    """From CRC32C_BEGIN through any number of pieces to `crc32c_end`."""
    if crc32c_has_instruction():
        return crc32c_by_instruction(crc, data, length)
    return crc32c_by_table(crc, data, length)


cdef inline uint32_t crc32c_end(uint32_t crc) noexcept nogil:
    return ~crc
