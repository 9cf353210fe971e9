# Inboxes: clients that one worker accepts for another. One inbox for each pair of workers, which one writes and the
# other reads, so that neither waits. Called on the workers' threads; `inboxes_drop` on control's.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from l4lb._dataplane.admission.admission cimport hold_pool, hold_worker
from l4lb._dataplane.base.enums cimport CLOSE_SHUTDOWN, INBOX_SIZE
from l4lb._dataplane.base.linux cimport counter_add, published_load_u64, published_store_u64, shared_read
from l4lb._dataplane.base.worker_types cimport accepted_client_t, inbox_t, worker_t
from l4lb._dataplane.resources.poller cimport worker_wake
from l4lb._dataplane.tcp.opening cimport client_end, session_start


cdef inline worker_t *worker_for_next(worker_t *w) noexcept nogil:
    """The worker that should take the next client: this one, unless another has clearly less to do."""
    cdef worker_t *least = w
    cdef uint32_t i
    cdef int64_t count
    cdef int64_t own = shared_read(&w.assigned)
    cdef int64_t fewest = own
    for i in range(w.plane.worker_count):
        count = shared_read(&w.plane.workers[i].assigned)
        if count < fewest:
            fewest = count
            least = w.plane.workers[i]
    return least if own > fewest + fewest // 8 else w


cdef inline bint client_transfer(worker_t *w, worker_t *to, accepted_client_t *client) noexcept nogil:
    """Put the client into the other worker's inbox; False when that is full. `wake_receivers` wakes it after the
    accepts."""
    cdef inbox_t *inbox = &to.inboxes[w.index]
    cdef uint64_t written = inbox.written
    if written - published_load_u64(&inbox.read) >= INBOX_SIZE:
        return False
    hold_worker(to, &client.held)
    hold_pool(client.pool, &client.held)
    inbox.clients[written % INBOX_SIZE] = client[0]
    published_store_u64(&inbox.written, written + 1)
    counter_add(&w.counters.transferred, 1)
    w.wake_mask |= <uint64_t>1 << (to.index % 64)
    return True


cdef inline void wake_receivers(worker_t *w) noexcept nogil:
    cdef uint32_t i
    if w.wake_mask == 0:
        return
    for i in range(w.plane.worker_count):
        if w.wake_mask >> (i % 64) & 1:
            worker_wake(w.plane.workers[i])
    w.wake_mask = 0


cdef inline void inboxes_take(worker_t *w) noexcept nogil:
    """Start the sessions that other workers accepted for this one."""
    cdef inbox_t *inbox
    cdef uint32_t i
    for i in range(w.plane.worker_count):
        inbox = &w.inboxes[i]
        while inbox.read != published_load_u64(&inbox.written):
            session_start(w, &inbox.clients[inbox.read % INBOX_SIZE])
            published_store_u64(&inbox.read, inbox.read + 1)


cdef inline void inboxes_drop(worker_t *w) noexcept nogil:
    """Control's thread, when all workers have stopped: clients that were transferred and never taken."""
    cdef inbox_t *inbox
    cdef accepted_client_t *client
    cdef uint32_t i
    for i in range(w.plane.worker_count):
        inbox = &w.inboxes[i]
        while inbox.read != inbox.written:
            client = &inbox.clients[inbox.read % INBOX_SIZE]
            client_end(w, client, CLOSE_SHUTDOWN, True)
            inbox.read += 1
