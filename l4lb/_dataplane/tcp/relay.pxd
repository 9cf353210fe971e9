# Relay: one half of a session, from the bytes of its source to the sink that takes them.
#
# A half reads only when nothing is pending for its sink, so a slow reader holds up at most one chunk or one pipe, and
# the kernel's windows do the rest. Small messages are read into the worker's scratch buffer and sent at once; a half
# that keeps filling the scratch buffer is a bulk flow and splices through a pipe instead. What is sent before a
# client's own bytes (our PROXY header) begins as the chunk of its half, and is counted nowhere. Called on the worker's
# thread by transitions.pxd and ending.pxd, which turn the outcome into the session's next state.
#
# Urgent data travels in the stream, as ordinary bytes (RFC 6093, section 3.3). What the kernel makes of an urgent mark:
# every read stops before it, a splice returns 0 there when a FIN follows, and a recv that begins at it leaves the
# urgent byte out, unless the socket has SO_OOBINLINE; without that the kernel even drops an unread urgent byte when
# another comes. Clients' sockets inherit the option from the listening one; backends' sockets get it where it can
# matter, see `source_inline`.

from libc.errno cimport errno
from libc.stdint cimport uint16_t, uint32_t, uint8_t
from libc.string cimport memcpy

from l4lb._dataplane.admission.limits cimport BANDWIDTH_MIN_BYTES
from l4lb._dataplane.base.enums cimport (
    BULK_MIN_BYTES, BULK_READS, HALF_BULK, HALF_DEAD, HALF_EOF, HALF_FIN_SENT, HALF_READABLE, HALF_READ_ON,
    HALF_SOURCE_FIN, HALF_WRITABLE, SCRATCH_BYTES, SESSION_HEADER_HELD, SESSION_HEADER_SENT, SESSION_NODELAY_DONE,
    SESSION_RELAYING, SESSION_SPLICED, SESSION_URGENT_INLINE, SIDE_BACKEND, SPLICE_ALWAYS, SPLICE_OFF, TURN_BYTES,
    side_t,
)
from l4lb._dataplane.base.linux cimport (
    EAGAIN, EINTR, EINVAL, ENOMEM, ENOSYS, IPPROTO_TCP, MSG_MORE, MSG_NOSIGNAL, SHUT_WR, SOL_SOCKET, SO_OOBINLINE,
    SPLICE_F_MOVE, SPLICE_F_NONBLOCK, TCP_NODELAY, counter_add, recv, send, setsockopt, shutdown, splice,
)
from l4lb._dataplane.base.parts cimport chunk_t
from l4lb._dataplane.base.types cimport half_t, session_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.chunks cimport chunk_bytes, chunk_give, chunk_take
from l4lb._dataplane.resources.pipes cimport pipe_give, pipe_take
from l4lb._dataplane.resources.sessions cimport session_reads_short
from l4lb._dataplane.session.half cimport half_pending
from l4lb._dataplane.tcp.half_io cimport half_holds_header, half_io_t, half_moved, half_read, half_take_turn

cdef enum pump_t:
    PUMP_IDLE = 0                 # nothing to do before the next event
    PUMP_AGAIN                    # there is more, but others get their turn first
    PUMP_THROTTLED                # there is more, but the bandwidth is used up
    PUMP_SOURCE_LOST              # the source was reset: nothing more will come
    PUMP_SINK_LOST                # the sink was reset: nothing more can be delivered
    PUMP_NO_MEMORY


cdef inline void backend_nodelay(half_io_t *io) noexcept nogil:
    """Set TCP_NODELAY before the second send: the first leaves at once anyway, so a one-request session saves the
    call."""
    cdef int on = 1
    cdef bint sent = io.half.bytes or io.session.flags & SESSION_HEADER_SENT
    if io.direction == 0 and sent and not io.session.flags & SESSION_NODELAY_DONE:
        io.session.flags |= SESSION_NODELAY_DONE
        if io.session.unix_sides & 1 << <int>SIDE_BACKEND:
            return
        setsockopt(io.sink_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))


