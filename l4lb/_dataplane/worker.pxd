# Worker: the event loop. One native thread for its whole life, one epoll, its own sessions; nothing here allocates a
# Python object, logs or takes a lock. `worker_run` is called once by _fastpath.pyx, outside the GIL, and returns when
# control sets `stopping` and writes the eventfd.
#
# A turn: wait, adopt the newest snapshot, accept and relay what the events say, give the ready sessions their turn,
# run the due timers.

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc, realloc

from l4lb._dataplane.accept cimport accept_all, accept_event, accept_resume, inboxes_drop, inboxes_take
from l4lb._dataplane.answers cimport udp_flush
from l4lb._dataplane.chunks cimport chunks_free
from l4lb._dataplane.closing cimport session_end
from l4lb._dataplane.enums cimport (
    CLOSE_SHUTDOWN, EPOLL_BATCH, EPOLL_BATCH_UDP, INBOX_SIZE, NO_INDEX, SCRATCH_BYTES, SESSIONS_PER_BLOCK,
    SESSION_FREE, side_t,
)
from l4lb._dataplane.evict cimport evictions
from l4lb._dataplane.links cimport links_sweep
from l4lb._dataplane.linux cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, ENOMEM, EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, clock_now_ns, close, counter_add,
    epoll_create1, epoll_event, epoll_wait, eventfd, published_load_pointer, published_load_u32, published_store_u64,
    read,
)
from l4lb._dataplane.moving cimport arrivals, departures, moving_drop
from l4lb._dataplane.pipes cimport pipes_free
from l4lb._dataplane.poller cimport (
    EVENT_TAG, LINK_TAG_BIT, LISTENER_TAG_BASE, poller_control, poller_forget, poller_watch_listener,
    poller_watch_missed, worker_missed,
)
from l4lb._dataplane.ready cimport ready_remove
from l4lb._dataplane.sessions cimport sessions_at, sessions_free, sessions_init
from l4lb._dataplane.states cimport states_fill
from l4lb._dataplane.sweep cimport sweeps
from l4lb._dataplane.tcp cimport queues_serve
from l4lb._dataplane.timers cimport timers_init, timers_next_ms, timers_pop
from l4lb._dataplane.types cimport listening_list_t, listening_t, session_t, snapshot_t
from l4lb._dataplane.udp cimport flows_end_of, link_event, udp_close, udp_event, udp_open
from l4lb._dataplane.worker_types cimport accepting_t, arrival_t, inbox_t, plane_t, worker_t

# ---- birth and death (control's thread) ----

cdef inline int worker_open(worker_t *w, plane_t *plane, uint32_t index) noexcept nogil:
    """0 or -errno. epoll_create1, eventfd: EMFILE, ENFILE, ENOMEM. `worker_close` cleans up after either."""
    cdef uint32_t i
    w.plane = plane
    w.index = index
    w.random = clock_now_ns() ^ <uint64_t>index << 56
    w.epoll_fd = w.event_fd = -1
    w.ready_head = w.ready_tail = NO_INDEX
    states_fill(w.states)
    sessions_init(&w.sessions)
    w.now_ns = clock_now_ns()
    w.now_ms = w.now_ns // 1000000
    timers_init(&w.timers, w.now_ms)
    w.scratch = <uint8_t *>malloc(SCRATCH_BYTES)
    w.events = <epoll_event *>malloc(EPOLL_BATCH_UDP * sizeof(epoll_event))
    w.inboxes = <inbox_t *>calloc(plane.worker_count, sizeof(inbox_t))
    if w.scratch == NULL or w.events == NULL or w.inboxes == NULL:
        return -ENOMEM
    for i in range(plane.worker_count):
        w.inboxes[i].arrivals = <arrival_t *>calloc(INBOX_SIZE, sizeof(arrival_t))
        if w.inboxes[i].arrivals == NULL:
            return -ENOMEM
    w.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    if w.epoll_fd < 0:
        return -errno
    w.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    if w.event_fd < 0:
        return -errno
    return poller_control(w, EPOLL_CTL_ADD, w.event_fd, EPOLLIN, EVENT_TAG)


cdef inline void worker_release(worker_t *w) noexcept nogil:
    """Give all file descriptors back, after every worker has stopped. Counters can still be read."""
    inboxes_drop(w)
    moving_drop(w)
    udp_close(w)
    pipes_free(&w.pipes)
    chunks_free(&w.chunks)
    if w.epoll_fd >= 0:
        close(w.epoll_fd)
    if w.event_fd >= 0:
        close(w.event_fd)
    w.epoll_fd = w.event_fd = -1


cdef inline void worker_close(worker_t *w) noexcept nogil:
    """After `worker_run` has returned, or if it never ran."""
    cdef uint32_t i
    if w.inboxes != NULL:
        worker_release(w)
    sessions_free(&w.sessions)
    free(w.accepting)
    free(w.records.slots)
    if w.inboxes != NULL:
        for i in range(w.plane.worker_count):
            free(w.inboxes[i].arrivals)
    free(w.inboxes)
    free(w.scratch)
    free(w.events)


