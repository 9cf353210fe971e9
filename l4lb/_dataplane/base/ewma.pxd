# EWMA: a latency as a moving average that jumps to every peak and comes down slowly, shared by all workers in one
# atomic word: its value in us as a float, and when it was last written. Peak EWMA is Finagle's (Twitter 2014): a slow
# answer is believed at once, a fast one only as the slow one fades.

from libc.math cimport exp
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from l4lb._dataplane.base.linux cimport shared_read, shared_swap_if

cdef enum:
    EWMA_DECAY_MS = 10000         # after so long without a sample 1/e of the value is left


cdef inline int64_t ewma_pack(float value_us, uint32_t at_ms) noexcept nogil:
    cdef uint32_t bits
    memcpy(&bits, &value_us, sizeof(bits))
    return <int64_t>(<uint64_t>at_ms << 32 | bits)


cdef inline double ewma_value_us(int64_t packed) noexcept nogil:
    cdef float value_us
    cdef uint32_t bits = <uint32_t>packed
    memcpy(&value_us, &bits, sizeof(value_us))
    return value_us


cdef inline double ewma_left(int64_t packed, uint32_t now_ms) noexcept nogil:
    """The fraction of the value that is left at `now_ms`. Another worker's clock may be a little ahead of ours."""
    cdef uint32_t elapsed_ms = now_ms - <uint32_t>(<uint64_t>packed >> 32)
    return 1.0 if elapsed_ms >> 31 else exp(-<double>elapsed_ms / EWMA_DECAY_MS)


cdef inline double ewma_read_us(int64_t *ewma, uint32_t now_ms) noexcept nogil:
    cdef int64_t packed = shared_read(ewma)
    return ewma_value_us(packed) * ewma_left(packed, now_ms)


cdef inline void ewma_add(int64_t *ewma, double sample_us, uint32_t now_ms) noexcept nogil:
    cdef int64_t packed = shared_read(ewma)
    cdef double left, value_us
    while True:
        left = ewma_left(packed, now_ms)
        value_us = ewma_value_us(packed)
        value_us = sample_us if sample_us > value_us else value_us * left + sample_us * (1 - left)
        if shared_swap_if(ewma, &packed, ewma_pack(<float>value_us, now_ms)):
            return
