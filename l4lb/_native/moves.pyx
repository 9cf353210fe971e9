# Sessions of UDP on their way between processes, from plain values to the workers (`_native/convert.pxd` has the way
# there). What workers do is in `_dataplane/udp/migration.pxd`.
#
# Used by `l4lb.engine` alone, on the control thread.
"""Native moves; see `l4lb.engine.moving` for the interface to use."""

from cython cimport final
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from l4lb._dataplane.base.linux cimport close
from l4lb._dataplane.base.worker_types cimport arrivals_t, arriving_t
from l4lb._native.convert cimport moved_fill, terms_fill, zeroed
from l4lb._native.snapshots cimport BackendLive, ListenerLive, PoolLive


@final
cdef class Arrivals:
    """Sessions for one worker. Those that are not given to it are closed with this."""

    def __cinit__(self):
        self.arrivals = <arrivals_t *>zeroed(1, sizeof(arrivals_t))

    def __dealloc__(self):
        cdef uint32_t i
        if self.arrivals == NULL:
            return
        for i in range(self.arrivals.count):
            close(self.arrivals.entries[i].moved.link_fd)
        free(self.arrivals.entries)
        free(self.arrivals)

    def add(
        self, ListenerLive listener, PoolLive pool, BackendLive backend, dict terms, int fd, int link_fd, dict fields
    ):
        """One with what it belongs to here. `terms`: of the listener, and `measured`. Owns `link_fd` once it returns;
        raises for fields that are none."""
        cdef arriving_t *entries
        cdef arriving_t *entry
        entries = <arriving_t *>realloc(self.arrivals.entries, (self.arrivals.count + 1) * sizeof(arriving_t))
        if entries == NULL:
            raise MemoryError()
        self.arrivals.entries = entries
        entry = &entries[self.arrivals.count]
        memset(entry, 0, sizeof(arriving_t))
        moved_fill(&entry.moved, fields)
        entry.moved.flow.fd = fd
        entry.moved.link_fd = link_fd
        entry.arrival.fd = -1
        entry.arrival.local_port = entry.moved.local_port
        entry.arrival.listener = &listener.live
        entry.arrival.pool = &pool.live
        terms_fill(&entry.arrival.terms, terms)
        entry.backend = &backend.live
        entry.measured = terms["measured"]
        self.arrivals.count += 1

    cdef arrivals_t *give(self):
        cdef arrivals_t *given = self.arrivals
        self.arrivals = NULL
        return given
