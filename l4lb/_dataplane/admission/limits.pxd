# Limits: how many sessions per second, how many bytes per second (how many sessions at once: admission.pxd). Rates are
# token buckets, each kept as one number: the time until which what has passed is paid for (the generic cell rate
# algorithm, ITU-T I.371). A bucket that all workers share costs one atomic; none needs a timer of its own.
#
# Called by workers. Control writes the rates at any time; 0 means no limit.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from l4lb._dataplane.base.linux cimport published_load_u64, shared_read, shared_swap_if
from l4lb._dataplane.base.types cimport limits_t, listener_live_t

cdef enum:
    SECOND_NS = 1000000000
    BANDWIDTH_BURST_NS = 50000000     # a flow may run this far ahead: a few ticks of the wheel, or it could not keep up
    BANDWIDTH_BURST_BYTES = 4096      # ... and at least this far
    BANDWIDTH_MIN_BYTES = 1024        # less than this is not worth a turn: wait for more


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


cdef inline int64_t bandwidth_room(
    limits_t *limits, uint64_t *paid_until_ns, int direction, uint64_t now_ns
) noexcept nogil:
    """How many bytes may pass now, by the session's own limit (its bucket: `paid_until_ns`) and the listener's; -1 when
    there is no limit."""
    cdef uint64_t own = published_load_u64(&limits.bandwidth[direction])
    cdef uint64_t total = published_load_u64(&limits.total_bandwidth[direction])
    cdef int64_t room = -1
    cdef int64_t shared_room
    if own:
        room = bucket_bytes(own, <int64_t>paid_until_ns[0], now_ns)
    if total:
        shared_room = bucket_bytes(total, shared_read(&limits.total_paid_until_ns[direction]), now_ns)
        if room < 0 or shared_room < room:
            room = shared_room
    return room


cdef inline uint32_t bandwidth_wait_ms(
    limits_t *limits, uint64_t *paid_until_ns, int direction, uint64_t now_ns
) noexcept nogil:
    """How long a direction that has no room should wait; at least 1 ms."""
    cdef uint64_t own = published_load_u64(&limits.bandwidth[direction])
    cdef uint64_t total = published_load_u64(&limits.total_bandwidth[direction])
    cdef int64_t wait_ns = bucket_wait_ns(own, <int64_t>paid_until_ns[0], now_ns) if own else 0
    cdef int64_t shared_ns
    if total:
        shared_ns = bucket_wait_ns(total, shared_read(&limits.total_paid_until_ns[direction]), now_ns)
        if shared_ns > wait_ns:
            wait_ns = shared_ns
    return <uint32_t>(wait_ns // 1000000) + 1


cdef inline void bandwidth_pay(
    limits_t *limits, uint64_t *paid_until_ns, int direction, uint64_t now_ns, uint64_t moved
) noexcept nogil:
    """Account for bytes that have passed."""
    cdef uint64_t own = published_load_u64(&limits.bandwidth[direction])
    cdef uint64_t total = published_load_u64(&limits.total_bandwidth[direction])
    cdef int64_t paid
    if own:
        paid_until_ns[0] = <uint64_t>bucket_after(<int64_t>paid_until_ns[0], now_ns, bucket_cost_ns(own, moved))
    if total:
        paid = shared_read(&limits.total_paid_until_ns[direction])
        while not shared_swap_if(
            &limits.total_paid_until_ns[direction], &paid, bucket_after(paid, now_ns, bucket_cost_ns(total, moved))
        ):
            pass


cdef inline bint session_rate_take(listener_live_t *listener, uint64_t now_ns) noexcept nogil:
    """One more new session, unless they come faster than the listener's session_rate and its burst allow."""
    cdef uint64_t rate = published_load_u64(&listener.limits.session_rate)
    cdef int64_t burst_ns = <int64_t>published_load_u64(&listener.limits.session_burst_ns)
    cdef int64_t paid, after
    if rate == 0:
        return True
    paid = shared_read(&listener.limits.sessions_paid_until_ns)
    while True:
        after = bucket_after(paid, now_ns, bucket_cost_ns(rate, 1))
        if after - <int64_t>now_ns > burst_ns + bucket_cost_ns(rate, 1):
            return False
        if shared_swap_if(&listener.limits.sessions_paid_until_ns, &paid, after):
            return True
