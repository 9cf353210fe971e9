# Closing: the one way out of every session, whatever its state.
#
# A session that ends as it should closes its sockets, and the kernel sends what is still queued. Every other end is a
# reset on both sides, so that a cut stream never looks like a finished one. Only a client that has received everything,
# with the FIN, and does not close itself is spared the reset, which might destroy what it has not read yet. Called on
# the worker's thread.

from libc.stdint cimport uint8_t
from libc.stdlib cimport free
from libc.string cimport memset

from l4lb._dataplane.admission.admission cimport release
from l4lb._dataplane.balancing.load cimport backend_release
from l4lb._dataplane.balancing.queue cimport queue_poke
from l4lb._dataplane.base.enums cimport CLOSE_HALF_CLOSE_TIMEOUT, CLOSE_NORMAL, HALF_FIN_SENT, close_reason_t
from l4lb._dataplane.base.linux cimport (
    AF_UNSPEC, IPPROTO_TCP, SHUT_WR, SIOCOUTQ, SOL_SOCKET, SO_LINGER, TCP_CLOSE, TCP_INFO, close, connect, counter_add,
    getsockopt, ioctl, linger, setsockopt, shutdown, sockaddr, socklen_t,
)
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.poller cimport poller_forget
from l4lb._dataplane.resources.ready cimport ready_remove
from l4lb._dataplane.resources.sessions cimport sessions_give
from l4lb._dataplane.resources.timers cimport timers_disarm
from l4lb._dataplane.session.half cimport half_drop
from l4lb._dataplane.session.latency cimport measure_session
from l4lb._dataplane.session.records cimport record_session


cdef inline void socket_reset(int fd) noexcept nogil:
    """close(2) with SO_LINGER 0: the peer gets a reset. setsockopt(2) does not fail on an open socket; close(2): EINTR,
    it is closed."""
    cdef linger at_once
    at_once.l_onoff = 1
    at_once.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once))
    close(fd)


cdef inline int socket_unsent(int fd) noexcept nogil:
    """Bytes in a socket's send queue that its peer has not taken. TCP: not acknowledged, a FIN counts as one. Unix: not
    read by the peer, with the kernel's overhead. 0 when there is no socket.

    ioctl(2), SIOCOUTQ: EBADF without a socket, EINVAL on one that listens; none on a connected one.
    """
    cdef int unsent = 0
    if ioctl(fd, SIOCOUTQ, &unsent) < 0 or unsent < 0:
        return 0
    return unsent


cdef inline bint socket_has_unsent(int fd) noexcept nogil:
    """Whether there are bytes that the peer has not taken and still may: a reset now would destroy them.

    SIOCOUTQ goes on counting them after the peer has reset the connection, so the state (first byte of tcp_info) is
    checked as well; getsockopt(2) fails on a unix socket, whose peer takes its bytes with it when it goes.
    """
    cdef uint8_t state = 0
    cdef socklen_t length = sizeof(state)
    if socket_unsent(fd) == 0:
        return False
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &length) < 0 or state != TCP_CLOSE


cdef inline void socket_end(int fd, bint reset) noexcept nogil:
    if fd < 0:
        return
    if reset:
        socket_reset(fd)
    else:
        close(fd)


cdef inline void shared_socket_end(worker_t *w, int fd, bint reset) noexcept nogil:
    """A TCP socket that is open in another process too, so that its close says nothing to the peer.

    shutdown(2): ENOTCONN, it has ended. connect(2) to AF_UNSPEC resets a connection and has no error on a TCP socket.
    """
    cdef sockaddr nowhere
    if fd < 0:
        return
    memset(&nowhere, 0, sizeof(nowhere))
    nowhere.sa_family = AF_UNSPEC
    if reset:
        connect(fd, &nowhere, sizeof(nowhere))
    else:
        shutdown(fd, SHUT_WR)
    poller_forget(w, fd)
    close(fd)


cdef inline void session_socket_end(worker_t *w, session_t *s, int fd, bint reset) noexcept nogil:
    if s.shared:
        shared_socket_end(w, fd, reset)
    else:
        socket_end(fd, reset)


cdef inline bint client_is_reset(session_t *s, close_reason_t reason) noexcept nogil:
    if reason == CLOSE_HALF_CLOSE_TIMEOUT and s.down.flags & HALF_FIN_SENT:
        return socket_has_unsent(s.client_fd)
    return reason != CLOSE_NORMAL


cdef inline void session_forget_backend(worker_t *w, session_t *s) noexcept nogil:
    """Give the reservation back, after the socket is closed or before another attempt."""
    if s.backend != NULL:
        backend_release(s.backend)
        s.backend = NULL
        queue_poke(w, s.pool)


cdef inline void session_dispose(worker_t *w, session_t *s, close_reason_t reason) noexcept nogil:
    """Free all that the session holds, without a record: `session_count_end` has written one, or the session goes on in
    another process."""
    timers_disarm(&w.timers, &w.sessions, s)
    ready_remove(w, s)
    w.states[s.state].cleanup(w, s, reason)
    half_drop(w, &s.up)
    half_drop(w, &s.down)
    session_socket_end(w, s, s.backend_fd, reason != CLOSE_NORMAL)
    session_socket_end(w, s, s.client_fd, client_is_reset(s, reason))
    session_forget_backend(w, s)
    if s.tried != NULL:
        free(s.tried.backend_ids)
        free(s.tried)
        s.tried = NULL
    free(s.preface)
    s.preface = NULL
    release(w, s.listener, s.pool, &s.held)
    sessions_give(&w.sessions, s)


cdef inline void session_count_end(worker_t *w, session_t *s, close_reason_t reason) noexcept nogil:
    """Record and count the session. Before its sockets are closed: who sees its end finds it counted."""
    record_session(w, s, reason)
    measure_session(w, s)
    counter_add(&s.listener.counters[w.index].closed[<int>reason], 1)


cdef inline void session_end(worker_t *w, session_t *s, close_reason_t reason) noexcept nogil:
    """Record and count the session, then free all that it holds."""
    session_count_end(w, s, reason)
    session_dispose(w, s, reason)