cdef inline void backend_inline(session_t *s) noexcept nogil:
    """setsockopt(2): does not fail on an open TCP socket; a unix one on a kernel without MSG_OOB needs no option."""
    cdef int on = 1
    s.flags |= SESSION_URGENT_INLINE
    setsockopt(s.backend_fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on))


cdef inline void source_inline(half_io_t *io) noexcept nogil:
    """Called before a read that may begin at an urgent mark.

    The option costs a call, which a session with one short answer is spared: each of its reads follows an edge, which
    reports the mark if there is one. One case remains: a backend whose very first bytes are an answer that begins with
    two urgent ones. The kernel may drop the first of them before any edge could be heeded.
    """
    if io.direction and not io.session.flags & SESSION_URGENT_INLINE:
        backend_inline(io.session)


cdef inline bint half_ends_here(half_io_t *io) noexcept nogil:
    """All has been read, and a FIN follows what is being sent now: hold it for one segment (MSG_MORE)."""
    return io.half.flags & HALF_EOF and io.session.state == SESSION_RELAYING


cdef inline ssize_t sink_send(half_io_t *io, const uint8_t *data, size_t length) noexcept nogil:
    """Bytes taken (0 when the sink is full) or -1 when it is lost. Less than `length` means full: an edge will follow.

    send(2): EAGAIN full; EPIPE, ECONNRESET, ETIMEDOUT, EHOSTUNREACH lost; ENOBUFS, ENOMEM: the kernel soon ends such a
    connection itself, so lost too.
    """
    cdef int flags = MSG_NOSIGNAL | (MSG_MORE if half_ends_here(io) else 0)
    cdef ssize_t sent
    backend_nodelay(io)
    while True:
        sent = send(io.sink_fd, data, length, flags)
        if sent >= 0:
            break
        if errno == EAGAIN:
            sent = 0
            break
        if errno != EINTR:
            return -1
    if <size_t>sent < length:
        io.half.flags &= <uint8_t>~HALF_WRITABLE
    return sent


cdef inline pump_t half_flush_chunk(worker_t *w, half_io_t *io) noexcept nogil:
    cdef half_t *h = io.half
    cdef ssize_t sent = sink_send(io, chunk_bytes(h.chunk) + h.chunk.start, h.chunk.length)
    if sent < 0:
        return PUMP_SINK_LOST
    h.chunk.start += <uint32_t>sent
    h.chunk.length -= <uint32_t>sent
    half_moved(w, io, sent)
    if h.chunk.length == 0:
        chunk_give(&w.chunks, h.chunk)
        h.chunk = NULL
    return PUMP_IDLE


cdef inline pump_t half_flush_pipe(worker_t *w, half_io_t *io) noexcept nogil:
    """splice(2) to a socket: EAGAIN full; EPIPE, ECONNRESET and the rest lost. Never 0 while the pipe holds bytes."""
    cdef half_t *h = io.half
    cdef ssize_t moved
    backend_nodelay(io)
    while h.pipe.held_bytes:
        moved = splice(
            h.pipe.read_fd, NULL, io.sink_fd, NULL, h.pipe.held_bytes, SPLICE_F_MOVE | SPLICE_F_NONBLOCK
        )
        if moved <= 0:
            if moved < 0 and errno == EINTR:
                continue
            if moved < 0 and errno == EAGAIN:
                h.flags &= <uint8_t>~HALF_WRITABLE
                return PUMP_IDLE
            return PUMP_SINK_LOST
        h.pipe.held_bytes -= <uint32_t>moved
        half_moved(w, io, moved)
        counter_add(&w.counters.spliced_bytes, moved)
    return PUMP_IDLE


cdef inline ssize_t half_stage_header(worker_t *w, half_io_t *io) noexcept nogil:
    """Put the header that is held into the scratch buffer, so that it is sent with what is read behind it."""
    cdef chunk_t *chunk = io.half.chunk
    if chunk == NULL:
        return 0
    memcpy(w.scratch, chunk_bytes(chunk) + chunk.start, chunk.length)
    return chunk.length


