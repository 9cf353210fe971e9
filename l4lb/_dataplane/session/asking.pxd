# Asking: what a worker and control say to each other about sessions whose listener has a hook. Two rings for each
# worker: asks go to control, answers come back. Workers never wait for either: a full ring of asks is for the caller to
# decide about, an answer that is not taken in time is none. tcp/opening.pxd has the sessions' side of it.
#
# The reader of asks sleeps on `plane_t.hook_fd` while all rings are empty, a worker on its own eventfd. No wake-up is
# lost, see session/records.pxd.

from libc.stdint cimport int64_t, uint64_t, uint8_t
from libc.string cimport memcpy

from l4lb._dataplane.base.enums cimport ANSWER_SLOTS, ASK_SLOTS
from l4lb._dataplane.base.linux cimport published_load_u64, shared_read, shared_store, write
from l4lb._dataplane.base.types cimport preface_t, session_t
from l4lb._dataplane.base.worker_types cimport answer_t, answers_t, ask_t, asks_t, worker_t
from l4lb._dataplane.resources.poller cimport worker_wake
from l4lb._dataplane.session.records cimport session_local

# ---- on the worker's thread ----

cdef inline void ask_sni(ask_t *ask, const preface_t *preface) noexcept nogil:
    """As in a record."""
    ask.sni_length = 0
    if preface != NULL:
        ask.sni_length = preface.authority_length
        memcpy(ask.sni, <const uint8_t *>preface + sizeof(preface_t) + preface.received_length, ask.sni_length)


cdef inline void ask_fill(ask_t *ask, session_t *s) noexcept nogil:
    ask.session_id = s.id
    ask.index = s.index
    ask.generation = s.generation
    ask.listener_id = s.listener.id
    ask.pool_slot = s.pool.slot
    ask.source = s.source
    session_local(s, &ask.local)
    ask_sni(ask, s.preface)


cdef inline bint ask_send(worker_t *w, session_t *s) noexcept nogil:
    """False when the ring is full, or there is none. write(2): EAGAIN, the reader is awake."""
    cdef asks_t *ring = &w.asks
    cdef uint64_t one = 1
    if ring.slots == NULL or ring.written - published_load_u64(&ring.read) >= ASK_SLOTS:
        return False
    ask_fill(&ring.slots[ring.written % ASK_SLOTS], s)
    shared_store(<int64_t *>&ring.written, <int64_t>(ring.written + 1))
    if <uint64_t>shared_read(<int64_t *>&ring.read) + 1 == ring.written:
        write(w.plane.hook_fd, &one, sizeof(one))
    return True


cdef inline bint answer_take(worker_t *w, answer_t *answer) noexcept nogil:
    """The next one, copied: what it leads to may take long. False: there is none."""
    cdef answers_t *ring = &w.answers
    if ring.read == <uint64_t>shared_read(<int64_t *>&ring.written):
        return False
    answer[0] = ring.slots[ring.read % ANSWER_SLOTS]
    shared_store(<int64_t *>&ring.read, <int64_t>(ring.read + 1))
    return True


# ---- on control's, one thread at a time ----

cdef inline bint answer_send(worker_t *w, const answer_t *answer) noexcept nogil:
    """False when the ring is full."""
    cdef answers_t *ring = &w.answers
    if ring.slots == NULL or ring.written - published_load_u64(&ring.read) >= ANSWER_SLOTS:
        return False
    ring.slots[ring.written % ANSWER_SLOTS] = answer[0]
    shared_store(<int64_t *>&ring.written, <int64_t>(ring.written + 1))
    if <uint64_t>shared_read(<int64_t *>&ring.read) + 1 == ring.written:
        worker_wake(w)
    return True
