# Sessions of UDP on their way between processes, as the workers' module sees them: see `_native/moves.pyx`.

from l4lb._dataplane.base.worker_types cimport arrivals_t


cdef class Arrivals:
    cdef arrivals_t *arrivals

    cdef arrivals_t *give(self)
