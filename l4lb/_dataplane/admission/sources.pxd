# Sources: which part of a listener's sessions, new sessions and bytes comes from where (`per_source`). A source is a
# listener and the first bits of an address, so that who has a whole IPv6 network is one source. Any worker; one lock
# for each shard of the table, held for a look-up and a few additions.
#
# What a table like this must not do under an attack from a million addresses:
#
#   forget a source that has sessions   it is never removed: their number is exact. There are at most as many of these
#                                       as sessions.
#   grow                                of sources without a session a shard remembers SOURCE_IDLE_MAX
#   refuse for want of room             a new source takes the room of one without a session
#   forget who is over the limit        whoever has the least to pay goes first: an attacker's new address owes one
#                                       session, less than a source that has used up its rate. What is forgotten is a
#                                       debt, so nobody is refused for another's sake.
#
# A source without a session stays known while it owes something to its buckets, and SOURCE_RECENT_NS longer, for who
# asks which sources are the heaviest.

from libc.math cimport exp
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from l4lb._dataplane.admission.limits cimport bucket_take
from l4lb._dataplane.base.enums cimport NO_INDEX
from l4lb._dataplane.base.hashing cimport xxh64
from l4lb._dataplane.base.linux cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock, published_load_u64,
    shared_read,
)
from l4lb._dataplane.base.source_types cimport (
    SOURCE_IDLE_MAX, SOURCE_LIMIT_COUNT, SOURCE_LIMIT_SESSIONS, SOURCE_LIMIT_SESSION_RATE, SOURCE_SHARDS, source_key_t,
    source_limit_t, source_limits_t, source_shard_t, source_t, sources_t,
)
from l4lb._dataplane.base.types cimport source_address_t

cdef enum:
    SOURCE_BUCKETS_MIN = 16
    SOURCE_IDLE_MIN = 16          # first capacity of the heap
    SOURCE_POPPED_MAX = 2         # forgotten with each that becomes idle: the table shrinks as fast as it grew
    SOURCE_RECENT_NS = 10000000000  # of new sessions, 1/e counts as recent after so long

cdef enum source_taken_t:
    SOURCE_TAKEN = 0
    SOURCE_OVER_LIMIT
    SOURCE_NO_MEMORY


cdef inline void sources_init(sources_t *self, uint64_t seed) noexcept nogil:
    """pthread_mutex_init(3): never fails on Linux without attributes."""
    cdef uint32_t i
    memset(self, 0, sizeof(sources_t))
    self.seed = seed
    for i in range(SOURCE_SHARDS):
        pthread_mutex_init(&self.shards[i].lock, NULL)


cdef inline void sources_close(sources_t *self) noexcept nogil:
    """When no worker runs any more."""
    cdef source_shard_t *shard
    cdef source_t *source
    cdef uint32_t i, bucket
    for i in range(SOURCE_SHARDS):
        shard = &self.shards[i]
        for bucket in range(shard.bucket_count):
            while shard.buckets[bucket] != NULL:
                source = shard.buckets[bucket]
                shard.buckets[bucket] = source.next
                free(source)
        free(shard.buckets)
        free(shard.idle)
        pthread_mutex_destroy(&shard.lock)


# ---- keys ----

