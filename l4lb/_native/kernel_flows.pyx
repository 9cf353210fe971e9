# The flows in the maps of l4lb/_kernel, as Python asks for them. Any thread, without the GIL.
"""Flows that the programs in the kernel know; see `l4lb.engine.kernel.flows` for the interface to use."""

from cpython.array cimport array
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strerror

from l4lb._dataplane.base.linux cimport htons, ntohs
from l4lb._native.convert cimport indices_of, zeroed

from l4lb._native.reports import FoundFlow


cdef int check(int result) except -1:
    """libbpf 1.x returns -errno."""
    if result < 0:
        raise OSError(-result, f"flows: {strerror(-result).decode()}")
    return 0


def count_flows(int fd, wanted not None):
    """How many flows of a map are there, by service's number and by backend's index: of a `specs.FlowFilter` the times
    and incarnations count.

    OSError when the map cannot be read, MemoryError."""
    cdef flow_filter_t filter_
    cdef uint32_t *by_service = NULL
    cdef uint32_t *by_backend = NULL
    cdef batches_t batches
    cdef uint32_t i
    cdef int result
    flow_filter_fill(&filter_, wanted)
    result = batches_begin(&batches, fd)
    try:
        by_service = <uint32_t *>zeroed(SERVICES_MAX, sizeof(uint32_t))
        by_backend = <uint32_t *>zeroed(BACKENDS_MAX, sizeof(uint32_t))
        with nogil:
            if result == 0:
                result = batches_next(&batches)
            while result > 0:
                for i in range(batches.count):
                    if flow_is_there(&batches.values[i], &filter_):
                        by_service[batches.values[i].number % <uint32_t>SERVICES_MAX] += 1
                        by_backend[batches.values[i].backend % <uint32_t>BACKENDS_MAX] += 1
                result = batches_next(&batches)
        check(result)
        return (
            {i: by_service[i] for i in range(<uint32_t>SERVICES_MAX) if by_service[i]},
            {i: by_backend[i] for i in range(<uint32_t>BACKENDS_MAX) if by_backend[i]},
        )
    finally:
        batches_end(&batches)
        free(by_service)
        free(by_backend)


def find_flows(int fd, wanted not None, uint32_t limit):
    """(How many flows of a map match a `specs.FlowFilter`, at most `limit` of them as `FoundFlow`). Any thread.

    OSError when the map cannot be read, MemoryError."""
    cdef flow_filter_t filter_
    cdef batches_t batches
    cdef found_flow_t *found = NULL
    cdef uint64_t matched = 0
    cdef int result = 0
    flow_filter_fill(&filter_, wanted)
    result = batches_begin(&batches, fd)
    try:
        found = <found_flow_t *>zeroed(limit, sizeof(found_flow_t))
        with nogil:
            if result == 0:
                result = flows_collect(&batches, &filter_, found, limit, &matched)
        check(result)
        return matched, [found_flow(&found[i], filter_.seed) for i in range(min(matched, limit))]
    finally:
        batches_end(&batches)
        free(found)


cdef int flow_filter_fill(flow_filter_t *filter_, wanted) except -1:
    """Points into `wanted`."""
    cdef array since = wanted.since
    cdef array incarnations = wanted.incarnations
    cdef bytes prefix = wanted.prefix
    cdef bytes mask = wanted.mask
    memset(filter_, 0, sizeof(filter_[0]))
    if since.typecode != "Q" or len(since) != <int>SERVICES_MAX:
        raise ValueError("expected a time for each number of a service")
    if len(incarnations) != <int>BACKENDS_MAX:
        raise ValueError("expected a number for each index of a backend")
    filter_.since = <const uint64_t *>since.data.as_ulonglongs
    filter_.incarnations = indices_of(incarnations)
    if len(prefix) != 16 or len(mask) != 16:
        raise ValueError("expected a prefix and a mask of 16 bytes")
    memcpy(filter_.prefix, <const char *>prefix, 16)
    memcpy(filter_.mask, <const char *>mask, 16)
    filter_.port = htons(wanted.port)
    filter_.id = wanted.id
    filter_.seed = wanted.protocol
    return 0


cdef object found_flow(const found_flow_t *found, uint64_t seed):
    cdef const flow_key *key = &found.key
    return FoundFlow(
        id=flow_id(key, seed),
        client=(<const char *>&key.client)[:16],
        client_port=ntohs(key.client_port),
        service=(<const char *>&key.service)[:16],
        service_port=ntohs(key.service_port),
        number=found.value.number,
        backend=found.value.backend,
        seen_ns=found.value.seen,
    )