cdef inline void half_header_staged(worker_t *w, half_io_t *io) noexcept nogil:
    chunk_give(&w.chunks, io.half.chunk)
    io.half.chunk = NULL
    io.session.flags &= <uint16_t>~SESSION_HEADER_HELD


cdef inline pump_t half_copy(worker_t *w, half_io_t *io) noexcept nogil:
    """One read into the scratch buffer, sent at once; what the sink does not take goes into a chunk.

    recv(2): EAGAIN empty; 0 the FIN (at an urgent mark too, see above); ECONNRESET, ETIMEDOUT, EHOSTUNREACH and the
    rest lost.
    """
    cdef half_t *h = io.half
    cdef ssize_t got, sent
    cdef ssize_t staged = half_stage_header(w, io)
    cdef ssize_t wanted = SCRATCH_BYTES - staged
    if io.room >= 0 and io.room < wanted:
        wanted = io.room
    got = recv(io.source_fd, w.scratch + staged, wanted, 0)
    if got < 0:
        if errno == EINTR:
            return PUMP_IDLE
        if errno != EAGAIN:
            return PUMP_SOURCE_LOST
        h.flags &= <uint8_t>~(HALF_READABLE | HALF_READ_ON)      # past every urgent mark: a new one is an edge
        h.full_reads = 0
        return PUMP_IDLE
    if got == 0:
        h.flags |= HALF_EOF
        return PUMP_IDLE
    half_read(w, io, got)
    if got < wanted:
        h.full_reads = 0
        if not session_reads_short(io.session, <side_t>io.direction, h):
            h.flags &= <uint8_t>~HALF_READABLE
            if h.flags & HALF_SOURCE_FIN:
                h.flags |= HALF_EOF
            elif h.bytes:
                source_inline(io)            # it goes on after its first answer
    elif h.full_reads < 255:
        h.full_reads += 1
        source_inline(io)
    if staged:
        half_header_staged(w, io)
        got += staged
    sent = sink_send(io, w.scratch, got)
    if sent < 0:
        return PUMP_SINK_LOST
    half_moved(w, io, sent)
    if sent < got:
        h.chunk = chunk_take(&w.chunks, w.scratch + sent, <uint32_t>(got - sent))
        if h.chunk == NULL:
            return PUMP_NO_MEMORY
        source_inline(io)
    return PUMP_IDLE


cdef inline void half_leave_bulk(worker_t *w, half_t *h) noexcept nogil:
    """Back to copying; the pipe must be empty."""
    h.flags &= <uint8_t>~HALF_BULK
    h.full_reads = 0
    if h.pipe != NULL:
        pipe_give(&w.pipes, h.pipe)
        h.pipe = NULL


cdef inline bint half_wants_pipe(worker_t *w, half_io_t *io) noexcept nogil:
    """True when this half reads through a pipe now; takes one if it should and can."""
    cdef half_t *h = io.half
    if h.flags & HALF_READ_ON:
        half_leave_bulk(w, h)
        return False
    if h.pipe != NULL:
        return True
    if io.session.splice == SPLICE_OFF or h.chunk != NULL:
        return False
    if not h.flags & HALF_BULK and io.session.splice != SPLICE_ALWAYS and h.full_reads < BULK_READS:
        return False
    h.pipe = pipe_take(&w.pipes)
    if h.pipe == NULL:
        return False
    h.flags |= HALF_BULK
    source_inline(io)
    return True


