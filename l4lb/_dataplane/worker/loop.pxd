# Worker: the event loop. One native thread for its whole life, one epoll, its own sessions; nothing here allocates a
# Python object, logs or takes a lock. `_fastpath.pyx` calls `worker_run` once, outside the GIL; it returns when control
# sets `stopping` and writes the eventfd.
#
# A turn: wait, adopt the newest snapshot, accept and relay what the events report, give the ready sessions their turn,
# run the due timers.

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc

from l4lb._dataplane.base.enums cimport (
    CLOSE_SHUTDOWN, EPOLL_BATCH, EPOLL_BATCH_UDP, INBOX_SIZE, NO_INDEX, SCRATCH_BYTES, SESSIONS_PER_BLOCK,
    SESSION_FREE, side_t,
)
from l4lb._dataplane.base.linux cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, ENOMEM, EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, clock_now_ns, close, counter_add,
    epoll_create1, epoll_event, epoll_wait, eventfd, published_load_u32, read, unlikely,
)
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.worker_types cimport accepted_client_t, inbox_t, plane_t, worker_t
from l4lb._dataplane.passes.evict cimport evictions
from l4lb._dataplane.passes.sweep cimport sweeps
from l4lb._dataplane.resources.chunks cimport chunks_free
from l4lb._dataplane.resources.pipes cimport pipes_free
from l4lb._dataplane.resources.poller cimport EVENT_TAG, LINK_TAG_BIT, LISTENER_TAG_BASE, poller_control
from l4lb._dataplane.resources.ready cimport ready_remove
from l4lb._dataplane.resources.sessions cimport list_init, session_is_here, sessions_at, sessions_free, sessions_init
from l4lb._dataplane.resources.timers cimport timers_init, timers_next_ms, timers_pop
from l4lb._dataplane.session.closing cimport session_end
from l4lb._dataplane.tcp.accept cimport accept_event, accept_resume
from l4lb._dataplane.tcp.exporting cimport clients_hold, exports_free, freeze_is_asked, sessions_freeze
from l4lb._dataplane.tcp.importing cimport imports_drop, sessions_import
from l4lb._dataplane.tcp.inboxes cimport inboxes_drop, inboxes_take
from l4lb._dataplane.tcp.opening cimport answers_take
from l4lb._dataplane.tcp.precopy cimport arrivals_drop, arrivals_take, precopies
from l4lb._dataplane.tcp.transitions cimport queues_serve
from l4lb._dataplane.udp.answers cimport udp_flush
from l4lb._dataplane.udp.events cimport link_event, udp_event
from l4lb._dataplane.udp.links cimport links_sweep
from l4lb._dataplane.udp.migration cimport flows_export, flows_import, migration_drop
from l4lb._dataplane.udp.plane cimport udp_close
from l4lb._dataplane.udp.waiting cimport WAITING_MAX, waitings_expire
from l4lb._dataplane.worker.listening cimport worker_adopt, worker_retry_listening
from l4lb._dataplane.worker.states cimport states_fill

# ---- birth and death (control's thread) ----

cdef inline int worker_open(worker_t *w, plane_t *plane, uint32_t index) noexcept nogil:
    """0 or -errno. epoll_create1(2), eventfd(2): EMFILE, ENFILE, ENOMEM. `worker_close` cleans up in either case."""
    cdef uint32_t i
    w.plane = plane
    w.index = index
    w.random = clock_now_ns() ^ <uint64_t>index << 56
    w.epoll_fd = w.event_fd = -1
    list_init(&w.ready)
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
        w.inboxes[i].clients = <accepted_client_t *>calloc(INBOX_SIZE, sizeof(accepted_client_t))
        if w.inboxes[i].clients == NULL:
            return -ENOMEM
    w.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    if w.epoll_fd < 0:
        return -errno
    w.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    if w.event_fd < 0:
        return -errno
    return poller_control(w, EPOLL_CTL_ADD, w.event_fd, EPOLLIN, EVENT_TAG)


cdef inline void worker_release(worker_t *w) noexcept nogil:
    """Close all file descriptors, after every worker has stopped. Counters can still be read."""
    inboxes_drop(w)
    exports_free(&w.exports)
    imports_drop(w)
    migration_drop(w)
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
    free(w.asks.slots)
    free(w.answers.slots)
    if w.inboxes != NULL:
        for i in range(w.plane.worker_count):
            free(w.inboxes[i].clients)
    free(w.inboxes)
    free(w.scratch)
    free(w.events)


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
    if w.precopying:
        due = 0 if due == 0 else 1                       # its socket may be full
    if (w.accept_paused or w.listening_short) and (due < 0 or due > 10):
        due = 10
    if w.udp != NULL and (w.udp.links.spare_count or w.udp.waiting_count) and (due < 0 or due > 1000):
        due = 1000
    return <int>due if due < 1000000000 else 1000000000