cdef inline void source_key_fill(
    source_key_t *key, const source_limits_t *limits, uint32_t listener_id, const source_address_t *address
) noexcept nogil:
    cdef uint32_t bits = <uint32_t>published_load_u64(<uint64_t *>&limits.prefix_v6)
    memset(key, 0, sizeof(source_key_t))
    if address.length == 4:
        bits = <uint32_t>published_load_u64(<uint64_t *>&limits.prefix_v4)
    key.listener_id = listener_id
    key.scope_id = address.scope_id
    key.length = address.length
    key.bits = bits
    memcpy(key.network, address.bytes, bits // 8)
    if bits % 8:
        key.network[bits // 8] = address.bytes[bits // 8] & <uint8_t>(0xFF << (8 - bits % 8))


cdef inline uint64_t source_hash(const sources_t *self, const source_key_t *key) noexcept nogil:
    return xxh64(<const uint8_t *>key, sizeof(source_key_t), self.seed)


cdef inline source_shard_t *source_shard(sources_t *self, uint64_t hash) noexcept nogil:
    return &self.shards[hash % SOURCE_SHARDS]


cdef inline source_t **source_bucket(source_shard_t *shard, uint64_t hash) noexcept nogil:
    return &shard.buckets[(hash >> 32) & (shard.bucket_count - 1)]


# ---- the heap of a shard's idle sources; all under its lock ----

cdef inline void idle_put(source_shard_t *shard, uint32_t at, source_t *source) noexcept nogil:
    shard.idle[at] = source
    source.idle_at = at


cdef inline void idle_rise(source_shard_t *shard, uint32_t at, source_t *source) noexcept nogil:
    """Put it at `at` or nearer to the first."""
    cdef uint32_t above
    while at:
        above = (at - 1) // 2
        if shard.idle[above].owed_until_ns <= source.owed_until_ns:
            break
        idle_put(shard, at, shard.idle[above])
        at = above
    idle_put(shard, at, source)


cdef inline void idle_sink(source_shard_t *shard, uint32_t at, source_t *source) noexcept nogil:
    """Put it at `at` or further from the first."""
    cdef uint32_t below
    while 2 * at + 1 < shard.idle_count:
        below = 2 * at + 1
        if below + 1 < shard.idle_count and (
            shard.idle[below + 1].owed_until_ns < shard.idle[below].owed_until_ns
        ):
            below += 1
        if source.owed_until_ns <= shard.idle[below].owed_until_ns:
            break
        idle_put(shard, at, shard.idle[below])
        at = below
    idle_put(shard, at, source)


cdef inline void idle_remove(source_shard_t *shard, source_t *source) noexcept nogil:
    cdef uint32_t at = source.idle_at
    cdef source_t *last
    source.idle_at = NO_INDEX
    shard.idle_count -= 1
    last = shard.idle[shard.idle_count]
    if last == source:
        return
    if at and last.owed_until_ns < shard.idle[(at - 1) // 2].owed_until_ns:
        idle_rise(shard, at, last)
    else:
        idle_sink(shard, at, last)


cdef inline bint idle_reserve(source_shard_t *shard) noexcept nogil:
    """Room for one more; realloc(3): ENOMEM, False."""
    cdef uint32_t capacity = 2 * shard.idle_capacity if shard.idle_capacity else <uint32_t>SOURCE_IDLE_MIN
    cdef source_t **grown
    if shard.idle_count < shard.idle_capacity:
        return True
    grown = <source_t **>realloc(shard.idle, capacity * sizeof(source_t *))
    if grown == NULL:
        return False
    shard.idle = grown
    shard.idle_capacity = capacity
    return True


# ---- the table of a shard; all under its lock ----

cdef inline source_t *shard_find(source_shard_t *shard, const source_key_t *key, uint64_t hash) noexcept nogil:
    cdef source_t *source = NULL
    if shard.bucket_count:
        source = source_bucket(shard, hash)[0]
    while source != NULL and memcmp(&source.key, key, sizeof(source_key_t)) != 0:
        source = source.next
    return source


cdef inline void shard_grow(sources_t *self, source_shard_t *shard) noexcept nogil:
    """Twice as many buckets; calloc(3): ENOMEM, then longer chains will do."""
    cdef source_shard_t wider
    cdef source_t **bucket
    cdef source_t *source
    cdef uint32_t i
    wider.bucket_count = 2 * shard.bucket_count if shard.bucket_count else <uint32_t>SOURCE_BUCKETS_MIN
    wider.buckets = <source_t **>calloc(wider.bucket_count, sizeof(source_t *))
    if wider.buckets == NULL:
        return
    for i in range(shard.bucket_count):
        while shard.buckets[i] != NULL:
            source = shard.buckets[i]
            shard.buckets[i] = source.next
            bucket = source_bucket(&wider, source_hash(self, &source.key))
            source.next = bucket[0]
            bucket[0] = source
    free(shard.buckets)
    shard.buckets = wider.buckets
    shard.bucket_count = wider.bucket_count


cdef inline source_t *shard_add(
    sources_t *self, source_shard_t *shard, const source_key_t *key, uint64_t hash
) noexcept nogil:
    """A new source; NULL when memory is short."""
    cdef source_t *source
    cdef source_t **bucket
    if shard.count >= shard.bucket_count:
        shard_grow(self, shard)
    if shard.bucket_count == 0:
        return NULL
    source = <source_t *>calloc(1, sizeof(source_t))
    if source == NULL:
        return NULL
    bucket = source_bucket(shard, hash)
    source.key = key[0]
    source.idle_at = NO_INDEX
    source.next = bucket[0]
    bucket[0] = source
    shard.count += 1
    return source


cdef inline void shard_forget(sources_t *self, source_shard_t *shard, source_t *source) noexcept nogil:
    cdef source_t **link = source_bucket(shard, source_hash(self, &source.key))
    if source.idle_at != NO_INDEX:
        idle_remove(shard, source)
    while link[0] != source:
        link = &link[0].next
    link[0] = source.next
    shard.count -= 1
    free(source)


cdef inline bint source_is_recent(const source_t *source, uint64_t now_ns) noexcept nogil:
    """Whether an idle source is still to be known. Another worker's clock may be a little ahead of ours."""
    return source.owed_until_ns + SOURCE_RECENT_NS > now_ns


cdef inline uint64_t source_owes_until(source_t *source, uint64_t now_ns) noexcept nogil:
    cdef int64_t latest = <int64_t>now_ns
    cdef int64_t paid
    cdef int direction
    if source.sessions_paid_until_ns > latest:
        latest = source.sessions_paid_until_ns
    for direction in range(2):
        paid = shared_read(&source.paid_until_ns[direction])
        if paid > latest:
            latest = paid
    return <uint64_t>latest


cdef inline void shard_rest(
    sources_t *self, source_shard_t *shard, source_t *source, uint64_t now_ns
) noexcept nogil:
    """The source has no session any more: forget those that are to be known no longer, and the one that owes the least
    when there are too many."""
    cdef uint32_t popped = 0
    source.owed_until_ns = source_owes_until(source, now_ns)
    while popped < SOURCE_POPPED_MAX and shard.idle_count and not source_is_recent(shard.idle[0], now_ns):
        shard_forget(self, shard, shard.idle[0])
        popped += 1
    if shard.idle_count >= SOURCE_IDLE_MAX and shard.idle[0].owed_until_ns < source.owed_until_ns:
        shard_forget(self, shard, shard.idle[0])
    if shard.idle_count >= SOURCE_IDLE_MAX or not idle_reserve(shard):
        shard_forget(self, shard, source)
        return
    shard.idle_count += 1
    idle_rise(shard, shard.idle_count - 1, source)


# ---- sessions ----

cdef inline double source_recent(const source_t *source, uint64_t now_ns) noexcept nogil:
    """New sessions of late, older ones for less."""
    if now_ns <= source.recent_ns:
        return source.recent
    return source.recent * exp(-<double>(now_ns - source.recent_ns) / SOURCE_RECENT_NS)


cdef inline void source_begin(source_shard_t *shard, source_t *source) noexcept nogil:
    """It has one more session."""
    if source.idle_at != NO_INDEX:
        idle_remove(shard, source)
    source.sessions += 1
    source.sessions_total += 1


cdef inline source_limit_t source_judge(
    const source_limits_t *limits, source_t *source, uint64_t now_ns
) noexcept nogil:
    """Which limit a new session would exceed; SOURCE_LIMIT_COUNT: none, and it has paid for its rate."""
    cdef int64_t sessions = <int64_t>published_load_u64(<uint64_t *>&limits.sessions)
    cdef uint64_t rate = published_load_u64(<uint64_t *>&limits.session_rate)
    cdef int64_t burst_ns = <int64_t>published_load_u64(<uint64_t *>&limits.session_burst_ns)
    if sessions and source.sessions >= sessions:
        return SOURCE_LIMIT_SESSIONS
    if rate and not bucket_take(rate, burst_ns, &source.sessions_paid_until_ns, now_ns):
        return SOURCE_LIMIT_SESSION_RATE
    return SOURCE_LIMIT_COUNT


cdef inline source_taken_t sources_take(
    sources_t *self, const source_limits_t *limits, const source_key_t *key, uint64_t now_ns, source_t **taken,
    source_limit_t *over
) noexcept nogil:
    """A new session of the source `key`. `over` is the limit that it exceeds, if it does; in a dry run it begins all
    the same. Only when it begins `taken` is set, to be given back."""
    cdef uint64_t hash = source_hash(self, key)
    cdef source_shard_t *shard = source_shard(self, hash)
    cdef source_taken_t result = SOURCE_TAKEN
    cdef source_t *source
    pthread_mutex_lock(&shard.lock)
    source = shard_find(shard, key, hash)
    if source == NULL:
        source = shard_add(self, shard, key, hash)
    if source == NULL:
        pthread_mutex_unlock(&shard.lock)
        over[0] = SOURCE_LIMIT_COUNT
        return SOURCE_NO_MEMORY
    source.recent = source_recent(source, now_ns) + 1
    source.recent_ns = now_ns
    over[0] = source_judge(limits, source, now_ns)
    if over[0] != SOURCE_LIMIT_COUNT:
        source.refused += 1
        if not published_load_u64(<uint64_t *>&limits.dry_run):
            result = SOURCE_OVER_LIMIT
    if result == SOURCE_TAKEN:
        source_begin(shard, source)
        taken[0] = source
    pthread_mutex_unlock(&shard.lock)
    return result


cdef inline source_t *sources_take_anyway(sources_t *self, const source_key_t *key) noexcept nogil:
    """For a session that began in another process, which has counted it. NULL when memory is short: it is not
    counted."""
    cdef uint64_t hash = source_hash(self, key)
    cdef source_shard_t *shard = source_shard(self, hash)
    cdef source_t *source
    pthread_mutex_lock(&shard.lock)
    source = shard_find(shard, key, hash)
    if source == NULL:
        source = shard_add(self, shard, key, hash)
    if source != NULL:
        source_begin(shard, source)
        source.sessions_total -= 1
    pthread_mutex_unlock(&shard.lock)
    return source


cdef inline void sources_give(sources_t *self, source_t *source, uint64_t now_ns) noexcept nogil:
    """A session of it has ended."""
    cdef source_shard_t *shard = source_shard(self, source_hash(self, &source.key))
    pthread_mutex_lock(&shard.lock)
    source.sessions -= 1
    if source.sessions == 0:
        shard_rest(self, shard, source, now_ns)
    pthread_mutex_unlock(&shard.lock)