# ---- snapshots ----

cdef inline listening_t *listening_find(listening_list_t *sockets, int fd, uint32_t hint) noexcept nogil:
    """NULL when it is not among them. `hint` is where it probably is: lists change little from snapshot to snapshot."""
    cdef uint32_t i, at
    for i in range(sockets.count):
        at = (hint + i) % sockets.count
        if sockets.entries[at].fd == fd:
            return &sockets.entries[at]
    return NULL


cdef inline bint worker_watches(worker_t *w, accepting_t *from_) noexcept nogil:
    """Whether a listening socket is in epoll now."""
    return not w.udp_held if from_.datagrams else not w.accept_paused


cdef inline void worker_leave_listeners(worker_t *w, snapshot_t *next_one) noexcept nogil:
    """Stop accepting on sockets that `next_one` no longer names, after serving what waits in their queues (not that of
    a held one: it waits for another process)."""
    cdef uint32_t i = 0
    while i < w.accepting_count:
        if listening_find(&next_one.listening[w.index], w.accepting[i].fd, i) != NULL:
            i += 1
            continue
        if worker_watches(w, &w.accepting[i]):
            poller_forget(w, w.accepting[i].fd)
        if w.accepting[i].datagrams:
            if not w.udp_held:
                udp_event(w, &w.accepting[i])
            flows_end_of(w, w.accepting[i].fd)
            udp_flush(w)
        else:
            accept_all(w, &w.accepting[i])
        w.accepting_count -= 1
        w.accepting[i] = w.accepting[w.accepting_count]
        if i < w.accepting_count and worker_watches(w, &w.accepting[i]):       # it moved: its tag must follow
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
    entry.deaf = False
    entry.wide = socket.wide
    entry.listener = socket.listener
    if socket.datagrams and udp_open(w) < 0:
        return -1
    if worker_watches(w, entry):
        poller_watch_listener(w, entry, w.accepting_count)
    w.accepting_count += 1
    return 0


cdef inline void worker_join_listeners(worker_t *w, snapshot_t *snapshot) noexcept nogil:
    """Point what is accepted already at its new terms, and begin to accept on what is new."""
    cdef listening_list_t *sockets = &snapshot.listening[w.index]
    cdef uint32_t i
    for i in range(w.accepting_count):
        w.accepting[i].listener = listening_find(sockets, w.accepting[i].fd, i).listener
    for i in range(sockets.count):
        if not worker_accepts_on(w, sockets.entries[i].fd, i) and worker_accept_on(w, &sockets.entries[i]) < 0:
            worker_missed(w)


cdef inline void worker_hear_again(worker_t *w) noexcept nogil:
    """Serve the listening sockets that could not be served before."""
    w.deaf = False
    poller_watch_missed(w)
    worker_join_listeners(w, w.snapshot)


cdef inline void worker_adopt(worker_t *w) noexcept nogil:
    """Move to the published snapshot. Storing its version tells control that the old one is not read here any more."""
    cdef snapshot_t *published = <snapshot_t *>published_load_pointer(&w.plane.snapshot)
    if published == NULL or published == w.snapshot:
        return
    if w.snapshot != NULL:
        worker_leave_listeners(w, published)
    w.snapshot = published
    worker_join_listeners(w, published)
    w.queue_poked = True
    published_store_u64(&w.seen_version, published.version)


# ---- a turn ----

cdef inline void worker_read_clock(worker_t *w) noexcept nogil:
    w.now_ns = clock_now_ns()
    w.now_ms = w.now_ns // 1000000


cdef inline int worker_timeout_ms(worker_t *w) noexcept nogil:
    """How long epoll_wait may sleep."""
    cdef int64_t due
    if w.ready_count or w.eviction.running or w.sweeping.sweep != NULL:
        return 0
    due = timers_next_ms(&w.timers, w.now_ms)
    if (w.accept_paused or w.deaf) and (due < 0 or due > 10):
        due = 10
    if w.udp != NULL and w.udp.links.spare_count and (due < 0 or due > 1000):
        due = 1000
    return <int>due if due < 1000000000 else 1000000000


cdef inline int worker_spin(worker_t *w, int capacity, uint64_t since_ns) noexcept nogil:
    """Ask again and again for busy_poll before sleeping: latency for CPU. Returns the number of events, 0 if none."""
    cdef int count = 0
    while count == 0 and clock_now_ns() - since_ns < w.busy_poll_ns:
        count = epoll_wait(w.epoll_fd, w.events, capacity, 0)
    return count


cdef inline void worker_awake(worker_t *w, int count) noexcept nogil:
    """Before anything is looked at for which somebody may have woken it: who changes that later wakes it again."""
    cdef uint64_t ignored
    cdef int i
    for i in range(count):
        if w.events[i].data.u64 == EVENT_TAG:
            read(w.event_fd, &ignored, sizeof(ignored))


