# Exporting: at an upgrade the sessions of TCP go to the new process, whatever their state. Called on the worker's
# thread by worker/loop.pxd, once per turn.
#
#   control holds the clients (tcp_held)       -> no worker accepts any more
#   control freezes the workers (freeze)       -> each describes its sessions (exports) and waits: nothing moves
#   control sends all of it, and is answered   -> settled: the sessions are let go of, or go on here as if nothing were,
#                                                 or are reset: the new process said that it has them, and died
#
# All sessions of all workers go or none: so when the new process dies before it has them, none is lost. While they
# wait, both processes have the sockets open and neither reads them. A socket is closed here without a FIN or a reset,
# since the new process has it too.

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.enums cimport (
    CLOSE_NORMAL, CLOSE_SHUTDOWN, SESSIONS_PER_BLOCK, SESSION_CLIENT_WATCHED, SESSION_FLOW, TIMER_IDLE,
)
from l4lb._dataplane.base.linux cimport (
    POLLIN, poll, pollfd, published_load_u32, published_load_u64, published_store_u64, read,
)
from l4lb._dataplane.base.migration_types cimport (
    EXPORTED_AHEAD, EXPORTED_COUNTED, EXPORTED_PREFACE, EXPORTED_SHORT, EXPORTED_TIMED, EXPORTED_TRIED, EXPORT_FDS_MAX,
    SETTLED_MOVED, SETTLED_STAY, exported_half_t, exported_session_t, exports_t, settled_t,
)
from l4lb._dataplane.base.types cimport half_t, preface_t, session_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.chunks cimport chunk_bytes
from l4lb._dataplane.resources.poller cimport listeners_update, poller_forget, worker_wake
from l4lb._dataplane.resources.sessions cimport session_is_here, sessions_at
from l4lb._dataplane.session.closing cimport session_dispose, session_end
from l4lb._dataplane.session.setup cimport session_count
from l4lb._dataplane.tcp.inboxes cimport inboxes_take

cdef enum:
    FREEZE_LOOK_MS = 100          # how often a waiting worker looks whether its process ends


# ---- what is said of a session ----

cdef inline uint32_t preface_size(const session_t *s) noexcept nogil:
    if s.preface == NULL:
        return 0
    return sizeof(preface_t) + s.preface.received_length + s.preface.authority_length + s.preface.alpn_length


cdef inline void half_export(const half_t *h, exported_half_t *exported) noexcept nogil:
    exported.bytes = h.bytes
    exported.taken = h.taken
    exported.paid_until_ns = h.paid_until_ns
    exported.overhead_bytes = h.overhead_bytes
    exported.chunk_bytes = h.chunk.length if h.chunk != NULL else 0
    if h.pipe != NULL and h.pipe.held_bytes:
        exported.pipe_bytes = h.pipe.held_bytes
        exported.pipe_capacity = h.pipe.capacity_bytes
    exported.flags = h.flags
    exported.full_reads = h.full_reads


cdef inline void session_describe(const session_t *s, exported_session_t *exported) noexcept nogil:
    exported.listener_id = s.listener.id
    exported.pool_slot = s.pool.slot
    exported.backend_id = s.backend.id if s.backend != NULL else 0
    exported.id = s.id
    exported.started_ns = s.started_ns
    exported.attempt_started_ns = s.attempt_started_ns
    exported.connected_ns = s.connected_ns
    exported.asked_ns = s.asked_ns
    exported.hash = s.hash
    half_export(&s.up, &exported.up)
    half_export(&s.down, &exported.down)
    exported.source = s.source
    exported.idle_ms = s.idle_ms
    exported.half_close_ms = s.half_close_ms
    exported.active_ms = s.active_ms
    exported.state_deadline_ms = s.state_deadline_ms
    exported.expires_ms = s.expires_ms
    exported.attempts = s.attempts
    exported.flags = s.flags
    exported.local_port = s.local_port
    exported.state = s.state
    exported.splice = s.splice
    exported.close_reason = s.close_reason
    exported.half_close = s.half_close
    exported.unix_sides = s.unix_sides
    exported.awaited = s.awaited
    exported.tagged = s.tagged
    exported.has_client = s.client_fd >= 0 and not s.shared
    exported.has_backend = s.backend_fd >= 0 and not s.shared
    if s.shared:
        exported.bits |= <int>EXPORTED_AHEAD
    if s.timer.slot != TIMER_IDLE:
        exported.bits |= <int>EXPORTED_TIMED
        exported.due_tick = s.timer.due_tick
    if s.held.source != NULL:
        exported.bits |= <int>EXPORTED_COUNTED
    if s.preface != NULL:
        exported.bits |= <int>EXPORTED_PREFACE
        exported.preface_bytes = preface_size(s)
    if s.tried != NULL:
        exported.bits |= <int>EXPORTED_TRIED | (<int>EXPORTED_SHORT if s.tried.was_short else 0)
        exported.tried_count = s.tried.count


