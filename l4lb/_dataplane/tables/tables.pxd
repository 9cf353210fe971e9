# Tables: fills a lookup table by its kind. Pure: any thread, outside the GIL.

from libc.stdint cimport uint32_t, uint64_t

from l4lb._dataplane.base.enums cimport TABLE_RENDEZVOUS, TABLE_RING, table_kind_t
from l4lb._dataplane.base.parts cimport candidate_t
from l4lb._dataplane.tables.maglev cimport maglev_build
from l4lb._dataplane.tables.rendezvous cimport rendezvous_build
from l4lb._dataplane.tables.ring cimport ring_build


cdef inline int table_build(
    table_kind_t kind, candidate_t *candidates, uint32_t count, uint32_t *slots, uint32_t size, uint64_t seed
) noexcept nogil:
    """Fill `size` (prime) slots with indices of `candidates`; `count` >= 1. 0, or -1 when memory is short."""
    if kind == TABLE_RING:
        return ring_build(candidates, count, slots, size, seed)
    if kind == TABLE_RENDEZVOUS:
        return rendezvous_build(candidates, count, slots, size, seed)
    return maglev_build(candidates, count, slots, size, seed)
