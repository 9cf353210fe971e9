# Heaviest: which sources have the most, for who asks. On control's thread, with a shard's lock for as long as it takes
# to look at all that it has.

from libc.stdint cimport uint32_t, uint64_t

from l4lb._dataplane.admission.sources cimport source_is_recent, source_recent
from l4lb._dataplane.base.linux cimport pthread_mutex_lock, pthread_mutex_unlock, shared_read
from l4lb._dataplane.base.source_types cimport SOURCE_SHARDS, source_shard_t, source_t, sources_t

cdef enum source_order_t:
    SOURCES_BY_SESSIONS = 0
    SOURCES_BY_RATE
    SOURCES_BY_BYTES

cdef struct found_source_t:       # at one moment
    source_t source
    double weight
    double recent

cdef struct heaviest_t:
    source_order_t order
    uint32_t limit
    uint32_t count
    uint64_t matched              # how many sources there are
    found_source_t *found         # room for `limit` of them


cdef inline double source_weight(source_t *source, source_order_t order, uint64_t now_ns) noexcept nogil:
    """What sources are compared by."""
    if order == SOURCES_BY_RATE:
        return source_recent(source, now_ns)
    if order == SOURCES_BY_BYTES:
        return <double>shared_read(&source.bytes[0]) + <double>shared_read(&source.bytes[1])
    return <double>source.sessions


cdef inline void heaviest_add(heaviest_t *self, source_t *source, uint64_t now_ns) noexcept nogil:
    """Keep a copy among the `limit` heaviest, the heaviest first."""
    cdef double weight = source_weight(source, self.order, now_ns)
    cdef uint32_t at
    if self.count == self.limit:
        if self.limit == 0 or weight <= self.found[self.count - 1].weight:
            return
        self.count -= 1
    at = self.count
    while at and weight > self.found[at - 1].weight:
        self.found[at] = self.found[at - 1]
        at -= 1
    self.found[at].source = source[0]
    self.found[at].source.bytes[0] = shared_read(&source.bytes[0])
    self.found[at].source.bytes[1] = shared_read(&source.bytes[1])
    self.found[at].weight = weight
    self.found[at].recent = source_recent(source, now_ns)
    self.count += 1


cdef inline void sources_heaviest(
    sources_t *self, heaviest_t *heaviest, uint32_t listener_id, uint64_t now_ns
) noexcept nogil:
    """Of one listener, or of all (0)."""
    cdef source_shard_t *shard
    cdef source_t *source
    cdef uint32_t i, bucket
    for i in range(SOURCE_SHARDS):
        shard = &self.shards[i]
        pthread_mutex_lock(&shard.lock)
        for bucket in range(shard.bucket_count):
            source = shard.buckets[bucket]
            while source != NULL:
                if (listener_id == 0 or source.key.listener_id == listener_id) and (
                    source.sessions or source_is_recent(source, now_ns)
                ):
                    heaviest.matched += 1
                    heaviest_add(heaviest, source, now_ns)
                source = source.next
        pthread_mutex_unlock(&shard.lock)
