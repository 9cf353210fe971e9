# Reads the maps of flows in batches, without the GIL, and says which flows a filter takes. `kernel_flows.pyx` alone
# uses this, on the control thread and on the one that looks for flows; each has its own buffers.

from libc.errno cimport EBUSY, ENOENT, ENOMEM, ENOSPC
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.hashing cimport xxh64

cdef extern from "bpf/bpf.h" nogil:
    int bpf_map_lookup_batch(
        int fd, void *after, void *last, void *keys, void *values, uint32_t *count, const void *options
    )

cdef extern from *:
    """
    #include <linux/types.h>
    #include "layout.h"
    """
    cdef struct address:
        pass
    cdef struct flow_key:
        address client
        address service
        uint16_t client_port   # in network order, as the next one
        uint16_t service_port
    cdef struct flow:
        uint64_t seen
        uint32_t backend
        uint32_t incarnation
        uint32_t number
        uint8_t ended
    enum:
        SERVICES_MAX
        BACKENDS_MAX

cdef enum:
    BATCH = 4096         # flows
    ROOM_MAX = 1 << 22   # flows, more than a map has
    CURSOR_BYTES = 64    # at least the kernel's four
    BUSY_MAX = 1000      # times in a row that another CPU may hold the lock that is needed


# ---- batches ----

cdef struct batches_t:
    flow_key *keys
    flow *values
    uint32_t room
    uint32_t count         # of this batch
    uint8_t after[CURSOR_BYTES]
    int fd
    bint begun, over


cdef inline int batches_grow(batches_t *batches, uint32_t room) noexcept nogil:
    """0 or -ENOMEM. What is in the buffers is lost."""
    free(batches.keys)
    free(batches.values)
    batches.keys = <flow_key *>malloc(room * sizeof(flow_key))
    batches.values = <flow *>malloc(room * sizeof(flow))
    batches.room = room
    return 0 if batches.keys != NULL and batches.values != NULL else -ENOMEM


cdef inline int batches_begin(batches_t *batches, int fd) noexcept nogil:
    """0 or -ENOMEM; `batches_end` in either case."""
    memset(batches, 0, sizeof(batches[0]))
    batches.fd = fd
    return batches_grow(batches, BATCH)


cdef inline void batches_end(batches_t *batches) noexcept nogil:
    free(batches.keys)
    free(batches.values)


cdef inline int batches_next(batches_t *batches) noexcept nogil:
    """1: there is another batch; 0: that was all; -errno.

    Documentation/bpf/map_hash.rst and bpf_map_lookup_batch: ENOENT comes with the last entries; ENOSPC, one bucket has
    more than there is room for; EBUSY, a bucket was locked, after what has been read. The cursor is a bucket's number,
    so that entries which come and go meanwhile make no other one appear twice.
    """
    cdef uint8_t last[CURSOR_BYTES]
    cdef int result, busy = 0
    while not batches.over:
        batches.count = batches.room
        result = bpf_map_lookup_batch(
            batches.fd, batches.after if batches.begun else NULL, last, batches.keys, batches.values,
            &batches.count, NULL,
        )
        if result == -ENOSPC and batches.room < ROOM_MAX:
            if batches_grow(batches, 2 * batches.room):
                return -ENOMEM
            continue
        if result == -EBUSY and not batches.count:
            busy += 1
            if busy < BUSY_MAX:
                continue
        if result not in (0, -ENOENT, -EBUSY) or busy == BUSY_MAX:
            return result
        memcpy(batches.after, last, CURSOR_BYTES)
        batches.begun = True
        batches.over = result == -ENOENT
        return 1
    return 0


# ---- filters ----

cdef struct flow_filter_t:
    const uint64_t *since         # by service's number: a flow without a packet since then (ns, monotonic) is not there
    const uint32_t *incarnations  # by index of a backend: that of the one whose flows are wanted; 0: none
    uint8_t prefix[16]            # of the client's address, with its mask
    uint8_t mask[16]
    uint16_t port                 # of the client, in network order; 0: any
    uint64_t id                   # 0: any
    uint64_t seed                 # of ids


cdef inline bint flow_is_there(const flow *value, const flow_filter_t *wanted) noexcept nogil:
    """Its client has not ended it and was heard of lately, and its next packet will go to the same backend."""
    if value.ended or value.seen < wanted.since[value.number % <uint32_t>SERVICES_MAX]:
        return False
    return value.incarnation == wanted.incarnations[value.backend % <uint32_t>BACKENDS_MAX]


cdef inline uint64_t flow_id(const flow_key *key, uint64_t seed) noexcept nogil:
    """Of its addresses and ports, never 0. `seed` differs between protocols."""
    cdef uint64_t id_ = xxh64(<const uint8_t *>key, sizeof(key[0]), seed)
    return id_ if id_ else 1


cdef inline bint client_is_within(const flow_key *key, const flow_filter_t *wanted) noexcept nogil:
    cdef const uint8_t *client = <const uint8_t *>&key.client
    cdef int i
    for i in range(16):
        if client[i] & wanted.mask[i] != wanted.prefix[i]:
            return False
    return True


cdef inline bint flow_is_wanted(const flow_key *key, const flow *value, const flow_filter_t *wanted) noexcept nogil:
    if not flow_is_there(value, wanted) or (wanted.port and key.client_port != wanted.port):
        return False
    return client_is_within(key, wanted) and (not wanted.id or flow_id(key, wanted.seed) == wanted.id)


# ---- what was found ----

cdef struct found_flow_t:
    flow_key key
    flow value


cdef inline int flows_collect(
    batches_t *batches, const flow_filter_t *wanted, found_flow_t *found, uint32_t limit, uint64_t *matched
) noexcept nogil:
    """At most `limit` of them into `found`; 0 or -errno."""
    cdef uint32_t i
    cdef int result = batches_next(batches)
    while result > 0:
        for i in range(batches.count):
            if not flow_is_wanted(&batches.keys[i], &batches.values[i], wanted):
                continue
            if matched[0] < limit:
                found[matched[0]].key = batches.keys[i]
                found[matched[0]].value = batches.values[i]
            matched[0] += 1
        result = batches_next(batches)
    return result
