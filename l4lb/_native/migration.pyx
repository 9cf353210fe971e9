# Sessions of UDP on their way between processes, from plain values to the workers and back. What workers do is in
# `_dataplane/udp/migration.pxd`; `_native/tcp_migration.pyx` has those of TCP.
#
# Used by `l4lb.engine` alone, on the control thread.
"""Sessions that move between processes; see `l4lb.engine.migration` for the interface to use."""

from cython cimport final
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from l4lb._dataplane.balancing.quic cimport QUIC_LENGTHS, quic_ids_copy, quic_ids_count, quic_ids_restore
from l4lb._dataplane.base.linux cimport close, htons, ntohs, shared_read, shared_store
from l4lb._dataplane.base.udp_types cimport exported_flow_t, flow_t, quic_entry_t
from l4lb._dataplane.base.worker_types cimport import_batch_t, imported_flow_t, worker_t
from l4lb._native.convert cimport terms_fill, zeroed
from l4lb._native.snapshots cimport BackendLive, ListenerLive, PoolLive

from l4lb._native.flow_state import FlowState, ExportedFlow


cdef str address_text(const uint8_t *address, uint8_t length):
    return (<const char *>address)[:length].hex()


cdef uint8_t address_fill(uint8_t *place, str text) except 0xFF:
    """Returns the length: 0, 4 or 16."""
    cdef bytes address = bytes.fromhex(text)
    if len(address) not in (0, 4, 16):
        raise ValueError("an address has 4 or 16 bytes")
    memcpy(place, <const char *>address, len(address))
    return <uint8_t>len(address)


cdef object flow_state(const exported_flow_t *exported):
    cdef const flow_t *flow = &exported.flow
    return FlowState(
        age_ms=exported.age_ms,
        idle_ms=exported.idle_ms,
        bytes_up=exported.bytes_up,
        bytes_down=exported.bytes_down,
        datagrams_up=flow.datagrams_up,
        datagrams_down=flow.datagrams_down,
        requests_left=flow.requests_left,
        responses=flow.responses,
        one_way=bool(flow.one_way),
        source=address_text(exported.source, exported.source_length),
        source_port=ntohs(exported.source_port),
        peer=address_text(flow.peer, flow.peer_length),
        peer_port=ntohs(flow.peer_port),
        scope_id=flow.scope_id,
        local=address_text(flow.local, flow.local_length),
        local_port=ntohs(exported.local_port),
        interface=flow.interface,
        destination=address_text(flow.destination, flow.destination_length),
        destination_port=ntohs(flow.destination_port),
        named=bool(flow.named),
        wide=bool(flow.wide),
        link_wide=bool(exported.link_wide),
        no_trains=bool(flow.no_trains),
        quic=bool(flow.quic),
        quic_given=flow.quic_given,
        quic_given_length=flow.quic_given_length,
        id=exported.id,
    )


cdef int exported_flow_fill(exported_flow_t *exported, object state) except -1:
    """The other way round. TypeError, ValueError, OverflowError for what is not as `flow_state` makes it."""
    cdef flow_t *flow = &exported.flow
    exported.age_ms = state.age_ms
    exported.idle_ms = state.idle_ms
    exported.bytes_up = state.bytes_up
    exported.bytes_down = state.bytes_down
    flow.datagrams_up = state.datagrams_up
    flow.datagrams_down = state.datagrams_down
    flow.requests_left = state.requests_left
    flow.responses = state.responses
    flow.one_way = state.one_way
    exported.source_length = address_fill(exported.source, state.source)
    exported.source_port = htons(state.source_port)
    flow.peer_length = address_fill(flow.peer, state.peer)
    flow.peer_port = htons(state.peer_port)
    flow.scope_id = state.scope_id
    flow.local_length = address_fill(flow.local, state.local)
    exported.local_port = htons(state.local_port)
    flow.interface = state.interface
    flow.destination_length = address_fill(flow.destination, state.destination)
    flow.destination_port = htons(state.destination_port)
    flow.named = state.named
    flow.wide = state.wide
    exported.link_wide = state.link_wide
    flow.no_trains = state.no_trains
    flow.quic = state.quic
    flow.quic_given = state.quic_given
    flow.quic_given_length = state.quic_given_length
    exported.id = state.id
    return 0


