# Limits: how many sessions per second, how many bytes per second (how many sessions at once: admission.pxd). Rates are
# token buckets, each kept as one number: the time until which what has passed is paid for (the generic cell rate
# algorithm, ITU-T I.371). A bucket that all workers share costs one atomic; none needs a timer of its own.
#
# Called by workers. Control writes the rates at any time; 0 means no limit.

from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t

from l4lb._dataplane.base.linux cimport counter_add, published_load_u64, shared_read, shared_swap_if
from l4lb._dataplane.base.source_types cimport source_limit_t
from l4lb._dataplane.base.types cimport limits_t, listener_live_t, session_t
from l4lb._dataplane.base.worker_types cimport worker_t

cdef enum:
    SECOND_NS = 1000000000
    BANDWIDTH_BURST_NS = 50000000     # a flow may run this far ahead: a few ticks of the wheel, or it could not keep up
    BANDWIDTH_BURST_BYTES = 4096      # ... and at least this far
    BANDWIDTH_MIN_BYTES = 1024        # less than this is not worth a turn: wait for more

cdef struct bandwidth_t:          # of one direction of a session: bytes per second, 0 for no limit, and their buckets
    uint64_t own
    uint64_t total                # of all sessions of its listener
    uint64_t source               # of all sessions of its source
    uint64_t *own_paid_until_ns
    int64_t *total_paid_until_ns
    int64_t *source_paid_until_ns
    bint dry_run                  # of the source's


cdef inline int64_t bucket_cost_ns(uint64_t rate, uint64_t amount) noexcept nogil:
    return <int64_t>(<double>amount * SECOND_NS / rate)


cdef inline int64_t bucket_burst_ns(uint64_t rate) noexcept nogil:
    cdef int64_t least = bucket_cost_ns(rate, BANDWIDTH_BURST_BYTES)
    return least if least > BANDWIDTH_BURST_NS else BANDWIDTH_BURST_NS


cdef inline int64_t bucket_bytes(uint64_t rate, int64_t paid_until_ns, uint64_t now_ns) noexcept nogil:
    """How many bytes may pass now at `rate` bytes per second."""
    cdef int64_t ahead_ns = paid_until_ns - <int64_t>now_ns
    cdef int64_t room_ns = bucket_burst_ns(rate) - (ahead_ns if ahead_ns > 0 else 0)
    if room_ns <= 0:
        return 0
    return <int64_t>(<double>room_ns * rate / SECOND_NS)


cdef inline int64_t bucket_wait_ns(uint64_t rate, int64_t paid_until_ns, uint64_t now_ns) noexcept nogil:
    """How long until BANDWIDTH_MIN_BYTES may pass; 0 when they may now."""
    cdef int64_t wait_ns
    wait_ns = paid_until_ns - <int64_t>now_ns + bucket_cost_ns(rate, BANDWIDTH_MIN_BYTES) - bucket_burst_ns(rate)
    return wait_ns if wait_ns > 0 else 0


cdef inline int64_t bucket_after(int64_t paid_until_ns, uint64_t now_ns, int64_t cost_ns) noexcept nogil:
    return (paid_until_ns if paid_until_ns > <int64_t>now_ns else <int64_t>now_ns) + cost_ns


cdef inline bint bucket_take(uint64_t rate, int64_t burst_ns, int64_t *paid_until_ns, uint64_t now_ns) noexcept nogil:
    """One more new session, unless they come faster than the rate and its burst allow."""
    cdef int64_t cost_ns = bucket_cost_ns(rate, 1)
    cdef int64_t paid = shared_read(paid_until_ns)
    cdef int64_t after
    while True:
        after = bucket_after(paid, now_ns, cost_ns)
        if after - <int64_t>now_ns > burst_ns + cost_ns:
            return False
        if shared_swap_if(paid_until_ns, &paid, after):
            return True


cdef inline bint session_rate_take(listener_live_t *listener, uint64_t now_ns) noexcept nogil:
    """One more new session, unless they come faster than the listener's session_rate and its burst allow."""
    cdef uint64_t rate = published_load_u64(&listener.limits.session_rate)
    cdef int64_t burst_ns = <int64_t>published_load_u64(&listener.limits.session_burst_ns)
    return rate == 0 or bucket_take(rate, burst_ns, &listener.limits.sessions_paid_until_ns, now_ns)


cdef inline void source_note_limited(worker_t *w, session_t *s, source_limit_t limit) noexcept nogil:
    counter_add(&s.listener.counters[w.index].source_limited[<int>limit], 1)


