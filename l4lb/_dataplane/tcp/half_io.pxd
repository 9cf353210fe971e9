# Half I/O: what one half of a session may move in a turn, and what has moved, counted where it counts: session,
# backend, source, buckets. Called on the worker's thread by relay.pxd.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from l4lb._dataplane.admission.limits cimport (
    bandwidth_limited, bandwidth_pay, bandwidth_room, bandwidth_source_is_over, bandwidth_t, session_bandwidth,
    source_note_limited,
)
from l4lb._dataplane.base.enums cimport (
    HALF_EOF, SESSION_HEADER_HELD, SESSION_HEADER_SENT, SESSION_RELAYING, TURN_BYTES,
)
from l4lb._dataplane.base.linux cimport counter_add, shared_add, unlikely
from l4lb._dataplane.base.source_types cimport SOURCE_LIMIT_BANDWIDTH
from l4lb._dataplane.base.types cimport backend_counters_t, half_t, session_t
from l4lb._dataplane.base.worker_types cimport worker_t

cdef struct half_io_t:            # one half with its two sockets, for the length of one pump
    session_t *session
    half_t *half
    int source_fd
    int sink_fd
    int direction                 # 0 up, 1 down
    int64_t budget                # what is left of this turn
    bandwidth_t bandwidth
    int64_t room                  # what the bandwidth limits still allow; -1: no limit


cdef inline void half_take_turn(worker_t *w, half_io_t *io) noexcept nogil:
    """What it may move now."""
    io.budget = TURN_BYTES
    io.bandwidth = session_bandwidth(io.session, io.direction)
    io.room = bandwidth_room(&io.bandwidth, w.now_ns)
    if unlikely(bandwidth_source_is_over(&io.bandwidth, w.now_ns)):
        source_note_limited(w, io.session, SOURCE_LIMIT_BANDWIDTH)


cdef inline bint half_holds_header(half_io_t *io) noexcept nogil:
    """Our header waits for the client's first bytes. The FIN ends the wait, since then none come."""
    cdef session_t *s = io.session
    if io.direction or not s.flags & SESSION_HEADER_HELD:
        return False
    return s.state == SESSION_RELAYING and not io.half.flags & HALF_EOF


cdef inline uint64_t half_count_payload(half_io_t *io, uint64_t count) noexcept nogil:
    """How many of the next `count` bytes are the client's: our header comes first, and does not count."""
    cdef uint32_t header = io.half.overhead_bytes
    if count < header:
        header = <uint32_t>count
    io.half.overhead_bytes -= header
    io.session.flags |= SESSION_HEADER_SENT
    return count - header


cdef inline void half_moved(worker_t *w, half_io_t *io, uint64_t count) noexcept nogil:
    """`count` bytes were handed to the sink's kernel. 0 is no progress."""
    cdef session_t *s = io.session
    cdef backend_counters_t *counters = s.backend.counters[w.index]
    if count == 0:
        return
    io.budget -= count
    if unlikely(io.half.overhead_bytes):
        count = half_count_payload(io, count)
    io.half.bytes += count
    s.active_ms = <uint32_t>w.now_ms
    if io.direction == 0:
        counter_add(&counters.bytes_up, count)
    else:
        counter_add(&counters.bytes_down, count)
    if unlikely(s.held.source != NULL):
        shared_add(&s.held.source.bytes[io.direction], count)


cdef inline void half_read(worker_t *w, half_io_t *io, uint64_t count) noexcept nogil:
    """`count` bytes were taken from the source."""
    if unlikely(bandwidth_limited(&io.bandwidth)):
        if io.room >= 0:
            io.room -= count
        bandwidth_pay(&io.bandwidth, w.now_ns, count)
