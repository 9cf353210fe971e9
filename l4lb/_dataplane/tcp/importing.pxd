# Importing: TCP sessions of another process go on here, in the state that they had there: see exporting.pxd. Control
# reserves what they hold and gives each worker its part; a worker takes it in its next turn.

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from l4lb._dataplane.admission.admission cimport hold_as_before, hold_worker, release
from l4lb._dataplane.balancing.load cimport backend_release
from l4lb._dataplane.balancing.queue cimport queue_return
from l4lb._dataplane.base.enums cimport (
    CLOSE_REASON_COUNT, CLOSE_RESOURCE_LIMIT, SCRATCH_BYTES, SESSION_ASKING, SESSION_CLIENT_WANTS_OUT,
    SESSION_CLIENT_WATCHED, SESSION_CLOSING, SESSION_CONNECTING, SESSION_FREE, SESSION_NEGOTIATING, SESSION_PAUSING,
    SESSION_QUEUED, SESSION_READING, SESSION_READY, SESSION_RELAYING, SESSION_RESETTING, SIDE_BACKEND, SIDE_CLIENT,
    SPLICE_OFF, TIMER_TICK_MS,
)
from l4lb._dataplane.base.linux cimport (
    EPOLLOUT, clock_now_ns, gauge_add, published_load_pointer, published_load_u64,
    published_store_pointer, published_store_u64, shared_add,
)
from l4lb._dataplane.base.migration_types cimport (
    EXPORTED_AHEAD, EXPORTED_COUNTED, EXPORTED_PREFACE, EXPORTED_SHORT, EXPORTED_TIMED, EXPORTED_TRIED, exported_half_t,
    exported_session_t, imported_session_t, imported_sessions_t,
)
from l4lb._dataplane.base.parts cimport pipe_t, tried_t
from l4lb._dataplane.base.types cimport half_t, preface_t, session_t, source_address_t
from l4lb._dataplane.base.worker_types cimport plane_t, worker_t
from l4lb._dataplane.resources.chunks cimport chunk_take
from l4lb._dataplane.resources.poller cimport poller_watch, poller_watch_again
from l4lb._dataplane.resources.ready cimport ready_push
from l4lb._dataplane.resources.sessions cimport sessions_at, sessions_take
from l4lb._dataplane.resources.timers cimport timers_arm
from l4lb._dataplane.session.closing cimport session_end, socket_end
from l4lb._dataplane.session.setup cimport session_count
from l4lb._dataplane.tcp.opening cimport session_decide
from l4lb._dataplane.tcp.precopy cimport arrivals_end


cdef inline uint32_t exported_fds(const exported_session_t *said) noexcept nogil:
    """How many descriptors come with it."""
    return said.has_client + said.has_backend + 2 * ((said.up.pipe_bytes != 0) + (said.down.pipe_bytes != 0))


cdef inline size_t exported_size(const exported_session_t *said) noexcept nogil:
    """Of the record with all that is behind it, without padding."""
    return (
        sizeof(exported_session_t) + said.preface_bytes + <size_t>said.tried_count * sizeof(uint32_t)
        + said.up.chunk_bytes + said.down.chunk_bytes
    )


cdef inline bint source_length_is_sound(uint8_t length) noexcept nogil:
    return length == 0 or length == 4 or length == 16


cdef inline bint exported_half_is_sound(const exported_half_t *h) noexcept nogil:
    return (
        h.chunk_bytes <= SCRATCH_BYTES and h.overhead_bytes <= h.chunk_bytes
        and (h.pipe_bytes == 0 or h.pipe_bytes <= h.pipe_capacity)
    )


