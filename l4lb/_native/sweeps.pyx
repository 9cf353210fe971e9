# Passes over the sessions for control: what is asked of the workers, and what they found. What they do is in
# `_dataplane/passes/sweep.pxd`.
#
# Used by `l4lb.engine` alone, on the control thread.
"""Native sweeps; see `l4lb.engine.sessions` for the interface to use."""

from cython cimport final
from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from l4lb._dataplane.base.enums cimport NO_INDEX
from l4lb._dataplane.base.linux cimport htons, ntohs, published_load_u32
from l4lb._dataplane.base.worker_types cimport found_t, plane_t, sweep_part_t
from l4lb._dataplane.passes.sweep cimport sweep_publish
from l4lb._native.convert cimport address_bytes, indices_copy, zeroed

from l4lb._native.reports import FoundSession


@final
cdef class Sweep:
    """One pass over all sessions of `worker_count` workers, begun by `DataPlane.begin_sweep`.

    `wanted` is a `specs.Filter`. At most `limit` are told of by each worker; with `reason` of 0 or more all that are
    taken end for that close reason.
    """

    def __cinit__(self, uint32_t worker_count, wanted not None, uint32_t limit, int reason=-1):
        cdef uint32_t i
        self.sweep.parts = <sweep_part_t *>zeroed(worker_count, sizeof(sweep_part_t))
        self.worker_count = worker_count
        for i in range(worker_count):
            self.sweep.parts[i].found = <found_t *>zeroed(limit, sizeof(found_t))
        self.sweep.limit = limit
        self.sweep.ends = reason >= 0
        self.sweep.reason = max(reason, 0)
        self.fill_filter(wanted)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.worker_count):
            free(self.sweep.parts[i].found)
        free(self.sweep.parts)
        free(self.sweep.wanted.backend_ids)

    cdef int fill_filter(self, object wanted) except -1:
        cdef bytes source = wanted.source
        self.sweep.wanted.source_bits = wanted.source_bits
        if len(source) not in (0, 4, 16) or self.sweep.wanted.source_bits > 8 * len(source):
            raise ValueError("a source has 4 or 16 bytes, and no more bits than those")
        memcpy(self.sweep.wanted.source, <const char *>source, len(source))
        self.sweep.wanted.source_length = len(source)
        self.sweep.wanted.source_port = htons(wanted.source_port)
        self.sweep.wanted.source_scope = wanted.source_scope
        self.sweep.wanted.session_id = wanted.session_id
        self.sweep.wanted.tagged = wanted.tagged
        self.sweep.wanted.listener_id = wanted.listener_id
        self.sweep.wanted.pool_slot = <uint32_t>NO_INDEX if wanted.pool_slot is None else wanted.pool_slot
        if wanted.backend_ids is not None:
            self.sweep.wanted.backend_ids = indices_copy(wanted.backend_ids)
            self.sweep.wanted.backend_count = len(wanted.backend_ids)
        return 0

    cdef int begin(self, plane_t *plane, Sweep before) except -1:
        if self.begun or self.worker_count != plane.worker_count:
            raise RuntimeError("a sweep is for its own workers, and once")
        if before is not None and not before.over():
            raise RuntimeError("a sweep is under way")
        self.begun = True
        sweep_publish(plane, &self.sweep)
        return 0

    def over(self):
        """Whether every worker is done with it: only then the rest may be asked for."""
        cdef uint32_t i
        for i in range(self.worker_count):
            if not published_load_u32(&self.sweep.parts[i].done):
                return False
        return True

    def matched(self):
        """How many were taken, told of or not."""
        return sum(self.sweep.parts[i].matched for i in range(self.worker_count))

    def take_found(self):
        """Those that are told of, once."""
        cdef uint32_t i, j
        cdef found_t *one
        told = []
        for i in range(self.worker_count):
            for j in range(self.sweep.parts[i].found_count):
                one = &self.sweep.parts[i].found[j]
                told.append(FoundSession(
                    session_id=one.session_id,
                    listener_id=one.listener_id,
                    pool_slot=one.pool_slot,
                    backend_id=one.backend_id,
                    client=address_bytes(&one.source),
                    client_port=ntohs(one.source.port),
                    local=address_bytes(&one.local),
                    local_port=ntohs(one.local.port),
                    state=one.state,
                    started_ns=one.started_ns,
                    idle_ms=one.idle_ms,
                    bytes_up=one.bytes_up,
                    bytes_down=one.bytes_down,
                    tagged=one.tagged != 0,
                ))
            free(self.sweep.parts[i].found)                         # it may be large, and is kept until the next sweep
            self.sweep.parts[i].found = NULL
            self.sweep.parts[i].found_count = 0
        return told
