# Asks and answers about sessions whose listener has a hook. Used by `l4lb.engine` alone: `open` and `close` on the
# control thread, `take` and `answer` on one other thread at a time each. The rings: `_dataplane/session/asking.pxd`.
"""Native side of hooks; see `l4lb.engine.hooks` for the interface to use."""

import os

from cython cimport final
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from l4lb._dataplane.base.enums cimport ANSWER_SLOTS, ASK_SLOTS
from l4lb._dataplane.base.linux cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, close, counter_read, eventfd, ntohs, read, shared_read, shared_store,
)
from l4lb._dataplane.base.worker_types cimport answer_t, ask_t, asks_t, plane_t, worker_t
from l4lb._dataplane.session.asking cimport answer_send
from l4lb._native.convert cimport address_bytes, zeroed

ASKS_MAX = <int>ASK_SLOTS                                   # of one worker, that wait to be taken
ANSWERS_MAX = <int>ANSWER_SLOTS


@final
cdef class Ask:
    """A session whose listener's hook is to be asked: see `ask_t`. Addresses as `address_bytes` has them, empty for a
    unix socket."""

    cdef readonly uint32_t worker
    cdef readonly uint32_t index
    cdef readonly uint32_t generation
    cdef readonly uint64_t session_id
    cdef readonly uint32_t listener_id
    cdef readonly uint32_t pool_slot
    cdef readonly bytes client
    cdef readonly uint16_t client_port
    cdef readonly bytes local
    cdef readonly uint16_t local_port
    cdef readonly bytes sni


cdef Ask ask_of(worker_t *w, ask_t *asked):
    cdef Ask ask = Ask.__new__(Ask)
    ask.worker = w.index
    ask.index = asked.index
    ask.generation = asked.generation
    ask.session_id = asked.session_id
    ask.listener_id = asked.listener_id
    ask.pool_slot = asked.pool_slot
    ask.client = address_bytes(&asked.source)
    ask.client_port = ntohs(asked.source.port)
    ask.local = address_bytes(&asked.local)
    ask.local_port = ntohs(asked.local.port)
    ask.sni = (<char *>asked.sni)[:asked.sni_length]
    return ask


@final
cdef class Hooks:
    """The rings of a data plane, which outlives this."""

    @staticmethod
    cdef Hooks of(plane_t *plane):
        cdef Hooks self = Hooks.__new__(Hooks)
        self.plane = plane
        return self

    @property
    def fd(self):
        """An eventfd that is readable when there are asks again after all were taken; -1 before `open`."""
        return self.plane.hook_fd

    def open(self):
        """Before any listener has a hook. OSError, MemoryError."""
        cdef uint32_t i
        for i in range(self.plane.worker_count):
            self.open_rings(self.plane.workers[i])
        if self.plane.hook_fd < 0:
            self.plane.hook_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
            if self.plane.hook_fd < 0:
                raise OSError(errno, os.strerror(errno))

    cdef int open_rings(self, worker_t *w) except -1:
        if w.answers.slots == NULL:
            w.answers.slots = <answer_t *>zeroed(ANSWER_SLOTS, sizeof(answer_t))
        if w.asks.slots == NULL:
            w.asks.slots = <ask_t *>zeroed(ASK_SLOTS, sizeof(ask_t))
        return 0

    def close(self):
        """After the workers have stopped."""
        if self.plane.hook_fd >= 0:
            close(self.plane.hook_fd)
        self.plane.hook_fd = -1

    def take(self, uint64_t limit):
        """At most `limit` of each worker's, as `Ask`, the oldest first."""
        cdef uint64_t ignored
        cdef uint32_t i
        taken = []
        read(self.plane.hook_fd, &ignored, sizeof(ignored))         # EAGAIN: nothing since
        for i in range(self.plane.worker_count):
            self.take_from(self.plane.workers[i], limit, taken)
        return taken

    cdef int take_from(self, worker_t *w, uint64_t limit, list taken) except -1:
        """What is left when a limit is reached announces itself no more: the caller asks until there are none."""
        cdef asks_t *ring = &w.asks
        cdef uint64_t written, at
        if ring.slots == NULL:
            return 0
        written = <uint64_t>shared_read(<int64_t *>&ring.written)
        for at in range(ring.read, written if written - ring.read < limit else ring.read + limit):
            taken.append(ask_of(w, &ring.slots[at % ASK_SLOTS]))
            shared_store(<int64_t *>&ring.read, <int64_t>(at + 1))
        return 0

    def answer(self, Ask ask not None, int result, uint32_t target, bint tagged):
        """`result`: a hook_result_t; `target`: the slot or id that goes with it; `tagged`: control has tags for the
        session. False when the worker's ring is full: then the session waits for its deadline."""
        cdef answer_t answer
        memset(&answer, 0, sizeof(answer))
        answer.session_id = ask.session_id
        answer.index = ask.index
        answer.generation = ask.generation
        answer.target = target
        answer.result = <unsigned char>result
        answer.tagged = tagged
        return bool(answer_send(self.plane.workers[ask.worker], &answer))

    def dropped(self):
        """How many answers came when their session had gone on without its hook, or was gone."""
        cdef uint32_t i
        return sum([counter_read(&self.plane.workers[i].answers.dropped) for i in range(self.plane.worker_count)])
