# Migration: at an upgrade UDP sessions go to the new process, with their sockets to backends. They have no sockets to
# clients: both processes share the listening sockets. Called on the worker's thread by worker/loop.pxd, once per turn.
#
#   the old process: control asks (udp_held, export_version) --> workers stop reading UDP listening sockets, let go of
#                    their sessions and describe them (exported) --> control takes the descriptions
#   the new process: reads none (udp_held) until control has given the workers what was imported (importing)
#
# What clients send meanwhile waits in the sockets' queues. Sessions that only wait for answers stay, and end when those
# have come: no other process needs to know them.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from l4lb._dataplane.admission.admission cimport hold_as_before, hold_worker, release
from l4lb._dataplane.balancing.load cimport backend_release
from l4lb._dataplane.base.enums cimport (
    CLOSE_DRAIN, CLOSE_RESOURCE_LIMIT, NO_INDEX, SESSIONS_PER_BLOCK, SESSION_ANSWERED, SESSION_FLOW,
    SESSION_MEASURED,
)
from l4lb._dataplane.base.linux cimport (
    close, counter_add, published_load_pointer, published_load_u32, published_load_u64, published_store_pointer,
    published_store_u64, shared_add,
)
from l4lb._dataplane.base.types cimport session_t, source_address_t
from l4lb._dataplane.base.udp_types cimport exported_flow_t, flow_t, link_t
from l4lb._dataplane.base.worker_types cimport import_batch_t, imported_flow_t, plane_t, worker_t
from l4lb._dataplane.resources.poller cimport listeners_update
from l4lb._dataplane.resources.sessions cimport sessions_at, sessions_take
from l4lb._dataplane.session.closing cimport session_dispose, session_end
from l4lb._dataplane.session.setup cimport session_count, session_init
from l4lb._dataplane.udp.answers cimport udp_flush
from l4lb._dataplane.udp.create cimport flow_arm
from l4lb._dataplane.udp.flows cimport (
    flow_bind, flow_hash, flow_key_add_client, flow_key_fill, flow_key_t, flow_list_push, flow_take,
)
from l4lb._dataplane.udp.links cimport link_adopt, link_detach, links_at

# ---- holding ----

cdef inline void udp_hold(worker_t *w, bint held) noexcept nogil:
    """Stop watching the UDP listening sockets, or watch them again."""
    if w.udp_held != held:
        w.udp_held = held
        listeners_update(w)


# ---- exporting ----

