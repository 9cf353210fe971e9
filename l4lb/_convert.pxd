# Between Python objects and the structs of the data plane: what the classes of `_fastpath.pyx` share. With the GIL.

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from l4lb._dataplane.enums cimport HISTOGRAM_BUCKETS
from l4lb._dataplane.linux cimport counter_read, ntohs, sockaddr_storage, socklen_t
from l4lb._dataplane.stats cimport counters_new
from l4lb._dataplane.types cimport histogram_t, record_t


cdef inline void *zeroed(size_t count, size_t size) except NULL:
    """Memory for `count` items, at least one; MemoryError when there is none."""
    cdef void *memory = calloc(count if count else 1, size)
    if memory == NULL:
        raise MemoryError()
    return memory


cdef inline socklen_t sockaddr_copy(sockaddr_storage *place, bytes address) except 0xFFFF:
    if len(address) > sizeof(sockaddr_storage):
        raise ValueError("a socket address is at most sockaddr_storage")
    memcpy(place, <const char *>address, len(address))
    return <socklen_t>len(address)


cdef inline void **counters(uint32_t worker_count, size_t size) except NULL:
    cdef void **blocks = counters_new(worker_count, size)
    if blocks == NULL:
        raise MemoryError()
    return blocks


cdef inline list buckets_list(histogram_t *histogram):
    return [counter_read(&histogram.buckets[i]) for i in range(<int>HISTOGRAM_BUCKETS)]


cdef inline tuple record_tuple(record_t *record):
    return (
        record.session_id,
        record.listener_id,
        record.pool_slot,
        record.backend_id,
        (<char *>record.source.bytes)[:record.source.length],
        ntohs(record.source.port),
        ntohs(record.local_port),
        record.started_ns,
        record.connect_ns,
        record.duration_ns,
        record.bytes_up,
        record.bytes_down,
        record.attempts,
        record.close_reason,
        record.spliced != 0,
    )
