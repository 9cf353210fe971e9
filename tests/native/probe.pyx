# A probe module, built for tests alone (L4LB_PROBE=1): it cimports the product's headers and shows their insides.
"""Test probe of the data plane's native parts."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from l4lb._dataplane.balancing.load cimport backend_release
from l4lb._dataplane.balancing.pick cimport client_hash, connection_hash, pool_pick, pool_resume, tier_cursor
from l4lb._dataplane.base.enums cimport (
    NO_INDEX, PROXY_COMPLETE, PROXY_RESULT_COUNT, TIME_BUCKETS, hash_key_t, selection_t,
)
from l4lb._dataplane.base.ewma cimport ewma_add, ewma_read_us
from l4lb._dataplane.base.linux cimport write
from l4lb._dataplane.base.parts cimport chunk_t, chunks_t, pipe_t, pipes_t, proxy_send_t, ranges_t, timers_t, tried_t
from l4lb._dataplane.base.types cimport (
    backend_live_t, backend_t, pick_t, pool_live_t, pool_t, session_t, source_address_t, tier_t, times_t,
)
from l4lb._dataplane.base.udp_types cimport quic_header_t, quic_id_t, quic_ids_t
from l4lb._dataplane.base.verdicts cimport (
    failure_of, failure_reported, shortage_is_everywhere, shortage_of, shortage_of_bind,
)
from l4lb._dataplane.base.worker_types cimport sessions_t
from l4lb._dataplane.proxy_protocol.crc32c cimport CRC32C_BEGIN, crc32c_by_table, crc32c_end
from l4lb._dataplane.proxy_protocol.header cimport proxy_header_parse
from l4lb._dataplane.base.ranges cimport RANGE_ADDRESS_BYTES, ranges_free, ranges_hold, ranges_init
from l4lb._dataplane.proxy_protocol.sender cimport proxy_bytes_t, proxy_client_t, proxy_send_write
from l4lb._dataplane.proxy_protocol.types cimport PROXY_ANY, PROXY_STREAM, proxy_header_t, proxy_writer_t
from l4lb._dataplane.proxy_protocol.writer cimport (
    proxy_header_name, proxy_write_begin, proxy_write_crc32c, proxy_write_end, proxy_write_received,
)
from l4lb._dataplane.resources.chunks cimport chunk_bytes, chunk_give, chunk_take, chunks_free
from l4lb._dataplane.resources.pipes cimport pipe_give, pipe_take, pipes_free
from l4lb._dataplane.resources.sessions cimport sessions_at, sessions_free, sessions_give, sessions_init, sessions_take
from l4lb._dataplane.resources.timers cimport timers_arm, timers_disarm, timers_init, timers_next_ms, timers_pop
from l4lb._dataplane.session.latency cimport times_add
from l4lb._dataplane.tls.client_hello cimport (
    HELLO_FOUND, HELLO_MAX_BYTES, client_hello_parse, client_hello_parse_message, client_hello_t, hello_result_t,
)
from l4lb._dataplane.tls.libcrypto cimport libcrypto, libcrypto_load
from l4lb._dataplane.tls.quic_initial cimport HELLO_HAVE_BYTES, hello_stream_t, quic_frames_read
from l4lb._dataplane.tls.quic_keys cimport PLAIN_BYTES, quic_hello_read, quic_reader_t
from l4lb._dataplane.balancing.quic cimport (
    QUIC_BUCKETS, QUIC_WAYS, quic_header_read, quic_id_hash, quic_ids_find, quic_ids_free, quic_ids_init, quic_ids_put,
)

SESSION_BYTES = sizeof(session_t)
PROXY_RESULTS = <int>PROXY_RESULT_COUNT
QUIC_IDS = QUIC_BUCKETS * QUIC_WAYS
QUIC_BUCKET_COUNT = <int>QUIC_BUCKETS


cdef class Sessions:
    """A slab, with a timer wheel beside it as in a worker."""

    cdef sessions_t slab
    cdef timers_t wheel

    def __cinit__(self, uint64_t now_ms=0):
        sessions_init(&self.slab)
        timers_init(&self.wheel, now_ms)

    def __dealloc__(self):
        sessions_free(&self.slab)

    def take(self):
        """(index, generation) of a new session."""
        cdef session_t *s = sessions_take(&self.slab)
        return s.index, s.generation

    def give(self, uint32_t index):
        sessions_give(&self.slab, sessions_at(&self.slab, index))

    @property
    def active(self):
        return self.slab.active

    def arm(self, uint32_t index, uint64_t due_ms):
        timers_arm(&self.wheel, &self.slab, sessions_at(&self.slab, index), due_ms)

    def disarm(self, uint32_t index):
        timers_disarm(&self.wheel, &self.slab, sessions_at(&self.slab, index))

    def pop_due(self, uint64_t now_ms):
        """Indices of the sessions whose timers are due, in the order in which they fire."""
        cdef uint32_t index = timers_pop(&self.wheel, &self.slab, now_ms)
        fired = []
        while index != NO_INDEX:
            fired.append(index)
            index = timers_pop(&self.wheel, &self.slab, now_ms)
        return fired

    def next_ms(self, uint64_t now_ms):
        return timers_next_ms(&self.wheel, now_ms)


cdef class Chunks:
    cdef chunks_t chunks

    def __dealloc__(self):
        chunks_free(&self.chunks)

    def round_trip(self, bytes data):
        """Through a chunk and back."""
        cdef chunk_t *chunk = chunk_take(&self.chunks, <const uint8_t *><char *>data, len(data))
        copy = (<char *>chunk_bytes(chunk))[:chunk.length]
        chunk_give(&self.chunks, chunk)
        return copy

    @property
    def out(self):
        return self.chunks.out_count

    @property
    def idle(self):
        return [self.chunks.idle_count[i] for i in range(3)]


cdef class Pipes:
    cdef pipes_t pipes
    cdef pipe_t *taken

    def __dealloc__(self):
        pipes_free(&self.pipes)

    def take(self):
        """(read fd, write fd, capacity in bytes) of the pipe that is lent."""
        self.taken = pipe_take(&self.pipes)
        return self.taken.read_fd, self.taken.write_fd, self.taken.capacity_bytes

    def give(self, bytes leave=b""):
        """Give it back, with `leave` still in it."""
        if leave:
            write(self.taken.write_fd, <char *>leave, len(leave))
            self.taken.held_bytes = len(leave)
        pipe_give(&self.pipes, self.taken)

    @property
    def idle(self):
        return self.pipes.idle_count

    @property
    def out(self):
        return self.pipes.out_count


cdef int endpoint_set(source_address_t *endpoint, bytes address, bytes port) except -1:
    memset(endpoint, 0, sizeof(endpoint[0]))
    endpoint.length = len(address)
    memcpy(endpoint.bytes, <char *>address, len(address))
    memcpy(&endpoint.port, <char *>port, 2)
    return 0


cdef class Pool:
    """A pool as workers see it. `backends`: (weight, max_sessions) each; `usable` indexes them, `slots` that; `further`
    are the tiers after the first: (usable, slots) each, 32 at most."""

    cdef pool_t pool
    cdef pool_live_t live
    cdef backend_live_t *lives
    cdef tier_t tiers[32]

    def __cinit__(self, int selection, list backends, list usable, list slots, double bounded_load=0, further=()):
        cdef uint32_t i
        self.lives = <backend_live_t *>calloc(len(backends) + 1, sizeof(backend_live_t))
        self.pool.live = &self.live
        self.pool.selection = <selection_t>selection
        self.pool.backend_count = len(backends)
        self.pool.backends = <backend_t *>calloc(len(backends) + 1, sizeof(backend_t))
        for i in range(len(backends)):
            self.lives[i].id = i + 1
            self.pool.backends[i].live = &self.lives[i]
            self.pool.backends[i].weight, self.pool.backends[i].max_sessions = backends[i]
        self.pool.bounded_load = bounded_load
        self.pool.further = self.tiers
        self.fill_tier(&self.pool.first, 0, usable, slots)
        for usable, slots in further:
            self.pool.further_count += 1
            self.fill_tier(&self.tiers[self.pool.further_count - 1], self.pool.further_count, usable, slots)

    cdef int fill_tier(self, tier_t *tier, uint32_t number, list usable, list slots) except -1:
        cdef uint32_t *numbers = <uint32_t *>calloc(len(slots) + 1, sizeof(uint32_t))
        cdef uint32_t i
        tier.usable = <uint32_t *>calloc(len(usable) + 1, sizeof(uint32_t))
        tier.usable_count = len(usable)
        for i in range(len(usable)):
            tier.usable[i] = usable[i]
            tier.usable_weight += self.pool.backends[tier.usable[i]].weight
        for i in range(len(slots)):
            numbers[i] = slots[i]
        tier.slots = numbers
        tier.slot_count = len(slots)
        tier.cursor = tier_cursor(&self.live, number)
        return 0

    def __dealloc__(self):
        cdef uint32_t i
        free(self.lives)
        free(self.pool.backends)
        free(self.pool.first.usable)
        free(<void *>self.pool.first.slots)
        for i in range(self.pool.further_count):
            free(self.tiers[i].usable)
            free(<void *>self.tiers[i].slots)

    def pick(self, uint64_t hash=0, tried=(), uint32_t now_ms=0):
        """The index of the reserved backend, or None. `tried` are indices."""
        cdef uint32_t ids[64]
        cdef tried_t refused
        cdef pick_t pick
        cdef backend_t *backend
        refused.count = 0
        refused.backend_ids = ids
        for index in tried:
            ids[refused.count] = index + 1
            refused.count += 1
        pick = pick_t(&self.pool, &refused, hash, now_ms, 0, NULL)
        self.live.sessions_active += 1
        backend = pool_pick(&pick)
        if backend == NULL:
            self.live.sessions_active -= 1
        return None if backend == NULL else backend.live.id - 1

    def resume(self, uint32_t index, bint resumes):
        """The index, when a client may go on there with what it has begun, and reserved for it; or None."""
        cdef pick_t pick = pick_t(&self.pool, NULL, 0, 0, 0, NULL)
        cdef backend_t *backend
        if index < self.pool.backend_count:
            self.pool.backends[index].resumes = resumes
        backend = pool_resume(&pick, index + 1)
        return None if backend == NULL else backend.live.id - 1

    def pick_and_release(self, uint64_t count):
        """`count` picks for as many clients, each given back at once: for benchmarks."""
        cdef pick_t pick
        cdef backend_t *backend
        cdef uint64_t i
        for i in range(count):
            pick = pick_t(&self.pool, NULL, i * <uint64_t>0x9E3779B97F4A7C15, 0, 0, NULL)
            backend = pool_pick(&pick)
            if backend != NULL:
                backend_release(backend.live)

    def answered(self, int index, double connect_us, double answer_us, uint32_t now_ms):
        """Account for what a session measured."""
        ewma_add(&self.lives[index].connect_latency, connect_us, now_ms)
        ewma_add(&self.lives[index].answer_latency, answer_us, now_ms)

    def latency_us(self, int index, uint32_t now_ms):
        """(connect, answer) as they are seen at `now_ms`."""
        return (
            ewma_read_us(&self.lives[index].connect_latency, now_ms),
            ewma_read_us(&self.lives[index].answer_latency, now_ms),
        )

    def release(self, int index):
        self.live.sessions_active -= 1
        backend_release(&self.lives[index])

    def active(self):
        return [self.lives[i].sessions_active for i in range(self.pool.backend_count)]

    def hash(
        self, int key, tuple source, tuple destination, uint64_t seed, int prefix_v4, int prefix_v6, int protocol
    ):
        """What a client hashes to; source and destination are (packed address, port as 2 bytes)."""
        cdef source_address_t client, local
        endpoint_set(&client, source[0], source[1])
        endpoint_set(&local, destination[0], destination[1])
        self.pool.hash_key = <hash_key_t>key
        self.pool.hash_seed = seed
        self.pool.hash_prefix_v4 = prefix_v4
        self.pool.hash_prefix_v6 = prefix_v6
        return client_hash(&self.pool, &client, &local, protocol)

    def connection_hash(self, bytes id, uint64_t seed):
        self.pool.hash_seed = seed
        return connection_hash(&self.pool, <const uint8_t *><char *>id, len(id))


def crc32c_without_instruction(bytes data):
    return crc32c_end(crc32c_by_table(CRC32C_BEGIN, <const uint8_t *><char *>data, len(data)))


def proxy_pass_on(bytes received, tuple source, tuple destination, int transport, bint with_crc32c, uint32_t capacity):
    """A header that names two endpoints, (packed address, port as 2 bytes), with the TLVs of `received`.

    The length that the writer gives, or -errno; and the bytes around which it had to stay.
    """
    cdef proxy_header_t before, after
    cdef proxy_writer_t writer
    cdef source_address_t client, local
    cdef bytearray out = bytearray(b"\xaa") * (capacity + 16)
    cdef const uint8_t *data = <const uint8_t *><char *>received
    cdef int length
    assert proxy_header_parse(&before, data, len(received), PROXY_ANY) == PROXY_COMPLETE
    endpoint_set(&client, source[0], source[1])
    endpoint_set(&local, destination[0], destination[1])
    memset(&after, 0, sizeof(after))
    after.version = 2
    proxy_header_name(&after, &client, &local, transport)
    proxy_write_begin(&writer, &after, <uint8_t *><char *>out, capacity)
    proxy_write_received(&writer, &before, data)
    if with_crc32c:
        proxy_write_crc32c(&writer)
    length = proxy_write_end(&writer)
    return length, bytes(out)


cdef proxy_bytes_t borrowed(bytes data):
    cdef proxy_bytes_t found
    found.data = NULL
    found.length = 0
    if data is not None:
        found.data = <const uint8_t *><char *>data
        found.length = len(data)
    return found


def proxy_send(tuple settings, tuple source, tuple destination, dict said, uint32_t capacity):
    """What a pool with `settings` (version, TLVs, own TLVs) writes; `said`: received, authority, alpn, instance,
    session_id, where there are any. The length that the writer gives, or -errno, and the bytes that it stays within."""
    cdef proxy_send_t send
    cdef proxy_client_t client
    cdef source_address_t sender, local
    cdef bytearray out = bytearray(b"\xaa") * (capacity + 16)
    cdef bytes custom
    cdef int length
    send.version, send.tlvs, custom = settings
    send.custom = <const uint8_t *><char *>custom
    send.custom_length = len(custom)
    endpoint_set(&sender, source[0], source[1])
    endpoint_set(&local, destination[0], destination[1])
    client.source, client.destination, client.transport = &sender, &local, PROXY_STREAM
    client.received = borrowed(said.get("received"))
    client.authority = borrowed(said.get("authority"))
    client.alpn = borrowed(said.get("alpn"))
    client.instance = said.get("instance", 0)
    client.session_id = said.get("session_id", 0)
    length = proxy_send_write(&client, &send, <uint8_t *><char *>out, capacity)
    return length, bytes(out)


def ranges_find(bytes ranges, list addresses):
    """Whether each address, as packed bytes, is in one of the ranges."""
    cdef ranges_t given
    cdef source_address_t wanted
    found = []
    if not ranges_init(&given, <const uint8_t *><char *>ranges, len(ranges) // (2 * RANGE_ADDRESS_BYTES)):
        raise MemoryError()
    for address in addresses:
        endpoint_set(&wanted, address, b"\0\0")
        found.append(bool(ranges_hold(&given, &wanted)))
    ranges_free(&given)
    return found


def client_hello(bytes data, bint records=True):
    """(server name, protocols), empty where there is none; or "need_more", or "not_tls"."""
    cdef client_hello_t hello
    cdef uint8_t *copy = <uint8_t *>malloc(len(data) if data else 1)      # which ends where the sanitizer sees it
    cdef hello_result_t result
    memcpy(copy, <const char *>data, len(data))
    if records:
        result = client_hello_parse(&hello, copy, len(data))
    else:
        result = client_hello_parse_message(&hello, copy, len(data))
    free(copy)
    if result != HELLO_FOUND:
        return ["need_more", "not_tls"][<int>result - 1]
    offered = (<char *>hello.offered)[:hello.offered_length]
    protocols = []
    while offered:
        protocols.append(offered[1 : 1 + offered[0]])
        offered = offered[1 + offered[0] :]
    if protocols[:1] != [(<char *>hello.alpn)[:hello.alpn_length]] and hello.alpn_length:
        raise AssertionError("the first is not the first")
    return (<char *>hello.server_name)[:hello.server_name_length], protocols


cdef class QuicHello:
    """The ClientHello in a client's Initial packets."""

    cdef quic_reader_t reader
    cdef hello_stream_t stream
    cdef bytearray plain
    cdef bytearray memory

    def __cinit__(self):
        if not libcrypto_load():
            raise RuntimeError("there is no libcrypto")
        self.plain = bytearray(PLAIN_BYTES)
        self.memory = bytearray(HELLO_MAX_BYTES + HELLO_HAVE_BYTES)
        self.reader.plain = <uint8_t *><char *>self.plain
        self.reader.ecb = libcrypto.context_new()
        self.reader.gcm = libcrypto.context_new()
        self.stream.bytes = <uint8_t *><char *>self.memory
        self.stream.have = self.stream.bytes + HELLO_MAX_BYTES

    def __dealloc__(self):
        libcrypto.context_free(self.reader.ecb)
        libcrypto.context_free(self.reader.gcm)

    def read(self, bytes datagram):
        """Whether it was an Initial that could be read."""
        cdef uint8_t *copy = <uint8_t *>malloc(len(datagram) if datagram else 1)
        memcpy(copy, <const char *>datagram, len(datagram))
        found = quic_hello_read(&self.reader, &self.stream, copy, len(datagram))
        free(copy)
        return bool(found)

    def frames(self, bytes plain):
        """The same of what a packet has when it is decrypted."""
        cdef uint8_t *copy = <uint8_t *>malloc(len(plain) if plain else 1)
        memcpy(copy, <const char *>plain, len(plain))
        found = quic_frames_read(&self.stream, copy, len(plain))
        free(copy)
        return bool(found)

    def whole(self):
        """The message so far."""
        return bytes(self.memory[: self.stream.whole])


