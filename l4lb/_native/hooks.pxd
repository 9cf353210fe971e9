# Asks and answers about sessions whose listener has a hook, as the workers' module sees them: see `_native/hooks.pyx`.

from libc.stdint cimport uint64_t

from l4lb._dataplane.base.worker_types cimport plane_t, worker_t


cdef class Hooks:
    cdef plane_t *plane

    @staticmethod
    cdef Hooks of(plane_t *plane)
    cdef int open_rings(self, worker_t *w) except -1
    cdef int take_from(self, worker_t *w, uint64_t limit, list taken) except -1