cdef inline bint exported_has_sockets(const exported_session_t *said) noexcept nogil:
    """What its state takes for granted."""
    cdef bint client = said.has_client or said.bits & EXPORTED_AHEAD
    cdef bint backend = (said.has_backend or said.bits & EXPORTED_AHEAD) and said.backend_id
    if (
        said.state == SESSION_READING or said.state == SESSION_ASKING or said.state == SESSION_QUEUED
        or said.state == SESSION_PAUSING
    ):
        return client and not said.has_backend and not said.bits & EXPORTED_AHEAD
    if said.state == SESSION_CONNECTING or said.state == SESSION_NEGOTIATING:
        return client and backend and not said.bits & EXPORTED_AHEAD
    if said.state == SESSION_RELAYING or said.state == SESSION_RESETTING or said.state == SESSION_CLOSING:
        return client and backend
    return False


cdef inline bint exported_preface_is_sound(const exported_session_t *said) noexcept nogil:
    cdef preface_t preface
    if not said.bits & EXPORTED_PREFACE:
        return said.preface_bytes == 0
    if said.preface_bytes < sizeof(preface_t):
        return False
    memcpy(&preface, <const uint8_t *>said + sizeof(exported_session_t), sizeof(preface_t))
    return (
        said.preface_bytes
        == sizeof(preface_t) + preface.received_length + preface.authority_length + preface.alpn_length
        and source_length_is_sound(preface.destination.length)
    )


cdef inline bint exported_is_sound(const exported_session_t *said) noexcept nogil:
    """Whether what follows from it stays within bounds. All of its `size` is there."""
    return (
        said.has_client <= 1 and said.has_backend <= 1
        and not (said.bits & EXPORTED_AHEAD and (said.has_client or said.has_backend))
        and exported_has_sockets(said)
        and exported_half_is_sound(&said.up) and exported_half_is_sound(&said.down)
        and exported_preface_is_sound(said)
        and (said.bits & EXPORTED_TRIED != 0 or said.tried_count == 0)
        and said.close_reason < CLOSE_REASON_COUNT and said.splice <= SPLICE_OFF and said.half_close <= 1
        and said.unix_sides <= 3
        and source_length_is_sound(said.source.length)
    )


# ---- on control's thread ----

cdef inline void imported_reserve(plane_t *plane, imported_session_t *one) noexcept nogil:
    """Count it, whatever the limits: it was admitted in the other process."""
    cdef source_address_t client = one.said.source
    if not one.said.bits & EXPORTED_COUNTED:
        client.length = 0
    hold_as_before(plane, one.listener, one.pool, &client, False, &one.held)
    if one.backend != NULL:
        shared_add(&one.backend.sessions_active, 1)


cdef inline void imported_give_back(worker_t *w, imported_session_t *one) noexcept nogil:
    if one.backend != NULL:
        backend_release(one.backend)
    release(w, one.listener, one.pool, &one.held)


cdef inline void imported_drop(worker_t *w, imported_session_t *one, bint reset) noexcept nogil:
    """Give it up. Without `reset` the other process goes on with it."""
    cdef uint32_t i
    for i in range(exported_fds(one.said)):
        socket_end(one.fds[i], reset)
    imported_give_back(w, one)


cdef inline void imported_sessions_free(imported_sessions_t *batch) noexcept nogil:
    if batch != NULL:
        free(batch.entries)
        free(batch.bytes)
    free(batch)


# ---- on the worker's ----

cdef inline const uint8_t *half_restore(
    worker_t *w, half_t *h, const exported_half_t *said, const uint8_t *pending, const int **fds, bint *complete
) noexcept nogil:
    """Returns what is behind its pending bytes. `complete` is cleared when memory is short: then no descriptor of it is
    left open."""
    cdef pipe_t *pipe
    memset(h, 0, sizeof(half_t))
    h.bytes = said.bytes
    h.taken = said.taken
    h.paid_until_ns = said.paid_until_ns
    h.overhead_bytes = said.overhead_bytes
    h.flags = said.flags
    h.full_reads = said.full_reads
    if said.chunk_bytes:
        h.chunk = chunk_take(&w.chunks, pending, said.chunk_bytes)
        if h.chunk == NULL:
            complete[0] = False
    if said.pipe_bytes:
        pipe = <pipe_t *>malloc(sizeof(pipe_t))
        if pipe == NULL:
            complete[0] = False
            socket_end(fds[0][0], False)
            socket_end(fds[0][1], False)
        else:
            memset(pipe, 0, sizeof(pipe_t))
            pipe.read_fd = fds[0][0]
            pipe.write_fd = fds[0][1]
            pipe.held_bytes = said.pipe_bytes
            pipe.capacity_bytes = said.pipe_capacity
            gauge_add(&w.pipes.out_count, 1)
            h.pipe = pipe
        fds[0] += 2
    return pending + said.chunk_bytes


