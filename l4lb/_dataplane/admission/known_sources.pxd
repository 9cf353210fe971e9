# Known sources: what is known of sources, on its way to the process that takes over: what they have used up, and what
# they have had. Their sessions are counted as they come. Control's thread; a shard's lock at a time.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from l4lb._dataplane.admission.sources cimport (
    shard_add, shard_find, shard_rest, source_hash, source_recent, source_shard,
)
from l4lb._dataplane.base.linux cimport pthread_mutex_lock, pthread_mutex_unlock, shared_add, shared_read, shared_store
from l4lb._dataplane.base.source_types cimport SOURCE_SHARDS, source_key_t, source_shard_t, source_t, sources_t

cdef struct exported_source_t:    # part of the message: see EXPORT_FORMAT
    source_key_t key
    uint64_t sessions_total
    uint64_t refused
    int64_t sessions_paid_until_ns
    double recent                 # at the time of the message
    int64_t paid_until_ns[2]
    int64_t bytes[2]

cdef struct exported_sources_t:
    exported_source_t *entries    # the caller frees them
    size_t count


cdef inline void source_export(const source_t *source, exported_source_t *exported, uint64_t now_ns) noexcept nogil:
    cdef int direction
    memset(exported, 0, sizeof(exported_source_t))
    exported.key = source.key
    exported.sessions_total = source.sessions_total
    exported.refused = source.refused
    exported.sessions_paid_until_ns = source.sessions_paid_until_ns
    exported.recent = source_recent(source, now_ns)
    for direction in range(2):
        exported.paid_until_ns[direction] = shared_read(<int64_t *>&source.paid_until_ns[direction])
        exported.bytes[direction] = shared_read(<int64_t *>&source.bytes[direction])


cdef inline bint sources_export(sources_t *self, exported_sources_t *exported, uint64_t now_ns) noexcept nogil:
    """All of them. False when memory is short (realloc: ENOMEM)."""
    cdef source_shard_t *shard
    cdef source_t *source
    cdef exported_source_t *grown
    cdef uint32_t i, bucket
    cdef bint complete = True
    memset(exported, 0, sizeof(exported_sources_t))
    for i in range(SOURCE_SHARDS):
        shard = &self.shards[i]
        pthread_mutex_lock(&shard.lock)
        if shard.count:
            grown = <exported_source_t *>realloc(
                exported.entries, (exported.count + shard.count) * sizeof(exported_source_t)
            )
            complete = grown != NULL
            exported.entries = grown if complete else exported.entries
        for bucket in range(shard.bucket_count if complete else 0):
            source = shard.buckets[bucket]
            while source != NULL:
                source_export(source, &exported.entries[exported.count], now_ns)
                exported.count += 1
                source = source.next
        pthread_mutex_unlock(&shard.lock)
        if not complete:
            return False
    return True


cdef inline int64_t later(int64_t one, int64_t other) noexcept nogil:
    return one if one > other else other


cdef inline void source_add(source_t *source, const exported_source_t *known, uint64_t now_ns) noexcept nogil:
    """To what it has done here."""
    cdef int direction
    source.recent = source_recent(source, now_ns) + known.recent
    source.recent_ns = now_ns
    source.sessions_total += known.sessions_total
    source.refused += known.refused
    source.sessions_paid_until_ns = later(source.sessions_paid_until_ns, known.sessions_paid_until_ns)
    for direction in range(2):
        shared_add(&source.bytes[direction], known.bytes[direction])
        shared_store(
            &source.paid_until_ns[direction],
            later(shared_read(&source.paid_until_ns[direction]), known.paid_until_ns[direction]),
        )


cdef inline void sources_import(sources_t *self, const exported_source_t *known, uint64_t now_ns) noexcept nogil:
    """Without memory for it, it begins anew. Its key has this process's listener."""
    cdef uint64_t hash = source_hash(self, &known.key)
    cdef source_shard_t *shard = source_shard(self, hash)
    cdef source_t *source
    pthread_mutex_lock(&shard.lock)
    source = shard_find(shard, &known.key, hash)
    if source != NULL:
        source_add(source, known, now_ns)
    else:
        source = shard_add(self, shard, &known.key, hash)
        if source != NULL:
            source_add(source, known, now_ns)
            shard_rest(self, shard, source, now_ns)
    pthread_mutex_unlock(&shard.lock)