cdef inline int worker_wait(worker_t *w) noexcept nogil:
    """epoll_wait(2): EINTR is an empty turn; no other error can come from a good epoll fd. Counts the time awake."""
    cdef uint64_t slept_ns = clock_now_ns()
    cdef int timeout_ms = worker_timeout_ms(w)
    cdef int capacity = EPOLL_BATCH if w.udp == NULL else EPOLL_BATCH_UDP
    cdef int count = 0
    w.poll_began_ms = <uint32_t>(slept_ns // 1000000)
    counter_add(&w.counters.busy_ns, slept_ns - w.now_ns)
    counter_add(&w.counters.turns, 1)
    if w.busy_poll_ns and timeout_ms:
        count = worker_spin(w, capacity, slept_ns)
    if count == 0:
        count = epoll_wait(w.epoll_fd, w.events, capacity, timeout_ms)
    w.backlogged = count == capacity
    worker_read_clock(w)
    worker_awake(w, count)
    return count


cdef inline void worker_event(worker_t *w, epoll_event *event) noexcept nogil:
    """Find whom an event is for. A session that ended earlier in this turn no longer matches its tag."""
    cdef uint64_t tag = event.data.u64
    cdef session_t *s
    if tag >> 32:
        s = sessions_at(&w.sessions, <uint32_t>tag >> 1)
        if s.generation == <uint32_t>(tag >> 32) and s.state != SESSION_FREE:
            w.states[s.state].edge(w, s, <side_t>(tag & 1), event.events)
    elif tag == EVENT_TAG:
        w.queue_poked = True
        inboxes_take(w)
    elif tag & LINK_TAG_BIT:
        link_event(w, <uint32_t>tag & ~<uint32_t>LINK_TAG_BIT)
    elif tag - LISTENER_TAG_BASE < w.accepting_count and not w.accepting[tag - LISTENER_TAG_BASE].datagrams:
        accept_event(w, &w.accepting[tag - LISTENER_TAG_BASE])


cdef inline void worker_handled(worker_t *w, int count) noexcept nogil:
    """All events of an epoll_wait but those of UDP listeners were handled. Unless it was interrupted, or had more than
    it could tell, everything is seen to that had come when it was called: see links.pxd."""
    if count >= 0 and not w.backlogged:
        w.handled_ms = w.poll_began_ms


cdef inline void worker_udp_event(worker_t *w, epoll_event *event) noexcept nogil:
    """Those of UDP listeners, when all others have been handled: see links.pxd."""
    cdef uint64_t position = event.data.u64 - LISTENER_TAG_BASE
    if position < w.accepting_count and w.accepting[position].datagrams:
        udp_event(w, &w.accepting[position])


cdef inline void worker_run_ready(worker_t *w) noexcept nogil:
    """One turn for each session that waited when this began."""
    cdef uint32_t count = w.ready_count
    cdef session_t *s
    while count and w.ready_count:
        s = sessions_at(&w.sessions, w.ready_head)
        ready_remove(w, s)
        w.states[s.state].turn(w, s)
        count -= 1


cdef inline void worker_run_timers(worker_t *w) noexcept nogil:
    cdef uint32_t index = timers_pop(&w.timers, &w.sessions, w.now_ms)
    cdef session_t *s
    while index != NO_INDEX:
        s = sessions_at(&w.sessions, index)
        w.states[s.state].timeout(w, s)
        index = timers_pop(&w.timers, &w.sessions, w.now_ms)
    if w.accept_paused and <int>(<uint32_t>w.now_ms - w.paused_until_ms) >= 0:
        accept_resume(w)
    if w.deaf and <int>(<uint32_t>w.now_ms - w.deaf_until_ms) >= 0:
        worker_hear_again(w)
    if w.udp != NULL:
        links_sweep(w)


cdef inline void worker_end_sessions(worker_t *w) noexcept nogil:
    cdef uint32_t i
    cdef session_t *s
    for i in range(w.sessions.block_count * SESSIONS_PER_BLOCK):
        s = sessions_at(&w.sessions, i)
        if s.state != SESSION_FREE:
            session_end(w, s, CLOSE_SHUTDOWN)


cdef inline void worker_run(worker_t *w) noexcept nogil:
    cdef int count, i
    while not published_load_u32(&w.stopping):
        count = worker_wait(w)
        departures(w)
        worker_adopt(w)
        arrivals(w)
        for i in range(count):
            worker_event(w, &w.events[i])
        worker_handled(w, count)
        if w.udp != NULL and not w.udp_held:
            for i in range(count):
                worker_udp_event(w, &w.events[i])
        worker_run_ready(w)
        udp_flush(w)
        worker_run_timers(w)
        evictions(w)
        sweeps(w)
        if w.queue_poked:
            queues_serve(w)
    worker_end_sessions(w)