cdef bytes quic_id(quic_id_t *id):
    return (<char *>id.bytes)[:id.length] if id.length else b""


cdef class QuicIds:
    """Who gave which connection id. Datagrams are read from copies that end where a sanitizer sees it."""

    cdef quic_ids_t ids

    def __cinit__(self, uint64_t seed=0):
        if quic_ids_init(&self.ids, seed) < 0:
            raise MemoryError

    def __dealloc__(self):
        quic_ids_free(&self.ids)

    def header(self, bytes datagram):
        """(is long, version, destination, source), or None."""
        cdef quic_header_t header
        cdef uint8_t *data = <uint8_t *>malloc(len(datagram))
        memcpy(data, <char *>datagram, len(datagram))
        if quic_header_read(&header, data, len(datagram)):
            found = header.long_form, header.version, quic_id(&header.destination), quic_id(&header.source)
        else:
            found = None
            assert header.destination.length == header.source.length == 0
        free(data)
        return found

    def put(self, bytes id, uint32_t backend_id):
        quic_ids_put(&self.ids, self.hash(id), len(id), backend_id)

    def find(self, bytes datagram):
        """The backend's id, or 0."""
        cdef quic_header_t header
        cdef uint8_t *data = <uint8_t *>malloc(len(datagram))
        memcpy(data, <char *>datagram, len(datagram))
        quic_header_read(&header, data, len(datagram))
        found = quic_ids_find(&self.ids, &header)
        free(data)
        return found

    def hash(self, bytes id):
        return quic_id_hash(&self.ids, <const uint8_t *><char *>id, len(id))


def times_of(list durations_ns):
    """The buckets, and the sum in microseconds."""
    cdef times_t times
    memset(&times, 0, sizeof(times))
    for duration_ns in durations_ns:
        times_add(&times, duration_ns)
    return [times.buckets[i] for i in range(<int>TIME_BUCKETS)], times.sum_us


def errno_failure(int error, int family, bint reported):
    """(connect_failure_t, shortage_t) of an errno; `reported`: by the network, not by a call."""
    if reported:
        return <int>failure_reported(error, family), <int>shortage_of(error, family)
    return <int>failure_of(error, family), <int>shortage_of(error, family)


def errno_of_bind(int error, int family):
    """shortage_t"""
    return <int>shortage_of_bind(error, family)


def shortage_everywhere(int error, int family):
    return bool(shortage_is_everywhere(shortage_of(error, family)))
