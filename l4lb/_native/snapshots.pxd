# What workers go by, as other native modules see it: see `_native/snapshots.pyx`.

from cpython.array cimport array
from libc.stdint cimport uint32_t

from l4lb._dataplane.base.types cimport (
    backend_counters_t, backend_live_t, backend_options_t, backend_t, listener_counters_t, listener_live_t, listener_t,
    pool_live_t, pool_t, snapshot_t, tier_t,
)


cdef class BackendLive:
    cdef backend_live_t live
    cdef uint32_t blocks                 # of counters: one for each worker, then one for what was counted before

    cdef void total(self, backend_counters_t *total) noexcept


cdef class PoolLive:
    cdef pool_live_t live

    cdef int keep_quic_ids(self) except -1


cdef class ListenerLive:
    cdef listener_live_t live
    cdef uint32_t blocks                 # as a backend's
    cdef backend_options_t **options     # every set that there was, each once
    cdef uint32_t options_count

    cdef int keep_options(self, uint32_t count) except -1
    cdef void total(self, listener_counters_t *total) noexcept


cdef class NativePool:
    cdef pool_t pool
    cdef list kept

    cdef int fill_slots(self, tier_t *tier, array slots) except -1
    cdef int fill_tier(self, tier_t *tier, uint32_t number, object spec) except -1
    cdef int fill_further(self, pool_t *pool, list tiers) except -1
    cdef int fill_backend(self, backend_t *backend, object spec) except -1
    cdef int fill(self, pool_t *pool, object spec) except -1


cdef class NativeSnapshot:
    cdef snapshot_t snapshot
    cdef uint32_t worker_count
    cdef list kept

    cdef int fill_listening(self, uint32_t worker, list listeners) except -1
    cdef int fill_listener(self, listener_t *listener, object spec) except -1
