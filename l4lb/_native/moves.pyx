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
from l4lb._dataplane.base.worker_types cimport import_batch_t, imported_flow_t
from l4lb._native.convert cimport moved_fill, terms_fill, zeroed
from l4lb._native.snapshots cimport BackendLive, ListenerLive, PoolLive


@final
cdef class Arrivals:
    """Sessions for one worker. Those that are not given to it are closed with this."""

    def __cinit__(self):
        self.batch = <import_batch_t *>zeroed(1, sizeof(import_batch_t))

    def __dealloc__(self):
        cdef uint32_t i
        if self.batch == NULL:
            return
        for i in range(self.batch.count):
            close(self.batch.entries[i].exported.link_fd)
        free(self.batch.entries)
        free(self.batch)

    def add(
        self, ListenerLive listener, PoolLive pool, BackendLive backend, dict terms, int fd, int link_fd, dict fields
    ):
        """One with what it belongs to here. `terms`: of the listener, and `measured`. Owns `link_fd` once it returns;
        raises for fields that are none."""
        cdef imported_flow_t *entries
        cdef imported_flow_t *entry
        entries = <imported_flow_t *>realloc(self.batch.entries, (self.batch.count + 1) * sizeof(imported_flow_t))
        if entries == NULL:
            raise MemoryError()
        self.batch.entries = entries
        entry = &entries[self.batch.count]
        memset(entry, 0, sizeof(imported_flow_t))
        moved_fill(&entry.exported, fields)
        entry.exported.flow.fd = fd
        entry.exported.link_fd = link_fd
        entry.client.fd = -1
        entry.client.local_port = entry.exported.local_port
        entry.client.listener = &listener.live
        entry.client.pool = &pool.live
        terms_fill(&entry.client.terms, terms)
        entry.backend = &backend.live
        entry.measured = terms["measured"]
        self.batch.count += 1

    cdef import_batch_t *give(self):
        cdef import_batch_t *given = self.batch
        self.batch = NULL
        return given
