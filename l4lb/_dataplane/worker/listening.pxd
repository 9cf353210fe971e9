# Listening: moves a worker from one snapshot to the next: it stops accepting on sockets that the new one no longer
# names, and starts on those that it adds. Called by loop.pxd, on the worker's thread.

from libc.stdint cimport uint32_t
from libc.stdlib cimport realloc

from l4lb._dataplane.base.linux cimport published_load_pointer, published_store_u64
from l4lb._dataplane.base.types cimport listening_list_t, listening_t, snapshot_t
from l4lb._dataplane.base.worker_types cimport accepting_t, worker_t
from l4lb._dataplane.resources.poller cimport (
    listener_is_held, listeners_update, poller_forget, poller_watch_listener, worker_retry_later,
)
from l4lb._dataplane.tcp.accept cimport accept_all
from l4lb._dataplane.udp.answers cimport udp_flush
from l4lb._dataplane.udp.events cimport flows_end_on_socket, udp_event
from l4lb._dataplane.udp.plane cimport udp_open


cdef inline listening_t *listening_find(listening_list_t *sockets, int fd, uint32_t hint) noexcept nogil:
    """NULL when it is not among them. `hint` is where it probably is: lists change little from snapshot to snapshot."""
    cdef uint32_t i, at
    for i in range(sockets.count):
        at = (hint + i) % sockets.count
        if sockets.entries[at].fd == fd:
            return &sockets.entries[at]
    return NULL


cdef inline void worker_leave_listeners(worker_t *w, snapshot_t *next_one) noexcept nogil:
    """Stop accepting on sockets that `next_one` no longer names, after serving what waits in their queues (except a
    held socket's: that waits for another process)."""
    cdef uint32_t i = 0
    while i < w.accepting_count:
        if listening_find(&next_one.listening[w.index], w.accepting[i].fd, i) != NULL:
            i += 1
            continue
        if w.accepting[i].watched:
            poller_forget(w, w.accepting[i].fd)
        if w.accepting[i].datagrams:
            if not w.udp_held:
                udp_event(w, &w.accepting[i])
            flows_end_on_socket(w, w.accepting[i].fd)
            udp_flush(w)
        elif not w.tcp_held:
            accept_all(w, &w.accepting[i])
        w.accepting_count -= 1
        w.accepting[i] = w.accepting[w.accepting_count]
        if i < w.accepting_count and w.accepting[i].watched:                  # a new position needs a new tag
            poller_forget(w, w.accepting[i].fd)
            poller_watch_listener(w, &w.accepting[i], i)


cdef inline bint worker_accepts_on(worker_t *w, int fd, uint32_t hint) noexcept nogil:
    cdef uint32_t i
    for i in range(w.accepting_count):
        if w.accepting[(hint + i) % w.accepting_count].fd == fd:
            return True
    return False


cdef inline int worker_accept_on(worker_t *w, listening_t *socket) noexcept nogil:
    """0, or -1 when memory is short."""
    cdef accepting_t *grown
    cdef accepting_t *entry
    if w.accepting_count == w.accepting_capacity:
        grown = <accepting_t *>realloc(w.accepting, (w.accepting_capacity + 16) * sizeof(accepting_t))
        if grown == NULL:
            return -1
        w.accepting = grown
        w.accepting_capacity += 16
    entry = &w.accepting[w.accepting_count]
    entry.fd = socket.fd
    entry.port = socket.port
    entry.shared = socket.shared
    entry.first = socket.first
    entry.local = socket.local
    entry.batch = 1
    entry.datagrams = socket.datagrams
    entry.watched = False
    entry.wide = socket.wide
    entry.listener = socket.listener
    if socket.datagrams and udp_open(w) < 0:
        return -1
    if not listener_is_held(w, entry):
        poller_watch_listener(w, entry, w.accepting_count)
    w.accepting_count += 1
    return 0


cdef inline void worker_join_listeners(worker_t *w, snapshot_t *snapshot) noexcept nogil:
    """Point existing sockets at their new terms, and start accepting on new ones."""
    cdef listening_list_t *sockets = &snapshot.listening[w.index]
    cdef uint32_t i
    for i in range(w.accepting_count):
        w.accepting[i].listener = listening_find(sockets, w.accepting[i].fd, i).listener
    for i in range(sockets.count):
        if not worker_accepts_on(w, sockets.entries[i].fd, i) and worker_accept_on(w, &sockets.entries[i]) < 0:
            worker_retry_later(w)


cdef inline void worker_retry_listening(worker_t *w) noexcept nogil:
    """Serve the listening sockets that could not be served before."""
    w.listening_short = False
    listeners_update(w)
    worker_join_listeners(w, w.snapshot)


cdef inline void worker_adopt(worker_t *w) noexcept nogil:
    """Move to the published snapshot. Storing its version shows control that the old one is no longer read here."""
    cdef snapshot_t *published = <snapshot_t *>published_load_pointer(&w.plane.snapshot)
    if published == NULL or published == w.snapshot:
        return
    if w.snapshot != NULL:
        worker_leave_listeners(w, published)
    w.snapshot = published
    worker_join_listeners(w, published)
    w.queue_poked = True
    published_store_u64(&w.seen_version, published.version)