@final
cdef class Exports:
    """Sessions that workers have let go of."""

    @staticmethod
    cdef list take(worker_t *w):
        """An `ExportedFlow` for each session that `w` has released; the caller owns the socket to the backend."""
        cdef exported_flow_t *exported
        cdef uint32_t i
        found = []
        for i in range(w.exported_count):
            exported = &w.exported[i]
            found.append(ExportedFlow(exported.flow.fd, exported.link_fd, exported.backend_id, flow_state(exported)))
        free(w.exported)
        w.exported = NULL
        w.exported_count = 0
        return found


@final
cdef class Imports:
    """Sessions for one worker. Those that are not given to it are closed with this."""

    def __cinit__(self):
        self.batch = <import_batch_t *>zeroed(1, sizeof(import_batch_t))

    def __dealloc__(self):
        cdef uint32_t i
        if self.batch == NULL:
            return
        for i in range(self.batch.count):
            close(self.batch.entries[i].exported.link_fd)
        free(self.batch.entries)
        free(self.batch)

    def add(
        self, ListenerLive listener not None, PoolLive pool not None, BackendLive backend not None,
        terms not None, bint measured, int fd, int link_fd, state not None,
    ):
        """One with what it belongs to here. `terms`: the listener's (`specs.Terms`); `measured`: its pool goes by how
        fast backends answer; `state`: a `FlowState`. Owns `link_fd` once it returns; raises for a state that is none.
        """
        cdef imported_flow_t *entries
        cdef imported_flow_t *entry
        entries = <imported_flow_t *>realloc(self.batch.entries, (self.batch.count + 1) * sizeof(imported_flow_t))
        if entries == NULL:
            raise MemoryError()
        self.batch.entries = entries
        entry = &entries[self.batch.count]
        memset(entry, 0, sizeof(imported_flow_t))
        exported_flow_fill(&entry.exported, state)
        entry.exported.flow.fd = fd
        entry.exported.link_fd = link_fd
        entry.client.fd = -1
        entry.client.local_port = entry.exported.local_port
        entry.client.listener = &listener.live
        entry.client.pool = &pool.live
        terms_fill(&entry.client.terms, terms)
        entry.backend = &backend.live
        entry.measured = measured
        self.batch.count += 1

    cdef import_batch_t *give(self):
        cdef import_batch_t *given = self.batch
        self.batch = NULL
        return given


# ---- what is known of QUIC ----

def quic_ids(PoolLive pool not None):
    """(seed, lengths, entries) of the connection ids that are known, as `restore_quic_ids` takes them. None: none
    are wanted."""
    cdef uint32_t count = quic_ids_count(&pool.live.quic_ids)
    cdef bytes entries = bytes(count * sizeof(quic_entry_t))
    if pool.live.quic_ids.words == NULL:
        return None
    count = quic_ids_copy(&pool.live.quic_ids, <quic_entry_t *><char *>entries, count)
    entries = entries[: count * sizeof(quic_entry_t)]
    return pool.live.quic_ids.seed, shared_read(&pool.live.quic_ids.lengths), entries


def restore_quic_ids(PoolLive pool not None, uint64_t seed, int64_t lengths, bytes entries, dict backends):
    """Those of another process. `backends`: what it called them, and their ids here; others are left out.

    Before workers read a datagram for this pool. ValueError for entries that are none."""
    cdef const quic_entry_t *entry = <const quic_entry_t *><const char *>entries
    cdef uint32_t i
    if pool.live.quic_ids.words == NULL:
        return
    if len(entries) % sizeof(quic_entry_t):
        raise ValueError("no table of connection ids")
    pool.live.quic_ids.seed = seed
    shared_store(&pool.live.quic_ids.lengths, lengths & QUIC_LENGTHS)
    for i in range(len(entries) // sizeof(quic_entry_t)):
        backend_id = backends.get(entry[i].backend_id)
        if backend_id is not None and not quic_ids_restore(&pool.live.quic_ids, &entry[i], backend_id):
            raise ValueError("no table of connection ids")