# ---- bandwidth: a session's own, its source's, and that of all sessions of the listener ----

cdef inline bandwidth_t session_bandwidth(session_t *s, int direction) noexcept nogil:
    """The rates and buckets of one direction of a session."""
    cdef limits_t *limits = &s.listener.limits
    cdef bandwidth_t b
    b.own = published_load_u64(&limits.bandwidth[direction])
    b.total = published_load_u64(&limits.total_bandwidth[direction])
    b.source = 0
    b.own_paid_until_ns = &s.up.paid_until_ns if direction == 0 else &s.down.paid_until_ns
    b.total_paid_until_ns = &limits.total_paid_until_ns[direction]
    b.source_paid_until_ns = NULL
    b.dry_run = False
    if s.held.source != NULL:
        b.source = published_load_u64(&limits.source.bandwidth[direction])
        b.source_paid_until_ns = &s.held.source.paid_until_ns[direction]
        b.dry_run = published_load_u64(&limits.source.dry_run) != 0
    return b


cdef inline bint bandwidth_limited(const bandwidth_t *b) noexcept nogil:
    return (b.own | b.total | b.source) != 0


cdef inline bint bandwidth_source_is_over(const bandwidth_t *b, uint64_t now_ns) noexcept nogil:
    """Whether the source has used up its bandwidth for now."""
    return b.source and bucket_wait_ns(b.source, shared_read(b.source_paid_until_ns), now_ns) > 0


cdef inline int64_t bandwidth_room(const bandwidth_t *b, uint64_t now_ns) noexcept nogil:
    """How many bytes may pass now; -1 when there is no limit."""
    cdef int64_t room = -1
    cdef int64_t other
    if b.own:
        room = bucket_bytes(b.own, <int64_t>b.own_paid_until_ns[0], now_ns)
    if b.total:
        other = bucket_bytes(b.total, shared_read(b.total_paid_until_ns), now_ns)
        if room < 0 or other < room:
            room = other
    if b.source and not b.dry_run:
        other = bucket_bytes(b.source, shared_read(b.source_paid_until_ns), now_ns)
        if room < 0 or other < room:
            room = other
    return room


cdef inline uint32_t bandwidth_wait_ms(const bandwidth_t *b, uint64_t now_ns) noexcept nogil:
    """How long a direction that has no room should wait; at least 1 ms."""
    cdef int64_t wait_ns = bucket_wait_ns(b.own, <int64_t>b.own_paid_until_ns[0], now_ns) if b.own else 0
    cdef int64_t other
    if b.total:
        other = bucket_wait_ns(b.total, shared_read(b.total_paid_until_ns), now_ns)
        if other > wait_ns:
            wait_ns = other
    if b.source and not b.dry_run:
        other = bucket_wait_ns(b.source, shared_read(b.source_paid_until_ns), now_ns)
        if other > wait_ns:
            wait_ns = other
    return <uint32_t>(wait_ns // 1000000) + 1


cdef inline void bucket_pay_shared(
    uint64_t rate, int64_t *paid_until_ns, uint64_t now_ns, uint64_t moved, int64_t ahead_max_ns
) noexcept nogil:
    cdef int64_t paid = shared_read(paid_until_ns)
    cdef int64_t after
    while True:
        after = bucket_after(paid, now_ns, bucket_cost_ns(rate, moved))
        if after > <int64_t>now_ns + ahead_max_ns:
            after = <int64_t>now_ns + ahead_max_ns
        if shared_swap_if(paid_until_ns, &paid, after):
            return


cdef inline void bandwidth_pay(const bandwidth_t *b, uint64_t now_ns, uint64_t moved) noexcept nogil:
    """Account for bytes that have passed. In a dry run they pass whatever they cost: the source's debt stays as small
    as a limit would have kept it."""
    if b.own:
        b.own_paid_until_ns[0] = <uint64_t>bucket_after(
            <int64_t>b.own_paid_until_ns[0], now_ns, bucket_cost_ns(b.own, moved)
        )
    if b.total:
        bucket_pay_shared(b.total, b.total_paid_until_ns, now_ns, moved, INT64_MAX // 2)
    if b.source and b.dry_run:
        bucket_pay_shared(b.source, b.source_paid_until_ns, now_ns, moved, bucket_burst_ns(b.source))
    elif b.source:
        bucket_pay_shared(b.source, b.source_paid_until_ns, now_ns, moved, INT64_MAX // 2)
