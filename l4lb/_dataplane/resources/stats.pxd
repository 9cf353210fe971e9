# Stats: counters that one worker writes and control reads without a lock. Each worker's block has cache lines of its
# own, so that workers never share one by counting. Allocated and freed on control's thread.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from l4lb._dataplane.base.enums cimport CACHE_LINE_BYTES
from l4lb._dataplane.base.linux cimport counter_read

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **place, size_t alignment, size_t size)


cdef inline void counters_free(void **blocks, uint32_t worker_count) noexcept nogil:
    cdef uint32_t i
    if blocks == NULL:
        return
    for i in range(worker_count):
        free(blocks[i])
    free(blocks)


cdef inline void **counters_new(uint32_t worker_count, size_t size) noexcept nogil:
    """One zeroed block of `size` bytes per worker; NULL when memory is short."""
    cdef uint32_t i
    cdef size_t rounded = (size + CACHE_LINE_BYTES - 1) // CACHE_LINE_BYTES * CACHE_LINE_BYTES
    cdef void **blocks = <void **>calloc(worker_count, sizeof(void *))
    if blocks == NULL:
        return NULL
    for i in range(worker_count):
        if posix_memalign(&blocks[i], CACHE_LINE_BYTES, rounded) != 0:
            counters_free(blocks, worker_count)
            return NULL
        memset(blocks[i], 0, rounded)
    return blocks


cdef inline void counters_total(void **blocks, uint32_t worker_count, void *total, size_t size) noexcept nogil:
    """Sum the blocks, structs that consist of uint64_t, field by field into `total`."""
    cdef uint64_t *sums = <uint64_t *>total
    cdef size_t field
    cdef uint32_t i
    memset(total, 0, size)
    for i in range(worker_count):
        for field in range(size // sizeof(uint64_t)):
            sums[field] += counter_read(<uint64_t *>blocks[i] + field)
