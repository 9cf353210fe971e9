# QUIC: which backend has a connection whose client now comes from another address, for pools with hash_key quic_cid. It
# uses only what RFC 8999 makes visible, the invariants of all versions. No system call.
#
# Clients address a server by connection ids that it has given them. The first is given in the clear, in the long
# headers of its handshake; later packets carry it in their short header, without its length. So `quic_ids_t` learns
# from a backend's answers: an id, hashed, and the backend that gave it. An id is stored only once its client has used
# it, so that datagrams with forged source addresses, whose answers reach no such client, store nothing.
#
# One quic_ids_t per pool, for all workers, without locks: a word is a whole entry, tag << 32 | backend id, and a bucket
# of them is a cache line. A lost race costs an entry. Backend ids are never given again, so that an entry of a backend
# that is gone finds none.

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t, uintptr_t
from libc.stdlib cimport calloc, free

from l4lb._dataplane.base.enums cimport CACHE_LINE_BYTES
from l4lb._dataplane.base.hashing cimport xxh64
from l4lb._dataplane.base.linux cimport (
    count_leading_zeros, published_load_u64, published_store_u64, shared_read, shared_swap_if,
)
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.udp_types cimport quic_entry_t, quic_header_t, quic_id_t, quic_ids_t

cdef enum:
    QUIC_LONG_FORM = 0x80
    QUIC_VERSION_NEGOTIATION = 0
    QUIC_IDS_AT = 5               # in a long header, after its first byte and the version
    QUIC_ID_MAX_BYTES = 20        # in versions 1 and 2; longer ones are not stored
    QUIC_LENGTHS = 0x1FFFFE       # the bits of the lengths that exist, see quic_ids_t
    QUIC_WAYS = 8                 # words of a bucket
    QUIC_BUCKETS = 131072         # power of two: a million ids, 8 MiB once all are used


# ---- headers ----

cdef inline bint quic_id_take(quic_id_t *id, const uint8_t *data, uint32_t length, uint32_t *at) noexcept nogil:
    """Read one length and its id."""
    if at[0] >= length or data[at[0]] > length - at[0] - 1:
        return False
    id.length = data[at[0]]
    id.bytes = data + at[0] + 1
    at[0] += 1 + id.length
    return True


cdef inline bint quic_header_read(quic_header_t *header, const uint8_t *data, uint32_t length) noexcept nogil:
    """The header of a datagram's first packet (those behind it belong to the same connection, RFC 9000 section 12.2).

    False: it has none, and all lengths are 0. For a short header `destination` is everything that may begin with the
    id.
    """
    cdef uint32_t at = QUIC_IDS_AT
    header.long_form = length != 0 and data[0] & QUIC_LONG_FORM != 0
    header.version = header.destination.length = header.source.length = 0
    header.destination.bytes = header.source.bytes = data
    if length == 0:
        return False
    if not header.long_form:
        header.destination.bytes = data + 1
        header.destination.length = length - 1
        return True
    if length < QUIC_IDS_AT:
        return False
    header.version = <uint32_t>data[1] << 24 | <uint32_t>data[2] << 16 | <uint32_t>data[3] << 8 | data[4]
    if quic_id_take(&header.destination, data, length, &at) and quic_id_take(&header.source, data, length, &at):
        return True
    header.destination.length = header.source.length = 0
    return False


# ---- ids ----

cdef inline int quic_ids_init(quic_ids_t *self, uint64_t seed) noexcept nogil:
    """0, or -1 when memory is short. The kernel backs a page only once an id lies there."""
    cdef uintptr_t start
    self.memory = calloc(1, QUIC_BUCKETS * QUIC_WAYS * sizeof(uint64_t) + CACHE_LINE_BYTES)
    if self.memory == NULL:
        return -1
    start = <uintptr_t>self.memory + CACHE_LINE_BYTES - 1
    self.words = <uint64_t *>(start - start % CACHE_LINE_BYTES)
    self.seed = seed
    self.lengths = 0
    return 0


cdef inline void quic_ids_free(quic_ids_t *self) noexcept nogil:
    free(self.memory)
    self.memory = self.words = NULL


cdef inline uint64_t quic_id_hash(quic_ids_t *self, const uint8_t *id, uint32_t length) noexcept nogil:
    return xxh64(id, length, self.seed)


cdef inline uint64_t *quic_bucket(quic_ids_t *self, uint64_t hash) noexcept nogil:
    return &self.words[(hash & (QUIC_BUCKETS - 1)) * QUIC_WAYS]


cdef inline uint32_t quic_ids_get(quic_ids_t *self, uint64_t hash) noexcept nogil:
    """The backend's id; 0: not known."""
    cdef uint64_t *bucket = quic_bucket(self, hash)
    cdef uint64_t word
    cdef uint32_t way
    for way in range(QUIC_WAYS):
        word = published_load_u64(&bucket[way])
        if word >> 32 == hash >> 32:
            return <uint32_t>word
    return 0


