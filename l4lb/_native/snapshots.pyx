# What workers go by, as Python objects that own its memory: the records that outlive snapshots (`*Live`), the pools and
# the snapshot itself. Made by `l4lb.engine` on the control thread; a worker only ever sees the structs within.
"""Native snapshots; see `l4lb.engine.native` for the interface to use."""

import os

from cpython.array cimport array
from cython cimport final
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memset

from l4lb._dataplane.balancing.pick cimport tier_cursor
from l4lb._dataplane.base.enums cimport (
    CLIENT_FIRST_MAX, CLOSE_REASON_COUNT, DROP_REASON_COUNT, FAILURE_COUNT, HASH_KEY_DESTINATION, HASH_KEY_QUIC_CID,
    HASH_KEY_RANDOM, HASH_KEY_SESSION, HASH_KEY_SOURCE_IP, HASH_KEY_SOURCE_IP_PORT, HOOK_DEADLINE_MASK, HOOK_REJECTS,
    HOOK_RESULT_COUNT, NO_INDEX, PATH_ERROR_COUNT,
    PROXY_REFUSAL_COUNT, PROXY_SEND_ALPN, PROXY_SEND_AUTHORITY, PROXY_SEND_CRC32C, PROXY_SEND_RECEIVED,
    PROXY_SEND_UNIQUE_ID, SELECT_CURSOR, SELECT_FIRST, SELECT_HASH, SELECT_LEAST_SESSIONS, SELECT_PEAK_EWMA,
    SELECT_TWO_CHOICES, SPLICE_ALWAYS, SPLICE_AUTO, SPLICE_OFF, selection_t,
)
from l4lb._dataplane.base.linux cimport (
    AF_UNIX, published_store_pointer, published_store_u32, shared_read, shared_store, sockaddr_in,
)
from l4lb._dataplane.base.parts cimport session_list_t
from l4lb._dataplane.base.source_types cimport SOURCE_LIMIT_COUNT
from l4lb._dataplane.base.types cimport (
    backend_counters_t, backend_options_t, backend_t, backend_times_t, listener_counters_t, listener_t,
    listening_list_t, listening_t, pool_t, tier_t,
)
from l4lb._dataplane.base.udp_types cimport flow_list_t
from l4lb._dataplane.proxy_protocol.types cimport PROXY_ANY, PROXY_OFF, PROXY_V1, PROXY_V2
from l4lb._dataplane.resources.sessions cimport list_init
from l4lb._dataplane.resources.stats cimport counters_free, counters_total
from l4lb._dataplane.balancing.quic cimport quic_ids_free, quic_ids_init
from l4lb._native.convert cimport (
    access_fill, backend_options_fill, buckets_list, counters, indices_copy, indices_of, limits_publish,
    listening_fill, pool_settings_fill, proxy_accept_fill, proxy_send_fill, sockaddr_copy, terms_fill, zeroed,
)
from l4lb._native.routes cimport Routes

from l4lb._native.reports import BackendCounters, ListenerCounters

SELECTIONS = {
    "cursor": <int>SELECT_CURSOR, "hash": <int>SELECT_HASH, "least_sessions": <int>SELECT_LEAST_SESSIONS,
    "two_choices": <int>SELECT_TWO_CHOICES, "first": <int>SELECT_FIRST,
    "peak_ewma": <int>SELECT_PEAK_EWMA,
}
HASH_KEYS = {
    "source_ip": <int>HASH_KEY_SOURCE_IP, "source_ip_port": <int>HASH_KEY_SOURCE_IP_PORT,
    "destination": <int>HASH_KEY_DESTINATION, "session": <int>HASH_KEY_SESSION, "random": <int>HASH_KEY_RANDOM,
    "quic_cid": <int>HASH_KEY_QUIC_CID,
}
SPLICE_MODES = {"auto": <int>SPLICE_AUTO, "always": <int>SPLICE_ALWAYS, "off": <int>SPLICE_OFF}
PROXY_MODES = {"off": <int>PROXY_OFF, "v1": <int>PROXY_V1, "v2": <int>PROXY_V2, "any": <int>PROXY_ANY}
PROXY_SEND_TLVS = {
    "crc32c": <int>PROXY_SEND_CRC32C, "unique_id": <int>PROXY_SEND_UNIQUE_ID,
    "authority": <int>PROXY_SEND_AUTHORITY, "alpn": <int>PROXY_SEND_ALPN, "received": <int>PROXY_SEND_RECEIVED,
}
PROXY_REFUSALS = <int>PROXY_REFUSAL_COUNT


