# Connect: from a chosen backend to a connected one, or to the next. Called on the worker's thread by transitions.pxd.
#
# An attempt that fails marks its backend as tried for this session and gives the reservation back; the next pick leaves
# that backend out while another is left. When all were tried, they are tried again, after retry_pause, until
# connect_attempts are used up.
#
# An attempt that failed for a shortage of our own (base/verdicts.pxd) does not count as an attempt, blames no backend,
# and is not repeated: another backend may do, since ports and firewall rules depend on the destination.

from libc.errno cimport errno
from libc.stdint cimport uint16_t, uint32_t, uint8_t
from libc.stdlib cimport calloc, realloc

from l4lb._dataplane.balancing.failure_notices cimport backend_failed
from l4lb._dataplane.balancing.pick cimport pool_pick, pool_pick_named
from l4lb._dataplane.base.enums cimport (
    CLIENT_FIRST_MAX, CLIENT_WATCH_MS, FAILURE_RESOURCES, SELECT_PEAK_EWMA, SESSION_ACK_HELD, SESSION_CLIENT_WATCHED,
    SESSION_CONNECTING, SESSION_HEADER_HELD, SESSION_MEASURED, SESSION_URGENT_INLINE, SHORTAGE_MEMORY, SIDE_BACKEND,
    connect_failure_t, shortage_t,
)
from l4lb._dataplane.base.linux cimport (
    AF_INET, AF_UNIX, EINPROGRESS, EPOLLOUT, IPPROTO_TCP, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET,
    SO_ERROR, SO_KEEPALIVE, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_QUICKACK, TCP_USER_TIMEOUT, close,
    counter_add, getsockopt, published_load_pointer, setsockopt, sockaddr, socket, socklen_t,
)
from l4lb._dataplane.base.parts cimport tried_t
from l4lb._dataplane.base.types cimport backend_options_t, backend_t, pick_t, pool_t, session_t
from l4lb._dataplane.base.verdicts cimport shortage_count, shortage_is_everywhere, shortage_of, shortage_of_bind
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.poller cimport poller_watch
from l4lb._dataplane.resources.timers cimport timers_arm
from l4lb._dataplane.session.backend_socket cimport backend_connect_to, client_bind, client_fits, source_bind
from l4lb._dataplane.session.closing cimport session_forget_backend
from l4lb._dataplane.session.latency cimport measure_failure
from l4lb._dataplane.session.setup cimport session_pool
from l4lb._dataplane.tcp.headers cimport header_attach, header_detach
from l4lb._dataplane.tcp.relay cimport backend_inline

cdef enum attempt_t:
    ATTEMPT_PENDING = 0           # the backend's next edge decides
    ATTEMPT_CONNECTED
    ATTEMPT_FAILED                # with this backend: try another
    ATTEMPT_MISFIT                # ... which is not to blame: it cannot be reached from this client's address
    ATTEMPT_NO_RESOURCES          # out of file descriptors or memory: every backend would fail
    ATTEMPT_NO_SOURCE             # the pool's source address cannot be used: all its backends would fail


cdef inline int tried_add(session_t *s, uint32_t backend_id) noexcept nogil:
    """Remember a backend that refused. 0, or -1 when memory is short."""
    cdef tried_t *tried = s.tried
    cdef uint32_t *ids
    if tried == NULL:
        tried = s.tried = <tried_t *>calloc(1, sizeof(tried_t))
        if tried == NULL:
            return -1
    if tried.count == tried.capacity:
        ids = <uint32_t *>realloc(tried.backend_ids, (tried.capacity + 8) * sizeof(uint32_t))
        if ids == NULL:
            return -1
        tried.backend_ids = ids
        tried.capacity += 8
    tried.backend_ids[tried.count] = backend_id
    tried.count += 1
    return 0


