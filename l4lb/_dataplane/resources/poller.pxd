# Poller: edge-triggered epoll, and the tag by which an event finds its session.
#
# Called on the worker's own thread. A tag is generation << 32 | index << 1 | side. Generations start at 1, so tags
# below 2**32 are free for what is no session: EVENT_TAG is the worker's eventfd, tags with LINK_TAG_BIT are UDP sockets
# to backends, the rest are its listening sockets.

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t

from l4lb._dataplane.base.enums cimport ACCEPT_PAUSE_MS, side_t
from l4lb._dataplane.base.linux cimport (
    EEXIST, EPOLLET, EPOLLEXCLUSIVE, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, EPOLL_CTL_ADD, EPOLL_CTL_DEL,
    EPOLL_CTL_MOD, counter_add, epoll_ctl, epoll_event, write,
)
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.worker_types cimport accepting_t, worker_t

cdef enum:
    EVENT_TAG = 0
    LISTENER_TAG_BASE = 1
    LINK_TAG_BIT = 0x80000000


cdef inline uint64_t session_tag(session_t *s, side_t side) noexcept nogil:
    return (<uint64_t>s.generation << 32) | (<uint64_t>s.index << 1) | <uint64_t>side


cdef inline int poller_control(worker_t *w, int operation, int fd, uint32_t events, uint64_t tag) noexcept nogil:
    """0 or -errno. On ENOMEM and ENOSPC (user.max_epoll_watches) the caller closes the session."""
    cdef epoll_event event
    event.events = events
    event.data.u64 = tag
    if epoll_ctl(w.epoll_fd, operation, fd, &event) < 0:
        return -errno
    return 0


cdef inline int poller_watch(worker_t *w, session_t *s, side_t side, int fd, uint32_t also) noexcept nogil:
    """Watch one side of a session, both directions at once. Closing the fd ends that: no EPOLL_CTL_DEL."""
    return poller_control(w, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET | also, session_tag(s, side))


cdef inline int poller_watch_again(worker_t *w, session_t *s, side_t side, int fd) noexcept nogil:
    """Ask for EPOLLOUT too, on a side that was watched without it. epoll reports at once what is ready already."""
    return poller_control(
        w, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET, session_tag(s, side)
    )


cdef inline void worker_retry_later(worker_t *w) noexcept nogil:
    """A listening socket is not served, for want of memory or watches: the worker tries again soon."""
    counter_add(&w.counters.accept_pauses, 1)
    w.listening_short = True
    w.retry_at_ms = <uint32_t>w.now_ms + ACCEPT_PAUSE_MS


cdef inline void poller_watch_listener(worker_t *w, accepting_t *from_, uint32_t position) noexcept nogil:
    """Level-triggered: what one turn does not accept is reported again. A socket that all workers share wakes one of
    them.

    epoll_ctl(2): ENOMEM, ENOSPC. The kernel goes on giving this socket its share of the clients, so it must not stay
    unwatched: `listeners_update` tries again. EEXIST: it is watched already.
    """
    cdef uint32_t exclusive = EPOLLEXCLUSIVE if from_.shared else 0
    cdef int error = poller_control(w, EPOLL_CTL_ADD, from_.fd, EPOLLIN | exclusive, LISTENER_TAG_BASE + position)
    from_.watched = error == 0 or error == -EEXIST
    if not from_.watched:
        worker_retry_later(w)


cdef inline int poller_forget(worker_t *w, int fd) noexcept nogil:
    return poller_control(w, EPOLL_CTL_DEL, fd, 0, 0)


cdef inline bint listener_is_held(const worker_t *w, const accepting_t *from_) noexcept nogil:
    """Whether a listening socket is not to be read now."""
    return w.udp_held if from_.datagrams else w.accept_paused or w.tcp_held


cdef inline void listeners_update(worker_t *w) noexcept nogil:
    """Watch all listening sockets but those that are held: after a change of what `listener_is_held` goes by, and to
    try again those that could not be watched."""
    cdef accepting_t *from_
    cdef uint32_t i
    cdef bint held
    for i in range(w.accepting_count):
        from_ = &w.accepting[i]
        held = listener_is_held(w, from_)
        if held and from_.watched:
            poller_forget(w, from_.fd)
            from_.watched = False
        elif not held and not from_.watched:
            poller_watch_listener(w, from_, i)


cdef inline void worker_wake(worker_t *w) noexcept nogil:
    """Any thread. write(2) to an eventfd: EAGAIN, it holds a wake-up already."""
    cdef uint64_t one = 1
    write(w.event_fd, &one, sizeof(one))