cdef inline bint preface_restore(session_t *s, const exported_session_t *said, const uint8_t *bytes) noexcept nogil:
    if not said.bits & EXPORTED_PREFACE:
        return True
    s.preface = <preface_t *>calloc(1, said.preface_bytes)
    if s.preface == NULL:
        return False
    memcpy(s.preface, bytes, said.preface_bytes)
    return True


cdef inline bint tried_restore(session_t *s, const exported_session_t *said, const uint8_t *bytes) noexcept nogil:
    """Control has put this process's numbers there."""
    cdef tried_t *tried
    if not said.bits & EXPORTED_TRIED:
        return True
    tried = s.tried = <tried_t *>calloc(1, sizeof(tried_t))
    if tried == NULL:
        return False
    tried.was_short = said.bits & EXPORTED_SHORT != 0
    tried.backend_ids = <uint32_t *>calloc(said.tried_count + 1, sizeof(uint32_t))
    if tried.backend_ids == NULL:
        return False
    memcpy(tried.backend_ids, bytes, said.tried_count * sizeof(uint32_t))
    tried.count = said.tried_count
    tried.capacity = said.tried_count + 1
    return True


cdef inline void session_restore(session_t *s, imported_session_t *one) noexcept nogil:
    """All that is plain."""
    cdef const exported_session_t *said = one.said
    s.id = said.id
    s.idle_ms = said.idle_ms
    s.half_close_ms = said.half_close_ms
    s.active_ms = said.active_ms
    s.state_deadline_ms = said.state_deadline_ms
    s.expires_ms = said.expires_ms
    s.started_ns = said.started_ns
    s.attempt_started_ns = said.attempt_started_ns
    s.connected_ns = said.connected_ns
    s.asked_ns = said.asked_ns
    s.hash = said.hash
    s.listener = one.listener
    s.pool = one.pool
    s.backend = one.backend
    s.tried = NULL
    s.flow = NULL
    s.preface = NULL
    s.source = said.source
    s.attempts = said.attempts
    s.flags = said.flags & <uint16_t>~SESSION_READY
    s.local_port = said.local_port
    s.splice = said.splice
    s.close_reason = said.close_reason
    s.half_close = said.half_close
    s.unix_sides = said.unix_sides
    s.awaited = said.awaited
    s.tagged = said.tagged
    s.held = one.held
    s.shared = False


cdef inline void session_sockets(session_t *s, imported_session_t *one) noexcept nogil:
    """Those that went ahead are there already."""
    cdef const exported_session_t *said = one.said
    if not one.ahead:
        s.client_fd = one.fds[0] if said.has_client else -1
        s.backend_fd = one.fds[said.has_client] if said.has_backend else -1


cdef inline bint session_watch_again(worker_t *w, session_t *s) noexcept nogil:
    """As it was watched: epoll reports at once whatever is ready. epoll_ctl(2): ENOMEM, ENOSPC."""
    cdef uint32_t also = EPOLLOUT if s.flags & SESSION_CLIENT_WANTS_OUT else 0
    if s.flags & SESSION_CLIENT_WATCHED and poller_watch(w, s, SIDE_CLIENT, s.client_fd, also) < 0:
        return False
    return s.backend_fd < 0 or poller_watch(w, s, SIDE_BACKEND, s.backend_fd, EPOLLOUT) >= 0


