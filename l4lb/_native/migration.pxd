# Sessions of UDP on their way between processes, as the workers' module sees them: see `_native/migration.pyx`.

from l4lb._dataplane.base.worker_types cimport import_batch_t, worker_t


cdef class Exports:
    @staticmethod
    cdef list take(worker_t *w)


cdef class Imports:
    cdef import_batch_t *batch

    cdef import_batch_t *give(self)
