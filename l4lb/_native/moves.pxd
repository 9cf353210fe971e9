# Sessions of UDP on their way between processes, as the workers' module sees them: see `_native/moves.pyx`.

from l4lb._dataplane.base.worker_types cimport import_batch_t


cdef class Arrivals:
    cdef import_batch_t *batch

    cdef import_batch_t *give(self)