# ---- the message ----

cdef inline bint exports_reserve(exports_t *exports, size_t bytes) noexcept nogil:
    """Room for one more session; realloc(3): ENOMEM, False."""
    cdef size_t capacity = exports.capacity if exports.capacity else 65536
    cdef void *grown
    while capacity < exports.length + bytes:
        capacity *= 2
    if capacity != exports.capacity:
        grown = realloc(exports.bytes, capacity)
        if grown == NULL:
            return False
        exports.bytes = <uint8_t *>grown
        exports.capacity = capacity
    if exports.fd_count + EXPORT_FDS_MAX > exports.fd_capacity:
        grown = realloc(exports.fds, (2 * <size_t>exports.fd_capacity + 256) * sizeof(int))
        if grown == NULL:
            return False
        exports.fds = <int *>grown
        exports.fd_capacity = 2 * exports.fd_capacity + 256
    return True


cdef inline void exports_add(exports_t *exports, const void *bytes, size_t length) noexcept nogil:
    """There is room."""
    if length:
        memcpy(exports.bytes + exports.length, bytes, length)
    exports.length += length


cdef inline void exports_add_fd(exports_t *exports, int fd) noexcept nogil:
    exports.fds[exports.fd_count] = fd
    exports.fd_count += 1


cdef inline void exports_add_pending(exports_t *exports, half_t *h) noexcept nogil:
    if h.chunk != NULL:
        exports_add(exports, chunk_bytes(h.chunk) + h.chunk.start, h.chunk.length)


cdef inline void exports_add_pipe(exports_t *exports, half_t *h) noexcept nogil:
    if h.pipe != NULL and h.pipe.held_bytes:
        exports_add_fd(exports, h.pipe.read_fd)
        exports_add_fd(exports, h.pipe.write_fd)


cdef inline bint session_export(exports_t *exports, session_t *s) noexcept nogil:
    """False when memory is short."""
    cdef exported_session_t said
    cdef uint64_t zeros = 0
    cdef size_t size
    memset(&said, 0, sizeof(said))
    session_describe(s, &said)
    size = sizeof(said) + said.preface_bytes + said.tried_count * sizeof(uint32_t)
    size += said.up.chunk_bytes + said.down.chunk_bytes
    said.size = <uint32_t>((size + 7) & ~<size_t>7)
    if not exports_reserve(exports, said.size):
        return False
    exports_add(exports, &said, sizeof(said))
    exports_add(exports, s.preface, said.preface_bytes)
    if s.tried != NULL:
        exports_add(exports, s.tried.backend_ids, said.tried_count * sizeof(uint32_t))
    exports_add_pending(exports, &s.up)
    exports_add_pending(exports, &s.down)
    exports_add(exports, &zeros, said.size - size)
    if said.has_client:
        exports_add_fd(exports, s.client_fd)
    if said.has_backend:
        exports_add_fd(exports, s.backend_fd)
    exports_add_pipe(exports, &s.up)
    exports_add_pipe(exports, &s.down)
    exports.count += 1
    return True