cdef inline void flow_export(worker_t *w, session_t *s, exported_flow_t *exported) noexcept nogil:
    """Describe it and let go of it; control owns its socket to the backend from now on. The process where it ends
    counts it."""
    cdef link_t *link = links_at(&w.udp.links, s.flow.link)
    exported.fd = s.flow.fd
    exported.link_fd = link.fd
    exported.link_wide = link.wide
    exported.backend_id = s.backend.id
    exported.id = s.id
    exported.age_ms = <uint32_t>((w.now_ns - s.started_ns) // 1000000)
    exported.idle_ms = <uint32_t>w.now_ms - s.active_ms
    exported.bytes_up = s.up.bytes
    exported.bytes_down = s.down.bytes
    exported.source_length = s.source.length
    exported.source_port = s.source.port
    exported.local_port = s.local_port
    memcpy(exported.source, s.source.bytes, 16)
    exported.flow = s.flow[0]
    link_detach(w, link)
    s.flow.link = NO_INDEX
    session_count(w, s, -1)
    session_dispose(w, s, CLOSE_DRAIN)


cdef inline void flows_export_all(worker_t *w) noexcept nogil:
    """Export all UDP sessions that still have their key. When memory is short (calloc: ENOMEM) they end."""
    cdef uint32_t i
    cdef session_t *s
    if w.udp == NULL:
        return
    udp_flush(w)
    w.exported = <exported_flow_t *>calloc(w.udp.flows.count + 1, sizeof(exported_flow_t))
    for i in range(w.sessions.block_count * SESSIONS_PER_BLOCK):
        s = sessions_at(&w.sessions, i)
        if s.state != SESSION_FLOW or not s.flow.bound:
            continue
        if w.exported == NULL:
            session_end(w, s, CLOSE_RESOURCE_LIMIT)
            continue
        flow_export(w, s, &w.exported[w.exported_count])
        w.exported_count += 1


# ---- importing ----

cdef inline void exported_flow_client(const exported_flow_t *exported, source_address_t *client) noexcept nogil:
    client.length = exported.source_length
    client.port = exported.source_port
    client.scope_id = 0 if exported.flow.named else exported.flow.scope_id
    memcpy(client.bytes, exported.source, 16)


cdef inline void import_batch_reserve(plane_t *plane, import_batch_t *batch) noexcept nogil:
    """On control's thread, before a worker gets the batch: what its sessions belong to is not freed meanwhile."""
    cdef imported_flow_t *one
    cdef source_address_t client
    cdef uint32_t i
    for i in range(batch.count):
        one = &batch.entries[i]
        exported_flow_client(&one.exported, &client)
        hold_as_before(plane, one.client.listener, one.client.pool, &client, True, &one.client.held)
        shared_add(&one.backend.sessions_active, 1)


cdef inline void imported_flow_drop(worker_t *w, imported_flow_t *one) noexcept nogil:
    """Give it up: its client's next datagram begins a session."""
    close(one.exported.link_fd)
    release(w, one.client.listener, one.client.pool, &one.client.held)
    backend_release(one.backend)


cdef inline void imported_flow_fill(worker_t *w, session_t *s, imported_flow_t *one) noexcept nogil:
    cdef exported_flow_t *exported = &one.exported
    exported_flow_client(exported, &s.source)
    if exported.id:
        s.id = exported.id
    s.backend = one.backend
    s.attempts = 1
    s.started_ns = w.now_ns - <uint64_t>exported.age_ms * 1000000
    s.attempt_started_ns = s.connected_ns = s.started_ns
    s.asked_ns = s.started_ns if exported.bytes_up else 0
    s.active_ms = <uint32_t>w.now_ms - exported.idle_ms
    if s.expires_ms:
        s.expires_ms = (s.expires_ms - exported.age_ms) | 1
    if one.measured:
        s.flags |= SESSION_MEASURED
    if exported.bytes_down:
        s.flags |= SESSION_ANSWERED
    s.up.bytes = exported.bytes_up
    s.down.bytes = exported.bytes_down
    s.state = SESSION_FLOW


cdef inline void flow_restore(flow_t *flow, const exported_flow_t *exported) noexcept nogil:
    """As it was, except its places in this process's tables."""
    flow[0] = exported.flow
    flow.link = NO_INDEX
    flow.bound = False


cdef inline uint32_t imported_flow_hash(worker_t *w, session_t *s) noexcept nogil:
    cdef flow_key_t key
    cdef source_address_t peer
    peer.length = s.flow.peer_length
    peer.port = s.flow.peer_port
    peer.scope_id = s.flow.scope_id
    memcpy(peer.bytes, s.flow.peer, 16)
    flow_key_fill(&key, &peer, s.flow.fd, s.flow.local, s.flow.local_length)
    if s.flow.named:
        flow_key_add_client(&key, &s.source)
    return flow_hash(&w.udp.flows, &key)


cdef inline void flow_import(worker_t *w, imported_flow_t *one) noexcept nogil:
    """When memory is short the session is dropped, or ends."""
    cdef flow_t *flow = flow_take(&w.udp.flows)
    cdef session_t *s = sessions_take(&w.sessions) if flow != NULL else NULL
    cdef link_t *link
    if s == NULL:
        if flow != NULL:
            flow.next_free = w.udp.flows.free
            w.udp.flows.free = flow
        imported_flow_drop(w, one)
        return
    session_init(w, s, &one.client)
    hold_worker(w, &s.held)
    counter_add(&w.flow_count, 1)
    imported_flow_fill(w, s, one)
    session_count(w, s, 1)
    flow_restore(flow, &one.exported)
    s.flow = flow
    flow_list_push(w, s)
    flow_arm(w, s)
    link = link_adopt(w, one.exported.link_fd, one.exported.link_wide)
    if link != NULL:
        flow.link = link.index
        link.session = s.index
        link.backend_id = s.backend.id
    if link == NULL or flow_bind(w, s, imported_flow_hash(w, s)) < 0:
        session_end(w, s, CLOSE_RESOURCE_LIMIT)


cdef inline void flows_import_batch(worker_t *w) noexcept nogil:
    cdef import_batch_t *batch = <import_batch_t *>published_load_pointer(<void **>&w.importing)
    cdef uint32_t i
    if batch == NULL:
        return
    for i in range(batch.count):
        if w.udp != NULL:
            flow_import(w, &batch.entries[i])
        else:
            imported_flow_drop(w, &batch.entries[i])
    free(batch.entries)
    free(batch)
    published_store_pointer(<void **>&w.importing, NULL)


cdef inline void migration_drop(worker_t *w) noexcept nogil:
    """After the worker has stopped: free what was not taken."""
    cdef uint32_t i
    for i in range(w.exported_count):
        close(w.exported[i].link_fd)
    free(w.exported)
    w.exported = NULL
    w.exported_count = 0
    if w.importing == NULL:
        return
    for i in range(w.importing.count):
        imported_flow_drop(w, &w.importing.entries[i])
    free(w.importing.entries)
    free(w.importing)
    w.importing = NULL


# ---- each turn ----

cdef inline void flows_export(worker_t *w) noexcept nogil:
    """Before a snapshot is adopted: a socket that is not to be read is not read even once."""
    cdef uint64_t asked = published_load_u64(&w.plane.export_version)
    if published_load_u32(&w.plane.udp_held):
        udp_hold(w, True)
    if asked != w.exported_version and w.exported == NULL:
        flows_export_all(w)
        published_store_u64(&w.exported_version, asked)


cdef inline void flows_import(worker_t *w) noexcept nogil:
    """After a snapshot is adopted: imported sessions find what they belong to, and exist before the first datagram is
    read."""
    cdef bint held = published_load_u32(&w.plane.udp_held) != 0
    flows_import_batch(w)
    if not held:
        udp_hold(w, False)
