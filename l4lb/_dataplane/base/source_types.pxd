# Source types: where clients come from, as limits by source count it. No functions.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from l4lb._dataplane.base.linux cimport pthread_mutex_t

cdef enum:
    SOURCE_SHARDS = 64            # each with a lock of its own: workers rarely meet
    SOURCE_IDLE_MAX = 1024        # sources without a session that a shard remembers

# What of a source may be at its limit. The order is that of l4lb.model.states.SourceLimit;
# tests/unit/native/test_fastpath.py holds them together.
cdef enum source_limit_t:
    SOURCE_LIMIT_SESSIONS = 0
    SOURCE_LIMIT_SESSION_RATE
    SOURCE_LIMIT_BANDWIDTH
    SOURCE_LIMIT_COUNT

cdef struct source_limits_t:      # of each source of one listener; control writes them, also while sessions run
    uint64_t counts               # whether sources are told apart at all; 0: no limit is set
    uint64_t sessions             # 0: any number; so it is with the rates
    uint64_t session_rate         # new sessions per second
    uint64_t session_burst_ns     # how far ahead of the rate new sessions may get
    uint64_t bandwidth[2]         # bytes per second, by direction
    uint64_t prefix_v4            # so many bits of an address tell a source
    uint64_t prefix_v6
    uint64_t closes               # TCP: refused with a FIN; otherwise with a reset
    uint64_t dry_run              # count only, refuse and delay nothing

cdef struct source_key_t:         # without gaps: compared and hashed as bytes
    uint8_t network[16]           # the first bits of the address, then zeros
    uint32_t scope_id             # of a link-local address: its interface
    uint32_t listener_id
    uint16_t length               # 4 or 16
    uint16_t bits

cdef struct source_t:
    source_key_t key
    uint32_t idle_at              # its place in the shard's heap; NO_INDEX while it has sessions
    source_t *next                # in its bucket
    int64_t sessions              # from here to `owed_until_ns`: under the shard's lock
    uint64_t sessions_total
    uint64_t refused
    int64_t sessions_paid_until_ns  # token bucket of its session_rate
    double recent                 # new sessions of late, see admission/sources.pxd:SOURCE_RECENT_NS
    uint64_t recent_ns            # ... at this time
    uint64_t owed_until_ns        # of an idle one: when it has paid for all that it was given
    int64_t paid_until_ns[2]      # shared; token buckets of its bandwidth
    int64_t bytes[2]              # shared; by direction

cdef struct source_shard_t:
    pthread_mutex_t lock          # of all that follows
    source_t **buckets
    uint32_t bucket_count         # a power of two
    uint32_t count                # of sources
    source_t **idle               # a heap: whoever owes nothing soonest is first
    uint32_t idle_count
    uint32_t idle_capacity

cdef struct sources_t:            # of a process, for all workers, see admission/sources.pxd
    uint64_t seed                 # random: no client can aim at one bucket
    source_shard_t shards[SOURCE_SHARDS]
