# Waiting: QUIC clients whose route depends on a ClientHello that has not come whole, which has more than one datagram
# where it is large. What they have sent is kept, and goes to their backend once the route is known.
#
# Such a client is admitted already: it holds places as a session does, so limits bound these too. Besides, a worker
# keeps at most WAITING_MAX, each with WAITING_DATAGRAMS and WAITING_BYTES for WAITING_MS; the oldest goes when there
# are more, since the parts of a hello come within milliseconds of each other. Called on the worker's thread by
# create.pxd, events.pxd and the loop.

from libc.stdint cimport int32_t, uint32_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from l4lb._dataplane.admission.admission cimport release
from l4lb._dataplane.base.enums cimport DATAGRAM_BATCH, DROP_UNROUTED, drop_reason_t
from l4lb._dataplane.base.types cimport held_t, listener_live_t
from l4lb._dataplane.base.udp_types cimport datagram_t, intake_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.tls.client_hello cimport HELLO_MAX_BYTES
from l4lb._dataplane.tls.libcrypto cimport libcrypto, libcrypto_loaded
from l4lb._dataplane.tls.quic_initial cimport HELLO_HAVE_BYTES, hello_stream_clear, hello_stream_t
from l4lb._dataplane.tls.quic_keys cimport PLAIN_BYTES, quic_reader_t
from l4lb._dataplane.udp.datagrams cimport datagram_count, intake_datagram
from l4lb._dataplane.udp.flows cimport datagrams_dropped, flow_key_t

cdef enum:
    WAITING_MAX = 1024
    WAITING_DATAGRAMS = 4
    WAITING_BYTES = 8192          # of one client: Initials are not fragmented, and fit the path
    WAITING_MS = 3000             # a client repeats a lost part after 1 s (RFC 9002 6.2.2)
    WAITING_BUCKETS = 1024        # power of two
    REPLAY_SLOT = DATAGRAM_BATCH  # of the intake: behind those that are received into

cdef struct stored_t:             # a datagram; its bytes follow
    stored_t *next
    datagram_t about
    uint32_t size

cdef struct waiting_t:
    waiting_t *next_in_bucket
    waiting_t *older
    waiting_t *newer
    flow_key_t key
    uint32_t hash                 # of its key
    uint32_t since_ms
    uint32_t count                # of stored datagrams
    uint32_t size                 # ... and of all their bytes
    stored_t *first
    stored_t *last
    hello_stream_t hello
    listener_live_t *listener
    held_t held                   # the listener among others: it is not freed meanwhile

cdef struct waitings_t:           # of one worker
    waiting_t *buckets[WAITING_BUCKETS]
    waiting_t *oldest
    waiting_t *newest
    hello_stream_t hello          # of the client whose datagram is looked at, until it must wait
    quic_reader_t reader


# ---- memory ----

cdef inline bint hello_stream_open(hello_stream_t *stream) noexcept nogil:
    """malloc(3): ENOMEM, False."""
    if stream.bytes == NULL:
        stream.bytes = <uint8_t *>malloc(HELLO_MAX_BYTES + HELLO_HAVE_BYTES)
        if stream.bytes == NULL:
            return False
        stream.have = stream.bytes + HELLO_MAX_BYTES
    hello_stream_clear(stream)
    return True


cdef inline waitings_t *waitings_open(worker_t *w) noexcept nogil:
    """Made when they are first needed; NULL when memory is short, or there is no libcrypto."""
    cdef waitings_t *self = <waitings_t *>w.udp.waiting
    if self == NULL and libcrypto_loaded:
        self = <waitings_t *>calloc(1, sizeof(waitings_t))
        w.udp.waiting = self
    if self == NULL:
        return NULL
    if self.reader.plain == NULL:
        self.reader.plain = <uint8_t *>malloc(PLAIN_BYTES)
    if self.reader.ecb == NULL:
        self.reader.ecb = libcrypto.context_new()
    if self.reader.gcm == NULL:
        self.reader.gcm = libcrypto.context_new()
    if self.reader.plain == NULL or self.reader.ecb == NULL or self.reader.gcm == NULL:
        return NULL
    return self if self.hello.bytes != NULL or hello_stream_open(&self.hello) else NULL


cdef inline void waiting_free(waiting_t *client) noexcept nogil:
    """It is in no list any more."""
    cdef stored_t *stored
    while client.first != NULL:
        stored = client.first
        client.first = stored.next
        free(stored)
    free(client.hello.bytes)
    free(client)


# ---- finding, taking out ----

cdef inline waiting_t **waiting_bucket(waitings_t *self, uint32_t hash) noexcept nogil:
    return &self.buckets[hash & (WAITING_BUCKETS - 1)]


cdef inline waiting_t *waiting_find(worker_t *w, const flow_key_t *key, uint32_t hash) noexcept nogil:
    cdef waitings_t *self = <waitings_t *>w.udp.waiting
    cdef waiting_t *client = NULL
    if self != NULL:
        client = waiting_bucket(self, hash)[0]
    while client != NULL and (client.hash != hash or memcmp(&client.key, key, sizeof(flow_key_t)) != 0):
        client = client.next_in_bucket
    return client


