# What a process has counted, as the workers' module sees it: see `_native/counted.pyx`.

from l4lb._dataplane.base.worker_types cimport plane_t


cdef class Counts:
    cdef plane_t *plane

    @staticmethod
    cdef Counts of(plane_t *plane)