cdef inline uint64_t *quic_place(uint64_t *bucket, uint64_t hash) noexcept nogil:
    """The id's own place, else a free one, else any: chosen by bits of the hash that choose neither bucket nor tag."""
    cdef uint64_t *place = NULL
    cdef uint64_t word
    cdef uint32_t way
    for way in range(QUIC_WAYS):
        word = published_load_u64(&bucket[way])
        if word and word >> 32 == hash >> 32:
            return &bucket[way]
        if word == 0 and place == NULL:
            place = &bucket[way]
    return place if place != NULL else &bucket[hash // QUIC_BUCKETS % QUIC_WAYS]


cdef inline void quic_ids_put(quic_ids_t *self, uint64_t hash, uint32_t length, uint32_t backend_id) noexcept nogil:
    """Store which backend gave an id of `length`, at most QUIC_ID_MAX_BYTES."""
    cdef int64_t lengths = shared_read(&self.lengths)
    cdef int64_t bit = <int64_t>1 << length
    published_store_u64(quic_place(quic_bucket(self, hash), hash), hash >> 32 << 32 | backend_id)
    while not lengths & bit:
        if shared_swap_if(&self.lengths, &lengths, lengths | bit):
            return


cdef inline uint32_t quic_ids_find(quic_ids_t *self, const quic_header_t *header) noexcept nogil:
    """The backend that gave the id which a client's packet is addressed to; 0: none known.

    A short header is tried with every length that was given, the longest first: the surest.
    """
    cdef uint32_t most = header.destination.length
    cdef uint64_t lengths = <uint64_t>shared_read(&self.lengths)
    cdef uint32_t length, found
    if header.long_form and most > QUIC_ID_MAX_BYTES:
        return 0
    most = most if most < QUIC_ID_MAX_BYTES else QUIC_ID_MAX_BYTES
    lengths &= <uint64_t>1 << most if header.long_form else (<uint64_t>2 << most) - 1
    while lengths:
        length = 63 - count_leading_zeros(lengths)
        found = quic_ids_get(self, quic_id_hash(self, header.destination.bytes, length))
        if found:
            return found
        lengths ^= <uint64_t>1 << length
    return 0


cdef inline uint32_t quic_ids_count(quic_ids_t *self) noexcept nogil:
    """How many ids are stored; control's thread."""
    cdef uint32_t count = 0
    cdef uint32_t i
    for i in range(QUIC_BUCKETS * QUIC_WAYS if self.words != NULL else 0):
        count += published_load_u64(&self.words[i]) != 0
    return count


cdef inline uint32_t quic_ids_copy(quic_ids_t *self, quic_entry_t *entries, uint32_t limit) noexcept nogil:
    """Copy all ids, at most `limit`; returns how many. Control's thread."""
    cdef uint32_t count = 0
    cdef uint32_t i
    cdef uint64_t word
    for i in range(QUIC_BUCKETS * QUIC_WAYS if self.words != NULL else 0):
        word = published_load_u64(&self.words[i])
        if word and count < limit:
            entries[count].place = i
            entries[count].tag = <uint32_t>(word >> 32)
            entries[count].backend_id = <uint32_t>word
            count += 1
    return count


cdef inline bint quic_ids_restore(quic_ids_t *self, const quic_entry_t *entry, uint32_t backend_id) noexcept nogil:
    """Store an entry of a copy with the same seed, whose backend is called `backend_id` here. False when there is no
    such place."""
    if entry.place >= QUIC_BUCKETS * QUIC_WAYS:
        return False
    published_store_u64(&self.words[entry.place], <uint64_t>entry.tag << 32 | backend_id)
    return True


# ---- learning from a session's datagrams (its worker's thread) ----

cdef inline void quic_note_given_id(session_t *s, const uint8_t *data, uint32_t length) noexcept nogil:
    """From the backend's answers: note the id that it gives.

    Version Negotiation gives none: its ids are the client's own (RFC 8999 section 6).
    """
    cdef quic_ids_t *ids = &s.pool.quic_ids
    cdef quic_header_t header
    cdef uint64_t hash
    if length == 0 or not data[0] & QUIC_LONG_FORM or not quic_header_read(&header, data, length):
        return
    if header.version == QUIC_VERSION_NEGOTIATION or not 0 < header.source.length <= QUIC_ID_MAX_BYTES:
        return
    hash = quic_id_hash(ids, header.source.bytes, header.source.length)
    if quic_ids_get(ids, hash) != s.backend.id:
        s.flow.quic_given = hash
        s.flow.quic_given_length = <uint8_t>header.source.length


cdef inline void quic_confirm_id(session_t *s, const uint8_t *data, uint32_t length) noexcept nogil:
    """From the client's datagrams, after such an answer: once the client uses the id, store it."""
    cdef quic_ids_t *ids = &s.pool.quic_ids
    cdef uint32_t given = s.flow.quic_given_length
    cdef quic_header_t header
    if not quic_header_read(&header, data, length) or header.destination.length < given:
        return
    if header.long_form and header.destination.length != given:
        return
    if quic_id_hash(ids, header.destination.bytes, given) == s.flow.quic_given:
        quic_ids_put(ids, s.flow.quic_given, given, s.backend.id)
        s.flow.quic_given_length = 0
