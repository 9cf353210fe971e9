# Ring: builds the lookup table of a consistent-hashing ring (Karger et al. 1997; points as in ketama, 160 per unit of
# weight). Pure: any thread, outside the GIL. `l4lb.routing.ring` is its twin in Python and the oracle of the tests.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort

from l4lb._dataplane.base.hashing cimport random_draw, xxh64
from l4lb._dataplane.base.parts cimport candidate_t

cdef struct ring_point_t:
    uint64_t position
    uint32_t backend


cdef inline void ring_points(
    ring_point_t *points, candidate_t *candidate, uint32_t backend, uint64_t seed
) noexcept nogil:
    """The points of one backend: the draws of SplitMix64 seeded with the hash of its id."""
    cdef uint64_t id_hash = xxh64(candidate.id, candidate.id_length, seed)
    cdef uint32_t i
    for i in range(<uint32_t>candidate.weight):
        points[i].position = random_draw(id_hash, i + 1)
        points[i].backend = backend


cdef inline int ring_compare(const void *a, const void *b) noexcept nogil:
    cdef const ring_point_t *one = <const ring_point_t *>a
    cdef const ring_point_t *other = <const ring_point_t *>b
    if one.position != other.position:
        return -1 if one.position < other.position else 1
    return -1 if one.backend < other.backend else 1


cdef inline void ring_fill(ring_point_t *points, uint64_t count, uint32_t *slots, uint32_t size) noexcept nogil:
    """Slot i, at i / size of the ring, belongs to the first point at or after it; `count` >= 1."""
    cdef uint64_t at = 0
    cdef uint64_t step = <uint64_t>-1 // size
    cdef uint32_t i
    qsort(points, count, sizeof(ring_point_t), ring_compare)
    for i in range(size):
        while at < count and points[at].position < i * step:
            at += 1
        slots[i] = points[at].backend if at < count else points[0].backend


cdef inline int ring_build(
    candidate_t *candidates, uint32_t count, uint32_t *slots, uint32_t size, uint64_t seed
) noexcept nogil:
    """A candidate's weight is its number of points. 0, or -1 when memory is short."""
    cdef ring_point_t *points
    cdef uint64_t total = 0
    cdef uint64_t at = 0
    cdef uint32_t i
    for i in range(count):
        total += <uint32_t>candidates[i].weight
    points = <ring_point_t *>calloc(total, sizeof(ring_point_t))
    if points == NULL:
        return -1
    for i in range(count):
        ring_points(&points[at], &candidates[i], i, seed)
        at += <uint32_t>candidates[i].weight
    ring_fill(points, total, slots, size)
    free(points)
    return 0
