# Between Python objects and the structs of the data plane: what the classes of `_fastpath.pyx` share. With the GIL.

from libc.stdint cimport uint16_t, uint32_t, uint8_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from l4lb._dataplane.enums cimport HISTOGRAM_BUCKETS, hash_key_t
from l4lb._dataplane.linux cimport counter_read, ntohs, sockaddr_storage, socklen_t
from l4lb._dataplane.proxy_terms cimport proxy_accept_t, proxy_send_t
from l4lb._dataplane.ranges cimport RANGE_ADDRESS_BYTES
from l4lb._dataplane.stats cimport counters_new
from l4lb._dataplane.types cimport (
    histogram_t, pool_t, record_t, source_address_t, terms_t,
)


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


cdef inline uint32_t *indices_copy(const uint32_t[::1] source) except NULL:
    cdef uint32_t *copy = <uint32_t *>zeroed(source.shape[0], sizeof(uint32_t))
    if source.shape[0]:
        memcpy(copy, &source[0], source.shape[0] * sizeof(uint32_t))
    return copy


cdef inline int pool_settings_fill(pool_t *pool, dict spec) except -1:
    """What is neither a backend nor a table."""
    pool.bounded_load = spec["bounded_load"]
    pool.connect_timeout_ms = spec["connect_timeout_ms"]
    pool.connect_attempts = spec["connect_attempts"]
    pool.passive_failures = spec["passive_failures"]
    pool.queue_size = spec["queue_size"]
    pool.queue_timeout_ms = spec["queue_timeout_ms"]
    pool.source_length = sockaddr_copy(&pool.source, spec["source"])
    pool.transparent = spec["transparent"]
    pool.hash_seed = spec["hash_seed"]
    pool.hash_key = <hash_key_t><int>spec["hash_key"]
    pool.hash_prefix_v4 = spec["hash_prefix_v4"]
    pool.hash_prefix_v6 = spec["hash_prefix_v6"]
    return 0


cdef inline int terms_fill(terms_t *terms, dict spec) except -1:
    terms.idle_ms = spec["idle_ms"]
    terms.half_close_ms = spec["half_close_ms"]
    terms.duration_ms = spec["duration_ms"]
    terms.splice = spec["splice"]
    terms.nodelay = spec["nodelay"]
    return 0


cdef inline int local_fill(source_address_t *local, bytes host, uint16_t port) except -1:
    """A listening socket's address: 4 bytes, 16, or none when clients may come to several; `port` as on the wire."""
    local.length = len(host)
    local.port = port
    memcpy(local.bytes, <const char *>host, len(host))
    return 0


cdef inline int proxy_accept_fill(proxy_accept_t *accept, tuple spec) except -1:
    """(mode, time-out in ms, trusted ranges); the caller keeps those."""
    cdef bytes trusted
    accept.mode, accept.timeout_ms, trusted = spec
    accept.trusted.bounds = <const uint8_t *><char *>trusted
    accept.trusted.count = len(trusted) // (2 * RANGE_ADDRESS_BYTES)
    return 0


cdef inline int proxy_send_fill(proxy_send_t *send, tuple spec) except -1:
    """(version, TLVs of each session, own TLVs); the caller keeps those."""
    cdef bytes custom
    send.version, send.tlvs, custom = spec
    send.custom = <const uint8_t *><char *>custom
    send.custom_length = len(custom)
    return 0


cdef inline list buckets_list(histogram_t *histogram):
    return [counter_read(&histogram.buckets[i]) for i in range(<int>HISTOGRAM_BUCKETS)]


cdef inline bytes address_bytes(source_address_t *address):
    return (<char *>address.bytes)[:address.length]


cdef inline tuple record_tuple(record_t *record):
    """Addresses as their bytes in network order, empty for a unix socket; times in ns."""
    return (
        record.session_id,
        record.listener_id,
        record.pool_slot,
        record.backend_id,
        address_bytes(&record.source),
        ntohs(record.source.port),
        (<char *>record.local.bytes)[:record.local.length],
        ntohs(record.local.port),
        record.started_ns,
        record.connect_ns,
        record.duration_ns,
        record.bytes_up,
        record.bytes_down,
        record.attempts,
        record.close_reason,
        record.spliced != 0,
        (<char *>record.sni)[:record.sni_length],
    )