@final
cdef class BackendLive:
    """A backend's counts, which outlive snapshots. Keep it while `sessions_active` is above 0."""

    def __cinit__(self, uint32_t worker_count, uint32_t id):
        self.blocks = worker_count + 1
        self.live.id = id
        self.live.counters = <backend_counters_t **>counters(self.blocks, sizeof(backend_counters_t))
        self.live.times = <backend_times_t **>counters(self.blocks, sizeof(backend_times_t))

    def __dealloc__(self):
        counters_free(<void **>self.live.counters, self.blocks)
        counters_free(<void **>self.live.times, self.blocks)

    @property
    def id(self):
        return self.live.id

    cdef void total(self, backend_counters_t *total) noexcept:
        counters_total(<void **>self.live.counters, self.blocks, total, sizeof(backend_counters_t))

    def sessions_active(self):
        return shared_read(&self.live.sessions_active)

    def failures(self):
        """In a row, up to now."""
        return shared_read(&self.live.failures)

    def forgive(self):
        """Count its failures anew."""
        shared_store(&self.live.failures, 0)

    def stats(self):
        """`BackendCounters` of this moment."""
        cdef backend_counters_t total
        cdef int reason, kind
        self.total(&total)
        return BackendCounters(
            sessions_active=shared_read(&self.live.sessions_active),
            sessions_total=total.sessions_total,
            bytes_up=total.bytes_up,
            bytes_down=total.bytes_down,
            early_resets=total.early_resets,
            connect_failures=[total.connect_failures[reason] for reason in range(<int>FAILURE_COUNT)],
            datagrams_up=total.datagrams_up,
            datagrams_down=total.datagrams_down,
            source_misfits=total.source_misfits,
            path_errors=[total.path_errors[kind] for kind in range(<int>PATH_ERROR_COUNT)],
        )


@final
cdef class PoolLive:
    """What a pool's workers share. `slot`: its place in every snapshot. Keep it while `sessions_active` is above 0."""

    def __cinit__(self, uint32_t worker_count, uint32_t slot):
        cdef int i
        self.live.slot = slot
        self.live.queues = <session_list_t *>zeroed(worker_count, sizeof(session_list_t))
        for i in range(worker_count):
            list_init(&self.live.queues[i])

    def __dealloc__(self):
        free(self.live.queues)
        quic_ids_free(&self.live.quic_ids)

    cdef int keep_quic_ids(self) except -1:
        """Before workers see a pool that goes by them."""
        cdef uint64_t seed = int.from_bytes(os.urandom(8), "little")
        if self.live.quic_ids.words == NULL and quic_ids_init(&self.live.quic_ids, seed) < 0:
            raise MemoryError()
        return 0

    @property
    def slot(self):
        return self.live.slot

    def sessions_active(self):
        return shared_read(&self.live.sessions_active)

    def waiting(self):
        return shared_read(&self.live.waiting)