cdef inline void exports_free(exports_t *exports) noexcept nogil:
    free(exports.bytes)
    free(exports.fds)
    memset(exports, 0, sizeof(exports_t))


cdef inline bint session_is_tcp(const session_t *s) noexcept nogil:
    return session_is_here(s) and s.state != SESSION_FLOW


cdef inline void sessions_export(worker_t *w) noexcept nogil:
    cdef session_t *s
    cdef uint32_t i
    exports_free(&w.exports)
    for i in range(w.sessions.block_count * SESSIONS_PER_BLOCK):
        s = sessions_at(&w.sessions, i)
        if session_is_tcp(s) and not session_export(&w.exports, s):
            w.exports.short_of_memory = True
            return


# ---- frozen ----

cdef inline void session_let_go(worker_t *w, session_t *s) noexcept nogil:
    """The new process has it. epoll would go on watching a socket that is open elsewhere, so it is told (epoll_ctl(2):
    ENOENT for one that was not watched)."""
    if s.flags & SESSION_CLIENT_WATCHED:
        poller_forget(w, s.client_fd)
    if s.backend_fd >= 0:
        poller_forget(w, s.backend_fd)
    s.shared = False                                    # closed without a word
    session_count(w, s, -1)
    session_dispose(w, s, CLOSE_NORMAL)


cdef inline void sessions_settle(worker_t *w, settled_t fate) noexcept nogil:
    """Sessions that are lost are reset: some of their bytes may be, and nobody is to take that for an end."""
    cdef session_t *s
    cdef uint32_t i
    for i in range(w.sessions.block_count * SESSIONS_PER_BLOCK):
        s = sessions_at(&w.sessions, i)
        if not session_is_tcp(s):
            continue
        if fate == SETTLED_MOVED:
            session_let_go(w, s)
        else:
            session_end(w, s, CLOSE_SHUTDOWN)


cdef inline bint freeze_is_settled(worker_t *w) noexcept nogil:
    return published_load_u64(&w.plane.settled_version) == w.frozen_version or published_load_u32(&w.stopping) != 0


cdef inline void freeze_wait(worker_t *w) noexcept nogil:
    """Until control has settled it, or the process ends. A wake-up that this takes may have been for something else, so
    the worker wakes itself: the next turn, which looks at everything, comes at once.

    poll(2): EINTR and ENOMEM: look again.
    """
    cdef pollfd event
    cdef uint64_t ignored
    event.fd = w.event_fd
    event.events = POLLIN
    while not freeze_is_settled(w):
        if poll(&event, 1, FREEZE_LOOK_MS) > 0:
            read(w.event_fd, &ignored, sizeof(ignored))
    worker_wake(w)


cdef inline void clients_hold(worker_t *w) noexcept nogil:
    """Each turn, before anything is read."""
    cdef uint64_t asked = published_load_u64(&w.plane.held_version)
    if asked != w.held_version:
        w.tcp_held = published_load_u32(&w.plane.tcp_held) != 0
        listeners_update(w)
        published_store_u64(&w.held_version, asked)


cdef inline bint freeze_is_asked(worker_t *w) noexcept nogil:
    return published_load_u64(&w.plane.freeze_version) != w.frozen_version


cdef inline void sessions_freeze(worker_t *w) noexcept nogil:
    """Between two events, when it is asked. Clients that other workers have sent here become sessions first: they have
    sent their last one before control asks."""
    cdef uint64_t asked = published_load_u64(&w.plane.freeze_version)
    cdef settled_t fate
    inboxes_take(w)
    sessions_export(w)
    published_store_u64(&w.frozen_version, asked)
    freeze_wait(w)
    exports_free(&w.exports)
    if published_load_u64(&w.plane.settled_version) == asked:
        fate = <settled_t>published_load_u32(&w.plane.settled_as)
        if fate != SETTLED_STAY:
            sessions_settle(w, fate)
    published_store_u64(&w.settled_version, asked)
