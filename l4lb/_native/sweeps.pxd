# A pass over the sessions, as the workers' module sees it: see `_native/sweeps.pyx`.

from libc.stdint cimport uint32_t

from l4lb._dataplane.base.worker_types cimport plane_t, sweep_t


cdef class Sweep:
    cdef sweep_t sweep
    cdef uint32_t worker_count
    cdef bint begun

    cdef int begin(self, plane_t *plane, Sweep before) except -1
    cdef int fill_filter(self, object wanted) except -1