cdef inline void waiting_take(worker_t *w, waiting_t *client) noexcept nogil:
    """Out of the lists; the caller has it then."""
    cdef waitings_t *self = <waitings_t *>w.udp.waiting
    cdef waiting_t **link = waiting_bucket(self, client.hash)
    while link[0] != client:
        link = &link[0].next_in_bucket
    link[0] = client.next_in_bucket
    if client.older != NULL:
        client.older.newer = client.newer
    else:
        self.oldest = client.newer
    if client.newer != NULL:
        client.newer.older = client.older
    else:
        self.newest = client.older
    w.udp.waiting_count -= 1


cdef inline void waiting_lose(worker_t *w, waiting_t *client, drop_reason_t reason) noexcept nogil:
    """What it has sent goes nowhere."""
    cdef stored_t *stored = client.first
    while stored != NULL:
        datagrams_dropped(w, client.listener, reason, datagram_count(&stored.about))
        stored = stored.next
    release(w, client.listener, NULL, &client.held)
    waiting_free(client)


cdef inline void waitings_expire(worker_t *w, uint32_t most) noexcept nogil:
    """Those that have waited for too long, and the oldest beyond `most`."""
    cdef waitings_t *self = <waitings_t *>w.udp.waiting
    cdef waiting_t *client
    while w.udp.waiting_count:
        client = self.oldest
        if w.udp.waiting_count <= most and <int32_t>(<uint32_t>w.now_ms - client.since_ms) < WAITING_MS:
            return
        waiting_take(w, client)
        waiting_lose(w, client, DROP_UNROUTED)


cdef inline void waitings_end_on_socket(worker_t *w, int fd) noexcept nogil:
    """A listening socket is about to close."""
    cdef waitings_t *self = <waitings_t *>w.udp.waiting
    cdef waiting_t *client = self.oldest if self != NULL else NULL
    cdef waiting_t *newer
    while client != NULL:
        newer = client.newer
        if client.key.fd == fd:
            waiting_take(w, client)
            waiting_lose(w, client, DROP_UNROUTED)
        client = newer


cdef inline void waitings_close(worker_t *w) noexcept nogil:
    """When the worker's sessions have ended."""
    cdef waitings_t *self = <waitings_t *>w.udp.waiting
    if self == NULL:
        return
    waitings_expire(w, 0)
    if self.reader.ecb != NULL:
        libcrypto.context_free(self.reader.ecb)
    if self.reader.gcm != NULL:
        libcrypto.context_free(self.reader.gcm)
    free(self.reader.plain)
    free(self.hello.bytes)
    free(self)
    w.udp.waiting = NULL


# ---- storing ----

cdef inline waiting_t *waiting_add(
    worker_t *w, listener_live_t *listener, const flow_key_t *key, uint32_t hash
) noexcept nogil:
    """A new one, with the hello that was looked at last; NULL when memory is short."""
    cdef waitings_t *self = <waitings_t *>w.udp.waiting
    cdef waiting_t **bucket = waiting_bucket(self, hash)
    cdef waiting_t *client = <waiting_t *>calloc(1, sizeof(waiting_t))
    if client == NULL:
        return NULL
    client.key = key[0]
    client.hash = hash
    client.since_ms = <uint32_t>w.now_ms
    client.listener = listener
    client.hello = self.hello
    self.hello.bytes = self.hello.have = NULL
    client.next_in_bucket = bucket[0]
    bucket[0] = client
    client.older = self.newest
    if self.newest != NULL:
        self.newest.newer = client
    else:
        self.oldest = client
    self.newest = client
    w.udp.waiting_count += 1
    return client


cdef inline bint waiting_store(waiting_t *client, intake_t *up, uint32_t slot) noexcept nogil:
    """Keep the datagram of that slot. malloc(3): ENOMEM, False."""
    cdef datagram_t *d = &up.datagrams[slot]
    cdef uint32_t size = d.skip + d.length
    cdef stored_t *stored = <stored_t *>malloc(sizeof(stored_t) + size)
    if stored == NULL:
        return False
    stored.next = NULL
    stored.about = d[0]
    stored.size = size
    memcpy(<uint8_t *>stored + sizeof(stored_t), intake_datagram(up, slot), size)
    if client.last != NULL:
        client.last.next = stored
    else:
        client.first = stored
    client.last = stored
    client.count += datagram_count(d)
    client.size += size
    return True


cdef inline bint waiting_has_room(worker_t *w, const waiting_t *client, const datagram_t *d) noexcept nogil:
    """Whether the datagram, or train of them, may be stored; `client` is NULL when nothing was stored yet."""
    cdef uint32_t count = datagram_count(d)
    cdef uint32_t size = d.skip + d.length
    if client != NULL:
        count += client.count
        size += client.size
        if <int32_t>(<uint32_t>w.now_ms - client.since_ms) >= WAITING_MS:
            return False
    return count <= WAITING_DATAGRAMS and size <= WAITING_BYTES


cdef inline bint waiting_replay(waiting_t *client, intake_t *up) noexcept nogil:
    """Put its next datagram into REPLAY_SLOT; False: there is none."""
    cdef stored_t *stored = client.first
    if stored == NULL:
        return False
    up.datagrams[REPLAY_SLOT] = stored.about
    memcpy(intake_datagram(up, REPLAY_SLOT), <uint8_t *>stored + sizeof(stored_t), stored.size)
    client.first = stored.next
    if client.first == NULL:
        client.last = NULL
    free(stored)
    return True