@final
cdef class ListenerLive:
    """A listener's counts and limits, which outlive snapshots. Keep it while `sessions_active` is above 0."""

    def __cinit__(self, uint32_t worker_count, uint32_t id):
        cdef uint32_t i
        self.blocks = worker_count + 1
        self.live.counters = <listener_counters_t **>counters(self.blocks, sizeof(listener_counters_t))
        self.live.id = id
        for i in range(worker_count):
            self.live.counters[i].client_first = CLIENT_FIRST_MAX
        self.live.flows = <flow_list_t *>zeroed(worker_count, sizeof(flow_list_t))
        for i in range(worker_count):
            self.live.flows[i].head = self.live.flows[i].tail = NO_INDEX
        self.keep_options(1)

    cdef int keep_options(self, uint32_t count) except -1:
        """Room for so many sets of options. Those that there are stay where they are: a worker may be reading one."""
        cdef backend_options_t **grown = <backend_options_t **>zeroed(count, sizeof(backend_options_t *))
        cdef uint32_t i
        for i in range(self.options_count):
            grown[i] = self.options[i]
        free(self.options)
        self.options = grown
        for i in range(self.options_count, count):
            grown[i] = <backend_options_t *>zeroed(1, sizeof(backend_options_t))
            self.options_count += 1
        if self.live.options == NULL:
            self.live.options = grown[0]
        return 0

    def set_options(self, options not None):
        """`specs.BackendOptions`, for connects from now on, and never a part of them."""
        cdef backend_options_t wanted
        cdef uint32_t i
        memset(&wanted, 0, sizeof(wanted))
        backend_options_fill(&wanted, options)
        for i in range(self.options_count):
            if memcmp(self.options[i], &wanted, sizeof(wanted)) == 0:
                break
        else:
            self.keep_options(self.options_count + 1)
            i = self.options_count - 1
            self.options[i][0] = wanted
        published_store_pointer(<void **>&self.live.options, self.options[i])

    def set_limits(self, limits not None):
        """`specs.Limits`, which hold at once, for all. What a source is follows for new sessions."""
        limits_publish(&self.live.limits, limits)

    def set_hook(self, uint32_t deadline_ms, bint rejects):
        """From now on a hook is asked about each session, which goes on, or with `rejects` does not, when there is no
        answer after that time; 0: none is asked. The plane's `Hooks` must be open."""
        cdef uint32_t hook = deadline_ms & HOOK_DEADLINE_MASK
        published_store_u32(&self.live.hook, hook | HOOK_REJECTS if hook and rejects else hook)

    def __dealloc__(self):
        cdef uint32_t i
        counters_free(<void **>self.live.counters, self.blocks)
        free(self.live.flows)
        for i in range(self.options_count):
            free(self.options[i])
        free(self.options)

    @property
    def id(self):
        return self.live.id

    cdef void total(self, listener_counters_t *total) noexcept:
        counters_total(<void **>self.live.counters, self.blocks, total, sizeof(listener_counters_t))

    def sessions_active(self):
        return shared_read(&self.live.sessions_active)

    def stats(self):
        """`ListenerCounters` of this moment."""
        cdef listener_counters_t total
        cdef int reason, limit
        self.total(&total)
        return ListenerCounters(
            sessions_active=shared_read(&self.live.sessions_active),
            sessions_total=total.sessions_total,
            closed=[total.closed[reason] for reason in range(<int>CLOSE_REASON_COUNT)],
            session_time=buckets_list(&total.session_time),
            session_time_sum_us=total.session_time.sum_us,
            proxy_refused=[total.proxy_refused[reason] for reason in range(<int>PROXY_REFUSAL_COUNT)],
            dropped=[total.dropped[reason] for reason in range(<int>DROP_REASON_COUNT)],
            source_limited=[total.source_limited[limit] for limit in range(<int>SOURCE_LIMIT_COUNT)],
            hooked=[total.hooked[reason] for reason in range(<int>HOOK_RESULT_COUNT)],
        )


@final
cdef class NativePool:
    """An immutable `pool_t`, made of a `specs.Pool`, for all the snapshots in which the pool is the same. Holds on to
    what it points to."""

    def __cinit__(self, spec not None):
        self.kept = []
        self.fill(&self.pool, spec)

    def __dealloc__(self):
        cdef uint32_t i
        free(self.pool.first.usable)
        for i in range(self.pool.further_count):
            free(self.pool.further[i].usable)
        free(self.pool.further)
        free(self.pool.backends)

    cdef int fill_slots(self, tier_t *tier, array slots) except -1:
        """Tables are large and shared by all the pools that have them: this one keeps it and points into it."""
        tier.slots = indices_of(slots)
        tier.slot_count = len(slots)
        self.kept.append(slots)
        return 0

    cdef int fill_tier(self, tier_t *tier, uint32_t number, object spec) except -1:
        """After the backends."""
        cdef array usable = spec.usable
        cdef uint32_t i
        tier.usable = indices_copy(usable)
        tier.usable_count = len(usable)
        for i in range(tier.usable_count):
            tier.usable_weight += self.pool.backends[tier.usable[i]].weight
        tier.cursor = tier_cursor(self.pool.live, number)
        return self.fill_slots(tier, spec.slots)

    cdef int fill_further(self, pool_t *pool, list tiers) except -1:
        """Counted one by one, so that what is there is freed when memory is short for the rest."""
        if tiers:
            pool.further = <tier_t *>zeroed(len(tiers), sizeof(tier_t))
        for tier in tiers:
            pool.further_count += 1
            self.fill_tier(&pool.further[pool.further_count - 1], pool.further_count, tier)
        return 0

    cdef int fill_backend(self, backend_t *backend, object spec) except -1:
        cdef BackendLive live = spec.live
        backend.weight = spec.weight
        backend.max_sessions = spec.max_sessions
        backend.resumes = spec.resumes
        backend.live = &live.live
        backend.address_length = sockaddr_copy(&backend.address, spec.address)
        backend.same_port = backend.address.ss_family != AF_UNIX and (<sockaddr_in *>&backend.address).sin_port == 0
        self.kept.append(live)
        return 0

    cdef int fill(self, pool_t *pool, object spec) except -1:
        cdef PoolLive live = spec.live
        cdef list backends = spec.backends
        cdef uint32_t i
        self.kept.append(live)
        pool.live = &live.live
        pool.selection = <selection_t><int>spec.selection
        pool.backends = <backend_t *>zeroed(len(backends), sizeof(backend_t))
        pool.backend_count = len(backends)
        for i in range(pool.backend_count):
            self.fill_backend(&pool.backends[i], backends[i])
        self.fill_tier(&pool.first, 0, spec.first)
        self.fill_further(pool, spec.further)
        pool_settings_fill(pool, spec)
        if pool.hash_key == HASH_KEY_QUIC_CID:
            live.keep_quic_ids()
        proxy_send_fill(&pool.send, spec.proxy_send)
        self.kept.append(spec.proxy_send)
        return 0


