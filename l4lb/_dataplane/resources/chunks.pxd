# Chunks: bytes that a sink did not take. A half borrows one when a send is partial and gives it back when it is
# drained; three sizes, kept in capped free lists, so that a slow reader costs about as much as it holds up.
# Owned by one worker; called on its thread.

from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from l4lb._dataplane.base.enums cimport CHUNK_CLASSES
from l4lb._dataplane.base.linux cimport gauge_add
from l4lb._dataplane.base.parts cimport chunk_t, chunks_t

cdef enum:
    CHUNK_SMALLEST_BYTES = 4096   # then four times as much, then sixteen: SCRATCH_BYTES
    CHUNK_IDLE_MAX = 16           # kept per class


cdef inline uint8_t *chunk_bytes(chunk_t *chunk) noexcept nogil:
    return <uint8_t *>chunk + sizeof(chunk_t)


cdef inline chunk_t *chunk_take(chunks_t *self, const uint8_t *data, uint32_t length) noexcept nogil:
    """A chunk that holds a copy of `length` (1 to SCRATCH_BYTES) bytes; NULL when memory is short (malloc: ENOMEM)."""
    cdef uint8_t size_class = 0
    cdef chunk_t *chunk
    while size_class < CHUNK_CLASSES - 1 and length > <uint32_t>CHUNK_SMALLEST_BYTES << (2 * size_class):
        size_class += 1
    chunk = self.idle[size_class]
    if chunk != NULL:
        self.idle[size_class] = chunk.next
        self.idle_count[size_class] -= 1
    else:
        chunk = <chunk_t *>malloc(sizeof(chunk_t) + (<uint32_t>CHUNK_SMALLEST_BYTES << (2 * size_class)))
        if chunk == NULL:
            return NULL
        chunk.size_class = size_class
    chunk.start = 0
    chunk.length = length
    memcpy(chunk_bytes(chunk), data, length)
    gauge_add(&self.out_count, 1)
    return chunk


cdef inline void chunk_give(chunks_t *self, chunk_t *chunk) noexcept nogil:
    gauge_add(&self.out_count, -1)
    if self.idle_count[chunk.size_class] >= CHUNK_IDLE_MAX:
        free(chunk)
        return
    chunk.next = self.idle[chunk.size_class]
    self.idle[chunk.size_class] = chunk
    self.idle_count[chunk.size_class] += 1


cdef inline void chunks_free(chunks_t *self) noexcept nogil:
    cdef chunk_t *chunk
    cdef int i
    for i in range(CHUNK_CLASSES):
        while self.idle[i] != NULL:
            chunk = self.idle[i]
            self.idle[i] = chunk.next
            free(chunk)
        self.idle_count[i] = 0
