# Maglev: builds the lookup table of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer"
# (NSDI 2016), section 3.4, with weights by turns: a backend whose weight is half of the largest gets every second turn.
# Pure: any thread, outside the GIL. `l4lb.routing.maglev` is its twin in Python and the oracle of the tests.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from l4lb._dataplane.base.hashing cimport xxh64
from l4lb._dataplane.base.parts cimport candidate_t

cdef struct maglev_turn_t:
    uint32_t position             # the next place in this backend's permutation
    uint32_t skip
    double weight                 # share of the largest weight
    double target


cdef inline void maglev_turn_init(
    maglev_turn_t *turn, candidate_t *candidate, double heaviest, uint32_t size, uint64_t seed
) noexcept nogil:
    turn.position = xxh64(candidate.id, candidate.id_length, 2 * seed) % size
    turn.skip = xxh64(candidate.id, candidate.id_length, 2 * seed + 1) % (size - 1) + 1
    turn.weight = candidate.weight / heaviest
    turn.target = 0


cdef inline uint32_t maglev_claim(maglev_turn_t *turn, uint64_t *taken, uint32_t size) noexcept nogil:
    """Its next free slot, by the bits of `taken`, which stay in the nearest cache; the table does not."""
    cdef uint32_t position = turn.position
    while taken[position >> 6] >> (position & 63) & 1:
        position += turn.skip
        if position >= size:
            position -= size
    taken[position >> 6] |= <uint64_t>1 << (position & 63)
    turn.position = position
    return position


cdef inline void maglev_fill(
    maglev_turn_t *turns, uint32_t count, uint64_t *taken, uint32_t *slots, uint32_t size
) noexcept nogil:
    """Fill all `size` (prime) slots with indices of `turns`; `count` >= 1, every weight in (0, 1], the largest 1."""
    cdef uint32_t filled = 0
    cdef uint32_t i
    cdef double round_number = 1
    cdef maglev_turn_t *turn
    while True:
        for i in range(count):
            turn = &turns[i]
            if round_number * turn.weight < turn.target:
                continue
            turn.target += 1.0
            slots[maglev_claim(turn, taken, size)] = i
            filled += 1
            if filled == size:
                return
        round_number += 1


cdef inline int maglev_build(
    candidate_t *candidates, uint32_t count, uint32_t *slots, uint32_t size, uint64_t seed
) noexcept nogil:
    """0, or -1 when memory is short."""
    cdef maglev_turn_t *turns = <maglev_turn_t *>calloc(count, sizeof(maglev_turn_t))
    cdef uint64_t *taken = <uint64_t *>calloc(size // 64 + 1, sizeof(uint64_t))
    cdef double heaviest = 0
    cdef uint32_t i
    if turns != NULL and taken != NULL:
        for i in range(count):
            heaviest = candidates[i].weight if candidates[i].weight > heaviest else heaviest
        for i in range(count):
            maglev_turn_init(&turns[i], &candidates[i], heaviest, size, seed)
        maglev_fill(turns, count, taken, slots, size)
    free(turns)
    free(taken)
    return 0 if turns != NULL and taken != NULL else -1