@final
cdef class NativeSnapshot:
    """An immutable `snapshot_t`, made of `NativePool`s and `specs.Listener`s. Holds on to the live objects that it
    points to."""

    def __cinit__(self, uint64_t version, uint32_t worker_count, list pools, list listeners):
        cdef uint32_t i
        cdef NativePool pool
        self.kept = [pools]
        self.worker_count = worker_count
        self.snapshot.version = version
        self.snapshot.pool_slots = max([(<NativePool>pool).pool.live.slot + 1 for pool in pools], default=0)
        self.snapshot.pools_by_slot = <pool_t **>zeroed(self.snapshot.pool_slots, sizeof(pool_t *))
        self.snapshot.pools = <pool_t **>zeroed(len(pools), sizeof(pool_t *))
        for pool in pools:
            self.snapshot.pools[self.snapshot.pool_count] = &pool.pool
            self.snapshot.pools_by_slot[pool.pool.live.slot] = &pool.pool
            self.snapshot.pool_count += 1
        self.snapshot.listeners = <listener_t *>zeroed(len(listeners), sizeof(listener_t))
        self.snapshot.listener_count = len(listeners)
        self.snapshot.listening = <listening_list_t *>zeroed(worker_count, sizeof(listening_list_t))
        for i in range(self.snapshot.listener_count):
            self.fill_listener(&self.snapshot.listeners[i], listeners[i])
        for i in range(worker_count):
            self.fill_listening(i, listeners)
        self.snapshot.refuses = any([one.access.refused or one.access.banned for one in listeners])
        self.snapshot.mixed = len({one.datagrams for listener in listeners for one in listener.sockets}) == 2

    def __dealloc__(self):
        cdef uint32_t i
        if self.snapshot.listening != NULL:
            for i in range(self.worker_count):
                free(self.snapshot.listening[i].entries)
        free(self.snapshot.listening)
        free(self.snapshot.pools)
        free(self.snapshot.pools_by_slot)
        free(self.snapshot.listeners)

    @property
    def version(self):
        return self.snapshot.version

    cdef int fill_listening(self, uint32_t worker, list listeners) except -1:
        """The sockets of one worker, of all listeners."""
        cdef listening_list_t *sockets = &self.snapshot.listening[worker]
        cdef listening_t *entry
        cdef uint32_t i
        mine = [[one for one in listener.sockets if one.worker == worker] for listener in listeners]
        sockets.entries = <listening_t *>zeroed(sum(map(len, mine)), sizeof(listening_t))
        for i in range(self.snapshot.listener_count):
            for one in mine[i]:
                entry = &sockets.entries[sockets.count]
                listening_fill(entry, one)
                entry.listener = &self.snapshot.listeners[i]
                sockets.count += 1
        return 0

    cdef int fill_listener(self, listener_t *listener, object spec) except -1:
        cdef ListenerLive live = spec.live
        cdef NativePool pool = spec.pool
        self.kept.append(live)
        self.kept.append(pool)
        listener.live = &live.live
        listener.pool = &pool.pool
        listener.max_sessions = spec.max_sessions
        terms_fill(&listener.terms, spec.terms)
        listener.requests = spec.requests
        listener.responses = spec.responses
        listener.one_way = spec.one_way
        listener.trains = spec.trains
        listener.draining = spec.draining
        access_fill(&listener.access, spec.access)
        if spec.routes is not None:
            listener.routes = &(<Routes>spec.routes).routes
        proxy_accept_fill(&listener.accept, spec.proxy_accept)
        self.kept += [spec.access, spec.routes, spec.proxy_accept]
        return 0
