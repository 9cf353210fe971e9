# Rendezvous: builds a lookup table in which every slot goes to the backend that scores highest for it (Thaler and
# Ravishankar 1998; weights by logarithm, Schindelhauer and Schomaker 2005). Pure: any thread, outside the GIL.
# `l4lb.routing.rendezvous` is its twin in Python and the oracle of the tests.

from libc.math cimport log
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from l4lb._dataplane.base.hashing cimport random_draw, xxh64
from l4lb._dataplane.base.parts cimport candidate_t

cdef struct contender_t:
    uint64_t id_hash
    double weight


cdef inline double contender_cost(contender_t *one, uint32_t slot) noexcept nogil:
    """An exponential draw of rate `weight`: the smallest wins with a probability proportional to its weight."""
    cdef double drawn = ((random_draw(one.id_hash, slot + 1) >> 11) + 0.5) / 9007199254740992.0      # 2**53
    return -log(drawn) / one.weight


cdef inline uint32_t winner_by_weight(contender_t *all, uint32_t count, uint32_t slot) noexcept nogil:
    cdef uint32_t i, best = 0
    cdef double cost, least = contender_cost(&all[0], slot)
    for i in range(1, count):
        cost = contender_cost(&all[i], slot)
        if cost < least:
            least = cost
            best = i
    return best


cdef inline uint32_t winner_of_equals(contender_t *all, uint32_t count, uint32_t slot) noexcept nogil:
    """The same without logarithms: with equal weights the largest draw has the smallest cost."""
    cdef uint32_t i, best = 0
    cdef uint64_t draw, largest = random_draw(all[0].id_hash, slot + 1) >> 11
    for i in range(1, count):
        draw = random_draw(all[i].id_hash, slot + 1) >> 11
        if draw > largest:
            largest = draw
            best = i
    return best


cdef inline void rendezvous_fill(contender_t *all, uint32_t count, uint32_t *slots, uint32_t size) noexcept nogil:
    """`count` >= 1, weights above 0."""
    cdef bint equal = True
    cdef uint32_t i
    for i in range(1, count):
        equal = equal and all[i].weight == all[0].weight
    for i in range(size):
        slots[i] = winner_of_equals(all, count, i) if equal else winner_by_weight(all, count, i)


cdef inline int rendezvous_build(
    candidate_t *candidates, uint32_t count, uint32_t *slots, uint32_t size, uint64_t seed
) noexcept nogil:
    """0, or -1 when memory is short."""
    cdef contender_t *all = <contender_t *>calloc(count, sizeof(contender_t))
    cdef uint32_t i
    if all == NULL:
        return -1
    for i in range(count):
        all[i].id_hash = xxh64(candidates[i].id, candidates[i].id_length, seed)
        all[i].weight = candidates[i].weight
    rendezvous_fill(all, count, slots, size)
    free(all)
    return 0