cdef inline pump_t half_splice(worker_t *w, half_io_t *io) noexcept nogil:
    """One splice into the empty pipe and out of it.

    splice(2) from a socket: 0 the FIN, or an urgent mark with the FIN behind it: the recv that follows finds out;
    EAGAIN the socket is empty (the pipe is empty, so it cannot be full) or at an urgent mark, which an edge reports;
    EINVAL, ENOSYS, ENOMEM: this socket does not splice now, so copy; ECONNRESET and similar errors: lost, and reported
    only once: a recv after it would see an orderly end.
    """
    cdef half_t *h = io.half
    cdef size_t wanted = h.pipe.capacity_bytes
    cdef ssize_t got
    if io.room >= 0 and <size_t>io.room < wanted:
        wanted = io.room
    got = splice(io.source_fd, NULL, h.pipe.write_fd, NULL, wanted, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
    if got > 0:
        h.pipe.held_bytes = <uint32_t>got
        io.session.flags |= SESSION_SPLICED
        half_read(w, io, got)
        return half_flush_pipe(w, io)
    if got == 0:
        h.flags |= HALF_READ_ON
        return PUMP_IDLE
    if errno == EINTR:
        return PUMP_IDLE
    if errno == EAGAIN:
        h.flags &= <uint8_t>~HALF_READABLE
        return PUMP_IDLE
    if errno != EINVAL and errno != ENOSYS and errno != ENOMEM:
        return PUMP_SOURCE_LOST
    half_leave_bulk(w, h)
    io.session.splice = SPLICE_OFF
    return PUMP_IDLE


cdef inline void half_finish(half_io_t *io) noexcept nogil:
    """The source's FIN is sent after its last byte; a session's second FIN is sent by the close that follows.

    shutdown(2): ENOTCONN when the sink is reset; its edge reports that.
    """
    cdef session_t *s = io.session
    if s.state != SESSION_RELAYING or io.half.flags & HALF_FIN_SENT:
        return
    if not (s.up.flags | s.down.flags) & HALF_FIN_SENT:
        shutdown(io.sink_fd, SHUT_WR)
    io.half.flags |= HALF_FIN_SENT


cdef inline pump_t half_pass(worker_t *w, half_io_t *io) noexcept nogil:
    """Move bytes until the source is empty, the sink full, or the budget used."""
    cdef half_t *h = io.half
    cdef pump_t outcome
    while True:
        if half_pending(h) and not half_holds_header(io):
            if not h.flags & HALF_WRITABLE:
                return PUMP_IDLE
            outcome = half_flush_chunk(w, io) if h.chunk != NULL else half_flush_pipe(w, io)
        elif h.flags & HALF_EOF:
            half_finish(io)
            return PUMP_IDLE
        elif not h.flags & HALF_READABLE:
            return PUMP_IDLE
        elif io.budget <= 0:
            return PUMP_AGAIN
        elif io.room >= 0 and io.room < BANDWIDTH_MIN_BYTES:
            return PUMP_THROTTLED
        elif half_wants_pipe(w, io):
            outcome = half_splice(w, io)
        else:
            outcome = half_copy(w, io)
        if outcome != PUMP_IDLE:
            return outcome


cdef inline pump_t half_pump(worker_t *w, half_io_t *io) noexcept nogil:
    """One turn of a half. A pipe is kept only while it holds bytes or there is more to read."""
    cdef half_t *h = io.half
    cdef pump_t outcome
    if h.flags & HALF_DEAD:
        return PUMP_IDLE
    half_take_turn(w, io)
    outcome = half_pass(w, io)
    if h.pipe != NULL and h.pipe.held_bytes == 0 and outcome != PUMP_AGAIN:
        pipe_give(&w.pipes, h.pipe)
        h.pipe = NULL
        if TURN_BYTES - io.budget < BULK_MIN_BYTES:
            half_leave_bulk(w, h)
    return outcome


cdef inline pump_t pump_up(worker_t *w, session_t *s) noexcept nogil:
    cdef half_io_t io
    io.session = s
    io.half = &s.up
    io.direction = 0
    io.source_fd = s.client_fd
    io.sink_fd = s.backend_fd
    return half_pump(w, &io)


cdef inline pump_t pump_down(worker_t *w, session_t *s) noexcept nogil:
    cdef half_io_t io
    io.session = s
    io.half = &s.down
    io.direction = 1
    io.source_fd = s.backend_fd
    io.sink_fd = s.client_fd
    return half_pump(w, &io)
