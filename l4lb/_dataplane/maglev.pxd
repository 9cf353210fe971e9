# Maglev: builds the lookup table of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer"
# (NSDI 2016), section 3.4, with weights by turns: a backend whose weight is half of the largest gets every second turn.
# Pure: any thread, outside the GIL. `l4lb.routing.maglev` is its twin in Python and the oracle of the tests.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from l4lb._dataplane.hashing cimport xxh64
from l4lb._dataplane.types cimport NO_INDEX, candidate_t

cdef struct maglev_turn_t:
    uint32_t position             # the next place in this backend's permutation
    uint32_t skip
    double weight                 # share of the largest weight
    double target


cdef inline void maglev_turn_init(
    maglev_turn_t *turn, candidate_t *candidate, uint32_t heaviest, uint32_t size, uint64_t seed
) noexcept nogil:
    turn.position = xxh64(candidate.id, candidate.id_length, 2 * seed) % size
    turn.skip = xxh64(candidate.id, candidate.id_length, 2 * seed + 1) % (size - 1) + 1
    turn.weight = <double>candidate.weight / heaviest
    turn.target = 0


cdef inline void maglev_fill(maglev_turn_t *turns, uint32_t count, uint32_t *slots, uint32_t size) noexcept nogil:
    """Fill all `size` (prime) slots with indices of `turns`; `count` >= 1, every weight in (0, 1], the largest 1."""
    cdef uint32_t filled = 0
    cdef uint32_t i
    cdef uint64_t round_number = 1
    cdef maglev_turn_t *turn
    for i in range(size):
        slots[i] = NO_INDEX
    while True:
        for i in range(count):
            turn = &turns[i]
            if <double>round_number * turn.weight < turn.target:
                continue
            turn.target += 1.0
            while slots[turn.position] != NO_INDEX:
                turn.position = turn.position + turn.skip
                if turn.position >= size:
                    turn.position -= size
            slots[turn.position] = i
            filled += 1
            if filled == size:
                return
        round_number += 1


cdef inline int maglev_build(
    candidate_t *candidates, uint32_t count, uint32_t *slots, uint32_t size, uint64_t seed
) noexcept nogil:
    """0, or -1 when memory is short."""
    cdef maglev_turn_t *turns = <maglev_turn_t *>calloc(count, sizeof(maglev_turn_t))
    cdef uint32_t heaviest = 0
    cdef uint32_t i
    if turns == NULL:
        return -1
    for i in range(count):
        heaviest = candidates[i].weight if candidates[i].weight > heaviest else heaviest
    for i in range(count):
        maglev_turn_init(&turns[i], &candidates[i], heaviest, size, seed)
    maglev_fill(turns, count, slots, size)
    free(turns)
    return 0