cdef inline int worker_spin(worker_t *w, int capacity, uint64_t since_ns) noexcept nogil:
    """Poll for busy_poll before sleeping: latency for CPU. Returns the number of events, 0 if none."""
    cdef int count = 0
    while count == 0 and clock_now_ns() - since_ns < w.busy_poll_ns:
        count = epoll_wait(w.epoll_fd, w.events, capacity, 0)
    return count


cdef inline void worker_clear_wakeups(worker_t *w, int count) noexcept nogil:
    """Before anything is checked that a wake-up may announce: whatever changes later wakes the worker again."""
    cdef uint64_t ignored
    cdef int i
    for i in range(count):
        if w.events[i].data.u64 == EVENT_TAG:
            read(w.event_fd, &ignored, sizeof(ignored))


cdef inline int worker_wait(worker_t *w) noexcept nogil:
    """epoll_wait(2): EINTR is an empty turn; a good epoll fd gives no other error. Counts the time awake."""
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
    worker_clear_wakeups(w, count)
    return count


cdef inline void worker_event(worker_t *w, epoll_event *event) noexcept nogil:
    """Find the receiver of an event. A session that ended earlier in this turn no longer matches its tag."""
    cdef uint64_t tag = event.data.u64
    cdef session_t *s
    if tag >> 32:
        s = sessions_at(&w.sessions, <uint32_t>tag >> 1)
        if s.generation == <uint32_t>(tag >> 32) and s.state != SESSION_FREE:
            w.states[s.state].edge(w, s, <side_t>(tag & 1), event.events)
    elif tag == EVENT_TAG:
        w.queue_poked = True
        inboxes_take(w)
        answers_take(w)
    elif tag & LINK_TAG_BIT:
        link_event(w, <uint32_t>tag & ~<uint32_t>LINK_TAG_BIT)
    elif tag - LISTENER_TAG_BASE < w.accepting_count and not w.accepting[tag - LISTENER_TAG_BASE].datagrams:
        accept_event(w, &w.accepting[tag - LISTENER_TAG_BASE])


cdef inline void worker_handled(worker_t *w, int count) noexcept nogil:
    """All events of an epoll_wait except those of UDP listeners were handled. Unless it was interrupted, or had more
    events than it could return, everything that had come when it was called is handled: see udp/links.pxd."""
    if count >= 0 and not w.backlogged:
        w.handled_ms = w.poll_began_ms


cdef inline void worker_udp_event(worker_t *w, epoll_event *event) noexcept nogil:
    """Events of UDP listeners, after all others were handled: see udp/links.pxd."""
    cdef uint64_t position = event.data.u64 - LISTENER_TAG_BASE
    if position < w.accepting_count and w.accepting[position].datagrams:
        udp_event(w, &w.accepting[position])


cdef inline void worker_run_ready(worker_t *w) noexcept nogil:
    """One turn for each session that was ready when this began."""
    cdef uint32_t count = w.ready_count
    cdef session_t *s
    while count and w.ready_count:
        s = sessions_at(&w.sessions, w.ready.head)
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
    if w.listening_short and <int>(<uint32_t>w.now_ms - w.retry_at_ms) >= 0:
        worker_retry_listening(w)
    if w.udp != NULL:
        links_sweep(w)
        waitings_expire(w, WAITING_MAX)


cdef inline void worker_end_sessions(worker_t *w) noexcept nogil:
    cdef uint32_t i
    cdef session_t *s
    for i in range(w.sessions.block_count * SESSIONS_PER_BLOCK):
        s = sessions_at(&w.sessions, i)
        if session_is_here(s):
            session_end(w, s, CLOSE_SHUTDOWN)
    arrivals_drop(w, False)
    if w.udp != NULL:
        waitings_expire(w, 0)


cdef inline void worker_run(worker_t *w) noexcept nogil:
    cdef int count, i
    worker_read_clock(w)                       # what was before is not its time
    while not published_load_u32(&w.stopping):
        count = worker_wait(w)
        flows_export(w)
        clients_hold(w)
        if unlikely(freeze_is_asked(w)):
            sessions_freeze(w)
        worker_adopt(w)
        flows_import(w)
        arrivals_take(w)
        sessions_import(w)
        for i in range(count):
            worker_event(w, &w.events[i])
            if unlikely(freeze_is_asked(w)):
                sessions_freeze(w)             # now: a turn may take long, and the sessions of other workers wait
        worker_handled(w, count)
        if w.udp != NULL and not w.udp_held:
            for i in range(count):
                worker_udp_event(w, &w.events[i])
        worker_run_ready(w)
        udp_flush(w)
        worker_run_timers(w)
        evictions(w)
        sweeps(w)
        precopies(w)
        if w.queue_poked:
            queues_serve(w)
    worker_end_sessions(w)
