# Between Python objects and the structs of the data plane: what the native modules share. With the GIL.

from cpython.array cimport array
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from l4lb._dataplane.base.enums cimport HISTOGRAM_BUCKETS, hash_key_t
from l4lb._dataplane.base.linux cimport (
    counter_add, counter_read, htons, published_store_u64, sockaddr_storage, socklen_t,
)
from l4lb._dataplane.base.parts cimport access_t, proxy_accept_t, proxy_send_t
from l4lb._dataplane.base.source_types cimport source_limits_t
from l4lb._dataplane.base.types cimport (
    backend_options_t, histogram_t, limits_t, listening_t, pool_t, source_address_t, terms_t,
)
from l4lb._dataplane.resources.stats cimport counters_new
from l4lb._native.routes cimport AddressRanges

cdef enum:
    NUMBERS_MAX = 1 << 24         # a process numbers what it makes from 1 on

cdef struct numbered_t:           # by the number that another process gave; NULL: nothing
    void **places
    uint32_t count


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


cdef inline int counters_add_before(void **blocks, uint32_t count, bytes exported, size_t size) except -1:
    """To the last block, which no worker writes."""
    cdef uint64_t *sums = <uint64_t *>blocks[count - 1]
    cdef uint64_t value
    cdef size_t field
    if len(exported) != size:
        raise ValueError("no counters of these")
    for field in range(size // sizeof(uint64_t)):
        memcpy(&value, <char *>exported + field * sizeof(uint64_t), sizeof(value))
        counter_add(sums + field, value)
    return 0


cdef inline int numbered_init(numbered_t *self, dict known) except -1:
    """ValueError for numbers that nobody gives."""
    if any([not 0 <= number < NUMBERS_MAX for number in known]):
        raise ValueError("a number is too large")
    self.count = max(known, default=0) + 1
    self.places = <void **>zeroed(self.count, sizeof(void *))
    return 0


cdef inline void *numbered_find(numbered_t *self, uint32_t number) noexcept:
    return self.places[number] if number < self.count else NULL


cdef inline uint32_t *indices_of(array indices) except? NULL:
    """Those of an `array("I")`, which the caller keeps; NULL for an empty one. A typed memoryview would do as well,
    and add 10,000 lines of C to each module that has one."""
    if indices.ob_descr.typecode != c"I":
        raise TypeError(f"indices are an array of 'I', not of {indices.typecode!r}")
    return indices.data.as_uints


cdef inline uint32_t *indices_copy(array indices) except NULL:
    cdef const uint32_t *source = indices_of(indices)
    cdef uint32_t *copy = <uint32_t *>zeroed(len(indices), sizeof(uint32_t))
    if source != NULL:
        memcpy(copy, source, len(indices) * sizeof(uint32_t))
    return copy


cdef inline int pool_settings_fill(pool_t *pool, object spec) except -1:
    """Of a `specs.Pool`, what is neither a backend nor a table."""
    pool.bounded_load = spec.bounded_load
    pool.connect_timeout_ms = spec.connect_timeout_ms
    pool.connect_attempts = spec.connect_attempts
    pool.retry_pause_ms = spec.retry_pause_ms
    pool.passive_failures = spec.passive_failures
    pool.queue_size = spec.queue_size
    pool.queue_timeout_ms = spec.queue_timeout_ms
    pool.source_length = sockaddr_copy(&pool.source, spec.source)
    pool.transparent = spec.transparent
    pool.hash_seed = spec.hash_seed
    pool.hash_key = <hash_key_t><int>spec.hash_key
    pool.hash_prefix_v4 = spec.hash_prefix_v4
    pool.hash_prefix_v6 = spec.hash_prefix_v6
    return 0


cdef inline int backend_options_fill(backend_options_t *options, object spec) except -1:
    """Of a `specs.BackendOptions`, into zeroed memory: options are compared byte by byte."""
    options.keepalive = spec.keepalive
    options.keepalive_idle_s = spec.keepalive_idle_s
    options.keepalive_interval_s = spec.keepalive_interval_s
    options.keepalive_count = spec.keepalive_count
    options.user_timeout_ms = spec.user_timeout_ms
    return 0


cdef inline int limits_publish(limits_t *live, object limits) except -1:
    """`specs.Limits`. Workers may be reading."""
    cdef int direction
    for direction in range(2):
        published_store_u64(&live.bandwidth[direction], limits.bandwidth[direction])
        published_store_u64(&live.total_bandwidth[direction], limits.total_bandwidth[direction])
    published_store_u64(&live.session_burst_ns, limits.session_burst_ns)
    published_store_u64(&live.session_rate, limits.session_rate)
    return source_limits_publish(&live.source, limits.source)


cdef inline int source_limits_publish(source_limits_t *live, object limits) except -1:
    """`specs.SourceLimits`; None: sources are not counted."""
    cdef int direction
    if limits is None:
        published_store_u64(&live.counts, 0)
        for direction in range(2):
            published_store_u64(&live.bandwidth[direction], 0)
        return 0
    published_store_u64(&live.sessions, limits.sessions)
    published_store_u64(&live.session_burst_ns, limits.session_burst_ns)
    published_store_u64(&live.session_rate, limits.session_rate)
    for direction in range(2):
        published_store_u64(&live.bandwidth[direction], limits.bandwidth[direction])
    published_store_u64(&live.prefix_v4, limits.prefix_v4)
    published_store_u64(&live.prefix_v6, limits.prefix_v6)
    published_store_u64(&live.closes, limits.closes)
    published_store_u64(&live.dry_run, limits.dry_run)
    published_store_u64(&live.counts, 1)
    return 0


cdef inline int terms_fill(terms_t *terms, object spec) except -1:
    """Of `specs.Terms`."""
    terms.idle_ms = spec.idle_ms
    terms.half_close_ms = spec.half_close_ms
    terms.duration_ms = spec.duration_ms
    terms.half_close = spec.half_close
    terms.splice = spec.splice
    terms.nodelay = spec.nodelay
    terms.deferred = spec.deferred
    return 0


cdef inline int listening_fill(listening_t *entry, object assigned) except -1:
    """Of an `Assigned` of `l4lb.net.listen.sockets`. Its host has 4 bytes, 16, or none when clients may come to several
    addresses."""
    cdef bytes host = assigned.host
    entry.fd = assigned.fd
    entry.port = htons(assigned.port)
    entry.shared = assigned.shared
    entry.first = assigned.first
    entry.datagrams = assigned.datagrams
    entry.wide = assigned.wide
    entry.local.length = len(host)
    entry.local.port = entry.port
    memcpy(entry.local.bytes, <const char *>host, len(host))
    return 0


cdef inline int access_fill(access_t *access, object spec) except -1:
    """Of a `specs.Access`; the caller keeps it, for its ranges."""
    access.closes = spec.closes
    access.banned = (<AddressRanges?>spec.banned).ranges
    access.refused = (<AddressRanges?>spec.refused).ranges
    return 0


cdef inline int proxy_accept_fill(proxy_accept_t *accept, object spec) except -1:
    """Of a `specs.ProxyAccept`; the caller keeps it, for its ranges."""
    accept.mode = spec.mode
    accept.timeout_ms = spec.timeout_ms
    accept.trusted = (<AddressRanges?>spec.trusted).ranges
    return 0


cdef inline int proxy_send_fill(proxy_send_t *send, object spec) except -1:
    """Of a `specs.ProxySend`; the caller keeps it, for its own TLVs."""
    cdef bytes custom = spec.own
    send.version = spec.version
    send.tlvs = spec.tlvs
    send.custom = <const uint8_t *><char *>custom
    send.custom_length = len(custom)
    return 0


cdef inline list buckets_list(histogram_t *histogram):
    return [counter_read(&histogram.buckets[i]) for i in range(<int>HISTOGRAM_BUCKETS)]


cdef inline bytes address_bytes(source_address_t *address):
    """4 bytes, 16, or none; 20 of one that means something on one interface alone, whose number is behind."""
    cdef uint8_t scoped[20]
    if address.length == 16 and address.scope_id:
        memcpy(scoped, address.bytes, 16)
        memcpy(scoped + 16, &address.scope_id, 4)
        return (<char *>scoped)[:20]
    return (<char *>address.bytes)[:address.length]