cdef inline bint session_wants_again(worker_t *w, session_t *s) noexcept nogil:
    """One that went ahead is watched, but for the client's EPOLLOUT."""
    return not s.flags & SESSION_CLIENT_WANTS_OUT or poller_watch_again(w, s, SIDE_CLIENT, s.client_fd) >= 0


cdef inline void session_catch_up(
    worker_t *w, session_t *s, uint64_t client_events, uint64_t backend_events
) noexcept nogil:
    """With what epoll has reported since its sockets came: that may be over, or still be so."""
    cdef uint32_t generation = s.generation
    if client_events:
        w.states[s.state].edge(w, s, SIDE_CLIENT, <uint32_t>client_events)
    if backend_events and s.generation == generation and s.state != SESSION_FREE:
        w.states[s.state].edge(w, s, SIDE_BACKEND, <uint32_t>backend_events)


cdef inline uint64_t exported_due_ms(worker_t *w, const exported_session_t *said) noexcept nogil:
    cdef int32_t ticks = <int32_t>(said.due_tick - <uint32_t>(w.now_ms // TIMER_TICK_MS))
    return w.now_ms + (<uint64_t>ticks * TIMER_TICK_MS if ticks > 0 else 0)


cdef inline void session_import(worker_t *w, imported_session_t *one) noexcept nogil:
    """When memory is short it ends, as any session would."""
    cdef const exported_session_t *said = one.said
    cdef const uint8_t *behind = <const uint8_t *>said + sizeof(exported_session_t)
    cdef const int *fds = &one.fds[said.has_client + said.has_backend]
    cdef session_t *s = sessions_at(&w.sessions, one.index) if one.ahead else sessions_take(&w.sessions)
    cdef bint complete = True
    cdef uint64_t client_events, backend_events
    if s == NULL:
        imported_drop(w, one, True)
        return
    client_events = s.up.bytes if one.ahead else 0
    backend_events = s.down.bytes if one.ahead else 0
    session_sockets(s, one)
    session_restore(s, one)
    session_count(w, s, 1)
    hold_worker(w, &s.held)
    complete = preface_restore(s, said, behind)
    behind += said.preface_bytes
    if not tried_restore(s, said, behind):
        complete = False
    behind += said.tried_count * sizeof(uint32_t)
    behind = half_restore(w, &s.up, &said.up, behind, &fds, &complete)
    half_restore(w, &s.down, &said.down, behind, &fds, &complete)
    s.state = said.state
    if s.state == SESSION_QUEUED:
        queue_return(w, s)
    if not complete or not (session_wants_again(w, s) if one.ahead else session_watch_again(w, s)):
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
        return
    if s.state == SESSION_ASKING:
        session_decide(w, s)                            # the other process's hook does not answer here
        return
    if said.bits & EXPORTED_TIMED:
        timers_arm(&w.timers, &w.sessions, s, exported_due_ms(w, said))
    if said.flags & SESSION_READY:
        ready_push(w, s)
    if one.ahead:
        session_catch_up(w, s, client_events, backend_events)


cdef inline void sessions_import(worker_t *w) noexcept nogil:
    """Each turn, before clients are accepted."""
    cdef uint64_t arrived = published_load_u64(&w.plane.arrived_version)
    cdef imported_sessions_t *batch = <imported_sessions_t *>published_load_pointer(<void **>&w.imports)
    cdef uint32_t i
    if batch != NULL:
        for i in range(batch.count):
            session_import(w, &batch.entries[i])
        imported_sessions_free(batch)
        published_store_u64(&w.imported_ns, clock_now_ns())
        published_store_pointer(<void **>&w.imports, NULL)
    arrivals_end(w, arrived)


cdef inline void imports_drop(worker_t *w) noexcept nogil:
    """After the worker has stopped: what it has not taken."""
    cdef uint32_t i
    if w.imports == NULL:
        return
    for i in range(w.imports.count):
        imported_drop(w, &w.imports.entries[i], True)
    imported_sessions_free(w.imports)
    w.imports = NULL