cdef inline backend_t *session_pick(worker_t *w, session_t *s, pool_t *pool) noexcept nogil:
    """A reserved backend that has not refused this session, or one that has when there is no other; with retry_pause
    that one comes after a pause (transitions.pxd)."""
    cdef pick_t pick
    cdef backend_t *backend
    pick.pool = pool
    pick.tried = s.tried
    pick.hash = s.hash
    pick.now_ms = w.now_ms
    backend = pool_pick(&pick)
    if backend == NULL and s.tried != NULL and s.tried.count and not s.tried.was_short and not pool.retry_pause_ms:
        s.tried.count = 0
        backend = pool_pick(&pick)
    return backend


cdef inline backend_t *session_pick_named(
    worker_t *w, session_t *s, pool_t *pool, uint32_t backend_id
) noexcept nogil:
    """The backend of that id, reserved, for a session that has tried none; NULL when it cannot have it."""
    cdef pick_t pick
    pick.pool = pool
    pick.tried = s.tried
    pick.hash = s.hash
    pick.now_ms = w.now_ms
    pick.bound = 0
    return pool_pick_named(&pick, backend_id)


cdef inline attempt_t socket_refusal(int error, int family) noexcept nogil:
    """socket(2), connect(2): whether another backend may do. errno is left for `failure_of`."""
    return ATTEMPT_NO_RESOURCES if shortage_is_everywhere(shortage_of(error, family)) else ATTEMPT_FAILED


cdef inline void backend_set_options(int fd, int family, backend_options_t *options) noexcept nogil:
    """What the listener asks for on both sides. setsockopt(2) refuses none of these on a new TCP socket."""
    cdef int on = 1
    if family == AF_UNIX:
        return
    if options.user_timeout_ms:
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &options.user_timeout_ms, sizeof(int))
    if options.keepalive:
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on))
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &options.keepalive_idle_s, sizeof(int))
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &options.keepalive_interval_s, sizeof(int))
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &options.keepalive_count, sizeof(int))


cdef inline bint client_speaks_first(worker_t *w, session_t *s) noexcept nogil:
    """Judged by the last sessions of the listener."""
    return s.listener.counters[w.index].client_first > CLIENT_FIRST_MAX // 2


cdef inline attempt_t backend_connect(worker_t *w, session_t *s, pool_t *pool, backend_t *backend) noexcept nogil:
    """Begin a non-blocking connect and watch it. connect(2): EINPROGRESS pending; base/verdicts.pxd has all other
    errors, of this call, socket(2) and bind(2). errno is left as it was."""
    cdef int off = 0
    cdef int family = (<sockaddr *>&backend.address).sa_family
    cdef int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    cdef bint connected
    if fd < 0:
        return socket_refusal(errno, family)
    s.backend_fd = fd
    backend_set_options(fd, family, <backend_options_t *>published_load_pointer(<void **>&s.listener.options))
    if pool.transparent and not client_fits(&s.source, family):
        return ATTEMPT_MISFIT
    if pool.transparent and client_bind(fd, &s.source) < 0:
        return ATTEMPT_NO_SOURCE
    if pool.source_length and source_bind(fd, pool) < 0:
        return ATTEMPT_NO_SOURCE
    s.unix_sides &= <uint8_t>~(1 << <int>SIDE_BACKEND)
    if family == AF_UNIX:
        s.unix_sides |= 1 << <int>SIDE_BACKEND
    elif client_speaks_first(w, s):
        # The ACK that ends the handshake is then sent with the client's first bytes. transitions.pxd sends it when
        # there are none.
        setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof(off))
        s.flags |= SESSION_ACK_HELD
    else:
        backend_inline(s)                  # it speaks first, and may do so with urgent data
    connected = backend_connect_to(fd, backend, s.local_port) == 0
    if not connected and errno != EINPROGRESS:
        return socket_refusal(errno, family)
    if poller_watch(w, s, SIDE_BACKEND, fd, EPOLLOUT) < 0:
        return ATTEMPT_NO_RESOURCES
    return ATTEMPT_CONNECTED if connected else ATTEMPT_PENDING


cdef inline void attempt_abandon(worker_t *w, session_t *s) noexcept nogil:
    """Close the socket of an attempt and free the place that was reserved for it."""
    if s.backend_fd >= 0:
        close(s.backend_fd)
        s.backend_fd = -1
    session_forget_backend(w, s)
    header_detach(w, s)


