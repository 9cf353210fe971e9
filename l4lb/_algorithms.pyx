# The pure functions of the data plane for Python: no state, no system call, any thread. What they compute is in
# `_dataplane/*.pxd`; the classes that own native memory are in `_fastpath.pyx`.
"""Native hashing and tables; each has a twin in Python, which the tests hold it to."""

from array import array

from cpython.array cimport array as c_array, clone
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free

from l4lb._dataplane.enums cimport TABLE_MAGLEV, TABLE_RENDEZVOUS, TABLE_RING, table_kind_t
from l4lb._dataplane.hashing cimport xxh64 as native_xxh64
from l4lb._dataplane.tables cimport table_build
from l4lb._dataplane.types cimport candidate_t

TABLE_KINDS = {"maglev": <int>TABLE_MAGLEV, "ring": <int>TABLE_RING, "rendezvous": <int>TABLE_RENDEZVOUS}


def xxh64(const uint8_t[::1] data, uint64_t seed):
    """XXH64 of `data` as the workers compute it."""
    return native_xxh64(&data[0] if data.shape[0] else NULL, data.shape[0], seed)


def build_table(int kind, list ids, list weights, uint32_t table_size, uint64_t seed):
    """A table of `table_size` (prime) indices into `ids` (bytes). Weights are above 0; for a ring they are points."""
    cdef uint32_t i, count = len(ids)
    cdef c_array slots = clone(array("I"), table_size, zero=False)
    cdef uint32_t *slot = slots.data.as_uints
    cdef candidate_t *candidates = <candidate_t *>calloc(count if count else 1, sizeof(candidate_t))
    cdef bytes id
    cdef int built
    if candidates == NULL:
        raise MemoryError
    try:
        for i in range(count):
            id = ids[i]
            candidates[i] = candidate_t(<const uint8_t *><char *>id, len(id), weights[i])
        with nogil:
            built = table_build(<table_kind_t>kind, candidates, count, slot, table_size, seed)
    finally:
        free(candidates)
    if built < 0:
        raise MemoryError
    return slots
