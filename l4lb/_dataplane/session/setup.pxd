# Setup: a new session's first values, and its pool. Called on the worker's thread.

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from l4lb._dataplane.base.enums cimport SESSION_NODELAY_DONE, SIDE_CLIENT
from l4lb._dataplane.base.linux cimport AF_UNIX, counter_add
from l4lb._dataplane.base.types cimport half_t, listener_t, pool_t, session_t
from l4lb._dataplane.base.worker_types cimport accepted_client_t, worker_t
from l4lb._dataplane.session.records cimport session_id_next


cdef inline void session_init(worker_t *w, session_t *s, accepted_client_t *client) noexcept nogil:
    s.id = session_id_next(w)
    memset(&s.up, 0, sizeof(half_t))
    memset(&s.down, 0, sizeof(half_t))
    s.client_fd = client.fd
    s.backend_fd = -1
    s.listener = client.listener
    s.pool = client.pool
    s.backend = NULL
    s.tried = NULL
    s.flow = NULL
    s.preface = NULL
    s.awaited = client.proxy_mode
    s.held = client.held
    s.shared = False
    s.tagged = False
    s.unix_sides = 1 << <int>SIDE_CLIENT if client.address.ss_family == AF_UNIX else 0
    s.idle_ms = client.terms.idle_ms
    s.half_close_ms = client.terms.half_close_ms
    s.half_close = client.terms.half_close
    s.expires_ms = 0
    if client.terms.duration_ms:
        s.expires_ms = (<uint32_t>w.now_ms + client.terms.duration_ms) | 1    # 0 means none
    s.splice = client.terms.splice
    s.active_ms = <uint32_t>w.now_ms
    s.started_ns = w.now_ns
    s.connected_ns = 0
    s.hash = 0
    s.local_port = client.local_port
    s.attempts = 0
    s.flags = 0 if client.terms.nodelay else SESSION_NODELAY_DONE


cdef inline void session_count(worker_t *w, session_t *s, int64_t change) noexcept nogil:
    """One more or less of its listener's and, once it was connected, of its backend's sessions: it comes from another
    process, or goes to one. The process where it ends counts it."""
    counter_add(&s.listener.counters[w.index].sessions_total, change)
    if s.backend != NULL and s.connected_ns:
        counter_add(&s.backend.counters[w.index].sessions_total, change)


cdef inline listener_t *session_listener(worker_t *w, session_t *s) noexcept nogil:
    """The session's listener in the current snapshot; NULL when it was removed. Not for each byte: it is looked for."""
    cdef uint32_t i
    for i in range(w.snapshot.listener_count):
        if w.snapshot.listeners[i].live == s.listener:
            return &w.snapshot.listeners[i]
    return NULL


cdef inline pool_t *session_pool(worker_t *w, session_t *s) noexcept nogil:
    """The session's pool in the current snapshot; NULL when it was removed."""
    if s.pool.slot >= w.snapshot.pool_slots:
        return NULL
    return w.snapshot.pools_by_slot[s.pool.slot]