cdef inline uint32_t attempt_wait_ms(session_t *s, pool_t *pool) noexcept nogil:
    """When the timer of an attempt first fires: sooner than connect_timeout while the client is not watched, so that a
    quick attempt, as most are, need not watch it twice or wake up for it."""
    if s.flags & SESSION_CLIENT_WATCHED or pool.connect_timeout_ms < <uint32_t>CLIENT_WATCH_MS:
        return pool.connect_timeout_ms
    return CLIENT_WATCH_MS


cdef inline attempt_t attempt_begin(worker_t *w, session_t *s, pool_t *pool, backend_t *backend) noexcept nogil:
    """`backend` is reserved. On failure the reservation is given back and the backend is counted and remembered."""
    cdef attempt_t attempt
    s.backend = backend.live
    s.state = SESSION_CONNECTING
    s.flags &= <uint16_t>~(SESSION_ACK_HELD | SESSION_HEADER_HELD | SESSION_URGENT_INLINE)
    s.attempts += 1
    s.attempt_started_ns = w.now_ns
    s.state_deadline_ms = <uint32_t>w.now_ms + pool.connect_timeout_ms
    if pool.selection == SELECT_PEAK_EWMA:
        s.flags |= SESSION_MEASURED
    if header_attach(w, s, pool) < 0:
        return ATTEMPT_NO_RESOURCES
    if s.up.overhead_bytes and s.up.overhead_bytes == s.up.chunk.length and client_speaks_first(w, s):
        s.flags |= SESSION_HEADER_HELD
    attempt = backend_connect(w, s, pool, backend)
    if attempt == ATTEMPT_PENDING:
        timers_arm(&w.timers, &w.sessions, s, w.now_ms + attempt_wait_ms(s, pool))
    return attempt


cdef inline int attempt_failed(worker_t *w, session_t *s, connect_failure_t failure) noexcept nogil:
    """Count and remember the failure. 0, or -1 when memory is short. A shortage of our own does not use up an
    attempt."""
    cdef uint32_t backend_id = s.backend.id
    counter_add(&s.backend.counters[w.index].connect_failures[<int>failure], 1)
    if failure == FAILURE_RESOURCES:
        s.attempts -= 1
    else:
        measure_failure(w, s)
        backend_failed(w, session_pool(w, s), s.backend)
    attempt_abandon(w, s)
    if tried_add(s, backend_id) < 0:
        return -1
    s.tried.was_short |= failure == FAILURE_RESOURCES
    return 0


cdef inline void attempt_short(worker_t *w, session_t *s, attempt_t attempt, int error) noexcept nogil:
    """Count an attempt after which no backend is tried: see ATTEMPT_NO_RESOURCES, ATTEMPT_NO_SOURCE."""
    cdef shortage_t shortage
    if attempt == ATTEMPT_NO_SOURCE:
        shortage = shortage_of_bind(error, AF_INET)
    else:
        shortage = shortage_of(error, AF_INET)
        if not shortage_is_everywhere(shortage):       # errno has another cause: no chunk could be allocated
            shortage = SHORTAGE_MEMORY
        w.resources_short = True
    shortage_count(w, shortage)
    counter_add(&s.backend.counters[w.index].connect_failures[<int>FAILURE_RESOURCES], 1)


cdef inline int attempt_misfit(worker_t *w, session_t *s) noexcept nogil:
    """Count an attempt from an address of the wrong family: nothing was learnt about the backend."""
    cdef uint32_t backend_id = s.backend.id
    counter_add(&s.backend.counters[w.index].source_misfits, 1)
    attempt_abandon(w, s)
    return tried_add(s, backend_id)


cdef inline int attempt_error(session_t *s) noexcept nogil:
    """The error that ended a pending connect. getsockopt(2) does not fail on an open socket."""
    cdef int error = 0
    cdef socklen_t length = sizeof(error)
    getsockopt(s.backend_fd, SOL_SOCKET, SO_ERROR, &error, &length)
    return error


cdef inline bint session_was_short(session_t *s) noexcept nogil:
    """Whether an attempt failed for a shortage of our own."""
    return s.tried != NULL and s.tried.was_short
