# Sessions of TCP on their way between processes, as the workers' module sees them: see `_native/tcp_migration.pyx`.

from cpython.array cimport array
from libc.stdint cimport uint32_t, uint64_t

from l4lb._dataplane.base.migration_types cimport (
    arrival_t, arrivals_t, exported_session_t, imported_session_t, imported_sessions_t,
)
from l4lb._dataplane.base.worker_types cimport plane_t
from l4lb._native.convert cimport numbered_t

cdef struct part_t:               # of a message: one session
    const exported_session_t *said
    const int *fds
    arrival_t *arrival            # NULL: its sockets come with it
    uint32_t worker


cdef class Arrivals:
    cdef readonly uint32_t count
    cdef uint32_t worker_count
    cdef bint given
    cdef arrivals_t *batches
    cdef arrival_t **by_id
    cdef uint32_t known

    cdef arrival_t *grow(self, uint32_t worker) except NULL
    cdef int index(self) except -1
    cdef arrival_t *find(self, uint64_t id) noexcept


cdef class TcpImports:
    cdef readonly uint32_t count
    cdef uint32_t worker_count
    cdef part_t *parts
    cdef imported_sessions_t **batches
    cdef numbered_t listeners
    cdef numbered_t pools
    cdef numbered_t backends
    cdef list kept

    cdef int find_parts(self, bytes state, array fds) except -1
    cdef int assign_parts(self, Arrivals arrivals) except -1
    cdef int fill_batch(self, uint32_t worker) except -1
    cdef int fill_entry(self, imported_session_t *entry, exported_session_t *said, const part_t *part) except -1
    cdef int fill_numbers(self, dict listeners, dict pools, dict backends) except -1
    cdef int name_tried(self, exported_session_t *said) noexcept
    cdef void reserve(self, plane_t *plane) noexcept
    cdef imported_sessions_t *give(self, uint32_t worker) noexcept


cdef class TcpMoves:
    cdef plane_t *plane
    cdef Arrivals arrivals

    @staticmethod
    cdef TcpMoves of(plane_t *plane)

    cdef bint all_reached(self, size_t offset, uint64_t version) noexcept
    cdef void wake(self) noexcept
