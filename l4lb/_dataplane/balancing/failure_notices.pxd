# Failure notices: what workers report to control about backends as it happens, through an eventfd. One small ring per
# worker; a full one drops notices, since a backend that goes on failing is reported again. Called on the worker's
# thread.

from libc.stdint cimport int64_t, uint64_t

from l4lb._dataplane.base.enums cimport NOTICE_SLOTS
from l4lb._dataplane.base.linux cimport (
    published_load_u64, published_store_u64, shared_add, shared_read, shared_store, write,
)
from l4lb._dataplane.base.types cimport backend_live_t, pool_t
from l4lb._dataplane.base.worker_types cimport worker_t


cdef inline void notice_send(worker_t *w, backend_live_t *backend) noexcept nogil:
    """write(2) to an eventfd: EAGAIN means that control is waking already."""
    cdef uint64_t one = 1
    cdef uint64_t written = w.notices.written
    if written - published_load_u64(&w.notices.read) >= NOTICE_SLOTS:
        return
    w.notices.backend_ids[written % NOTICE_SLOTS] = backend.id
    published_store_u64(&w.notices.written, written + 1)
    write(w.plane.notice_fd, &one, sizeof(one))


cdef inline void backend_failed(worker_t *w, pool_t *pool, backend_live_t *backend) noexcept nogil:
    """A connect that failed, or a reset before the first byte. `pool` may be NULL: it was removed."""
    cdef int64_t in_a_row = shared_add(&backend.failures, 1) + 1
    if pool != NULL and pool.passive_failures and in_a_row >= pool.passive_failures:
        notice_send(w, backend)


cdef inline void backend_answered(backend_live_t *backend) noexcept nogil:
    if shared_read(&backend.failures):
        shared_store(&backend.failures, 0)
