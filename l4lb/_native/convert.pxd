# Between Python objects and the structs of the data plane: what the classes of `_fastpath.pyx` share. With the GIL.

from cpython.array cimport array
from libc.stdint cimport uint16_t, uint32_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from l4lb._dataplane.base.enums cimport HISTOGRAM_BUCKETS, hash_key_t
from l4lb._dataplane.base.linux cimport counter_read, htons, ntohs, sockaddr_storage, socklen_t
from l4lb._dataplane.base.parts cimport proxy_accept_t, proxy_send_t
from l4lb._dataplane.base.types cimport histogram_t, pool_t, source_address_t, terms_t
from l4lb._dataplane.base.udp_types cimport exported_flow_t, flow_t
from l4lb._dataplane.base.worker_types cimport record_t, worker_t
from l4lb._dataplane.proxy_protocol.ranges cimport RANGE_ADDRESS_BYTES
from l4lb._dataplane.resources.stats cimport counters_new


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


cdef inline int pool_settings_fill(pool_t *pool, dict spec) except -1:
    """What is neither a backend nor a table."""
    pool.bounded_load = spec["bounded_load"]
    pool.connect_timeout_ms = spec["connect_timeout_ms"]
    pool.connect_attempts = spec["connect_attempts"]
    pool.retry_pause_ms = spec["retry_pause_ms"]
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
    terms.half_close = spec["half_close"]
    terms.splice = spec["splice"]
    terms.nodelay = spec["nodelay"]
    terms.deferred = spec["deferred"]
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
    """4 bytes, 16, or none; 20 of one that means something on one interface alone, whose number is behind."""
    cdef uint8_t scoped[20]
    if address.length == 16 and address.scope_id:
        memcpy(scoped, address.bytes, 16)
        memcpy(scoped + 16, &address.scope_id, 4)
        return (<char *>scoped)[:20]
    return (<char *>address.bytes)[:address.length]


cdef inline tuple record_tuple(record_t *record):
    """Addresses as `address_bytes`, empty for a unix socket; times in ns."""
    return (
        record.session_id,
        record.listener_id,
        record.pool_slot,
        record.backend_id,
        address_bytes(&record.source),
        ntohs(record.source.port),
        address_bytes(&record.local),
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


# ---- sessions of UDP that move ----

cdef inline str address_text(const uint8_t *address, uint8_t length):
    return (<const char *>address)[:length].hex()


cdef inline uint8_t address_fill(uint8_t *place, str text) except 0xFF:
    """Returns the length: 0, 4 or 16."""
    cdef bytes address = bytes.fromhex(text)
    if len(address) not in (0, 4, 16):
        raise ValueError("an address has 4 or 16 bytes")
    memcpy(place, <const char *>address, len(address))
    return <uint8_t>len(address)


cdef inline dict moved_fields(const exported_flow_t *exported):
    """What is to be known of it, but for its sockets and its backend."""
    cdef const flow_t *flow = &exported.flow
    return {
        "age_ms": exported.age_ms,
        "idle_ms": exported.idle_ms,
        "bytes_up": exported.bytes_up,
        "bytes_down": exported.bytes_down,
        "datagrams_up": flow.datagrams_up,
        "datagrams_down": flow.datagrams_down,
        "requests_left": flow.requests_left,
        "responses": flow.responses,
        "one_way": bool(flow.one_way),
        "source": address_text(exported.source, exported.source_length),
        "source_port": ntohs(exported.source_port),
        "peer": address_text(flow.peer, flow.peer_length),
        "peer_port": ntohs(flow.peer_port),
        "scope_id": flow.scope_id,
        "local": address_text(flow.local, flow.local_length),
        "local_port": ntohs(exported.local_port),
        "interface": flow.interface,
        "destination": address_text(flow.destination, flow.destination_length),
        "destination_port": ntohs(flow.destination_port),
        "named": bool(flow.named),
        "wide": bool(flow.wide),
        "link_wide": bool(exported.link_wide),
        "no_trains": bool(flow.no_trains),
        "quic": bool(flow.quic),
        "quic_given": flow.quic_given,
        "quic_given_length": flow.quic_given_length,
    }


cdef inline int moved_fill(exported_flow_t *exported, dict fields) except -1:
    """The other way round. KeyError, ValueError, OverflowError for what is not as `moved_fields` makes it."""
    cdef flow_t *flow = &exported.flow
    exported.age_ms = fields["age_ms"]
    exported.idle_ms = fields["idle_ms"]
    exported.bytes_up = fields["bytes_up"]
    exported.bytes_down = fields["bytes_down"]
    flow.datagrams_up = fields["datagrams_up"]
    flow.datagrams_down = fields["datagrams_down"]
    flow.requests_left = fields["requests_left"]
    flow.responses = fields["responses"]
    flow.one_way = fields["one_way"]
    exported.source_length = address_fill(exported.source, fields["source"])
    exported.source_port = htons(fields["source_port"])
    flow.peer_length = address_fill(flow.peer, fields["peer"])
    flow.peer_port = htons(fields["peer_port"])
    flow.scope_id = fields["scope_id"]
    flow.local_length = address_fill(flow.local, fields["local"])
    exported.local_port = htons(fields["local_port"])
    flow.interface = fields["interface"]
    flow.destination_length = address_fill(flow.destination, fields["destination"])
    flow.destination_port = htons(fields["destination_port"])
    flow.named = fields["named"]
    flow.wide = fields["wide"]
    exported.link_wide = fields["link_wide"]
    flow.no_trains = fields["no_trains"]
    flow.quic = fields["quic"]
    flow.quic_given = fields["quic_given"]
    flow.quic_given_length = fields["quic_given_length"]
    return 0


cdef inline list moved_list(worker_t *w):
    """(listening socket, socket to the backend, id of the backend, fields) of each session that `w` has let go of; the
    caller owns the socket to the backend."""
    cdef exported_flow_t *exported
    cdef uint32_t i
    found = []
    for i in range(w.exported_count):
        exported = &w.exported[i]
        found.append((exported.flow.fd, exported.link_fd, exported.backend_id, moved_fields(exported)))
    free(w.exported)
    w.exported = NULL
    w.exported_count = 0
    return found
