# Flows: which session a datagram belongs to, and which session of a listener was idle for the longest. One table per
# worker, keyed by the client's address, the socket and the local address, seeded so that no client can aim at one place
# of it; it grows by doubling. Called on the worker's thread.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from l4lb._dataplane.base.enums cimport (
    CLOSE_NORMAL, DROP_KERNEL, NO_INDEX, SESSIONS_PER_BLOCK, close_reason_t, drop_reason_t,
)
from l4lb._dataplane.base.hashing cimport xxh64
from l4lb._dataplane.base.linux cimport counter_add
from l4lb._dataplane.base.types cimport listener_live_t, session_t, source_address_t
from l4lb._dataplane.base.udp_types cimport flow_list_t, flow_t, flows_t, link_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.sessions cimport sessions_at
from l4lb._dataplane.udp.links cimport link_give, links_at, socket_drops

cdef enum:
    FLOWS_MIN = 1024              # places at first; a power of two
    FLOW_KEY_PLAIN_BYTES = 44

cdef struct flow_key_t:           # without padding: it is hashed as it is, up to `client`, or the end
    uint8_t peer[16]
    uint8_t local[16]
    uint16_t peer_port
    uint8_t peer_length
    uint8_t local_length
    int fd
    uint32_t scope_id             # of the peer: another interface is another network
    uint8_t client[16]
    uint16_t client_port
    uint8_t client_length
    uint8_t named                 # the client is not the peer: a PROXY header named it


cdef inline void flow_key_fill(
    flow_key_t *key, const source_address_t *peer, int fd, const uint8_t *local, uint8_t local_length
) noexcept nogil:
    memset(key, 0, sizeof(key[0]))
    memcpy(key.peer, peer.bytes, peer.length)
    memcpy(key.local, local, local_length)
    key.peer_port = peer.port
    key.peer_length = peer.length
    key.local_length = local_length
    key.fd = fd
    key.scope_id = peer.scope_id


cdef inline void flow_key_add_client(flow_key_t *key, const source_address_t *client) noexcept nogil:
    """One peer speaks for many clients: each has sessions of its own."""
    memcpy(key.client, client.bytes, client.length)
    key.client_port = client.port
    key.client_length = client.length
    key.named = 1


cdef inline int flows_init(flows_t *self, uint64_t seed) noexcept nogil:
    """0, or -1 when memory is short."""
    memset(self, 0, sizeof(flows_t))
    self.slots = <uint64_t *>calloc(FLOWS_MIN, sizeof(uint64_t))
    if self.slots == NULL:
        return -1
    self.mask = FLOWS_MIN - 1
    self.seed = seed
    return 0


cdef inline void flows_free(flows_t *self) noexcept nogil:
    cdef uint32_t i
    for i in range(self.block_count):
        free(self.blocks[i])
    free(self.blocks)
    free(self.slots)
    memset(self, 0, sizeof(flows_t))


cdef inline void datagrams_dropped(
    worker_t *w, listener_live_t *listener, drop_reason_t reason, uint64_t count
) noexcept nogil:
    counter_add(&listener.counters[w.index].dropped[<int>reason], count)


# ---- the part of a session that only UDP has ----

cdef inline flow_t *flow_take(flows_t *self) noexcept nogil:
    """Zeroed; NULL when memory is short."""
    cdef flow_t *flow
    cdef flow_t **blocks
    cdef uint32_t i
    if self.free == NULL:
        blocks = <flow_t **>realloc(self.blocks, (self.block_count + 1) * sizeof(flow_t *))
        if blocks == NULL:
            return NULL
        self.blocks = blocks
        flow = <flow_t *>calloc(SESSIONS_PER_BLOCK, sizeof(flow_t))
        if flow == NULL:
            return NULL
        self.blocks[self.block_count] = flow
        self.block_count += 1
        for i in range(SESSIONS_PER_BLOCK):
            flow[i].next_free = self.free
            self.free = &flow[i]
    flow = self.free
    self.free = flow.next_free
    memset(flow, 0, sizeof(flow_t))
    flow.link = NO_INDEX
    return flow


# ---- the table ----

cdef inline uint32_t flow_hash(flows_t *self, const flow_key_t *key) noexcept nogil:
    return <uint32_t>xxh64(<const uint8_t *>key, sizeof(flow_key_t) if key.named else FLOW_KEY_PLAIN_BYTES, self.seed)


cdef inline bint flow_matches(session_t *s, const flow_key_t *key) noexcept nogil:
    cdef flow_t *flow = s.flow
    if flow.peer_port != key.peer_port or flow.fd != key.fd or flow.peer_length != key.peer_length:
        return False
    if flow.scope_id != key.scope_id:
        return False
    if flow.local_length != key.local_length or memcmp(flow.local, key.local, key.local_length) != 0:
        return False
    if key.named and (s.source.port != key.client_port or s.source.length != key.client_length):
        return False
    if key.named and memcmp(s.source.bytes, key.client, key.client_length) != 0:
        return False
    return flow.named == key.named and memcmp(flow.peer, key.peer, key.peer_length) == 0


cdef inline session_t *flow_find(worker_t *w, const flow_key_t *key, uint32_t hash) noexcept nogil:
    cdef flows_t *self = &w.udp.flows
    cdef uint32_t at = hash & self.mask
    cdef session_t *s
    while self.slots[at]:
        if <uint32_t>(self.slots[at] >> 32) == hash:
            s = sessions_at(&w.sessions, <uint32_t>self.slots[at] - 1)
            if flow_matches(s, key):
                return s
        at = (at + 1) & self.mask
    return NULL


cdef inline void slot_put(uint64_t *slots, uint32_t mask, uint64_t entry) noexcept nogil:
    cdef uint32_t at = <uint32_t>(entry >> 32) & mask
    while slots[at]:
        at = (at + 1) & mask
    slots[at] = entry


cdef inline int flows_grow(flows_t *self) noexcept nogil:
    """Twice the places. 0, or -1 when memory is short."""
    cdef uint32_t mask = 2 * self.mask + 1
    cdef uint64_t *slots = <uint64_t *>calloc(<size_t>mask + 1, sizeof(uint64_t))
    cdef uint32_t i
    if slots == NULL:
        return -1
    for i in range(self.mask + 1):
        if self.slots[i]:
            slot_put(slots, mask, self.slots[i])
    free(self.slots)
    self.slots = slots
    self.mask = mask
    return 0


cdef inline int flow_bind(worker_t *w, session_t *s, uint32_t hash) noexcept nogil:
    """From now on datagrams with its key are this session's. 0, or -1 when memory is short."""
    cdef flows_t *self = &w.udp.flows
    if self.count * 2 > self.mask and flows_grow(self) < 0 and self.count == self.mask:
        return -1
    s.flow.hash = hash
    s.flow.bound = True
    slot_put(self.slots, self.mask, <uint64_t>hash << 32 | (s.index + 1))
    self.count += 1
    return 0


cdef inline void flow_unbind(worker_t *w, session_t *s) noexcept nogil:
    """Free its key for another session. What stands behind it in its run moves up (Knuth 6.4, algorithm R)."""
    cdef flows_t *self = &w.udp.flows
    cdef uint32_t at = s.flow.hash & self.mask
    cdef uint32_t next_one, home
    if not s.flow.bound:
        return
    s.flow.bound = False
    while <uint32_t>self.slots[at] != s.index + 1:
        at = (at + 1) & self.mask
    next_one = at
    while True:
        next_one = (next_one + 1) & self.mask
        if self.slots[next_one] == 0:
            break
        home = <uint32_t>(self.slots[next_one] >> 32) & self.mask
        if ((next_one - home) & self.mask) >= ((next_one - at) & self.mask):
            self.slots[at] = self.slots[next_one]
            at = next_one
    self.slots[at] = 0
    self.count -= 1


# ---- by last use ----

cdef inline void flow_list_remove(worker_t *w, session_t *s) noexcept nogil:
    cdef flow_list_t *list = &s.listener.flows[w.index]
    cdef flow_t *flow = s.flow
    if flow.previous_idler == NO_INDEX:
        list.head = flow.next_idler
    else:
        sessions_at(&w.sessions, flow.previous_idler).flow.next_idler = flow.next_idler
    if flow.next_idler == NO_INDEX:
        list.tail = flow.previous_idler
    else:
        sessions_at(&w.sessions, flow.next_idler).flow.previous_idler = flow.previous_idler


cdef inline void flow_list_push(worker_t *w, session_t *s) noexcept nogil:
    cdef flow_list_t *list = &s.listener.flows[w.index]
    s.flow.used_ms = <uint32_t>w.now_ms
    s.flow.previous_idler = NO_INDEX
    s.flow.next_idler = list.head
    if list.head == NO_INDEX:
        list.tail = s.index
    else:
        sessions_at(&w.sessions, list.head).flow.previous_idler = s.index
    list.head = s.index


cdef inline void flow_used(worker_t *w, session_t *s) noexcept nogil:
    """A datagram passed. The list is ordered to the millisecond, the resolution of the clock."""
    s.active_ms = <uint32_t>w.now_ms
    if s.flow.used_ms != s.active_ms:
        flow_list_remove(w, s)
        flow_list_push(w, s)


cdef inline session_t *flow_idlest(worker_t *w, listener_live_t *listener) noexcept nogil:
    """NULL when this worker has none."""
    cdef uint32_t index = listener.flows[w.index].tail
    return NULL if index == NO_INDEX else sessions_at(&w.sessions, index)


# ---- the end ----

cdef inline void flow_count_drops(worker_t *w, session_t *s, link_t *link, uint32_t drops) noexcept nogil:
    """Count what the kernel had no room for since the last check."""
    if drops != link.kernel_drops:
        datagrams_dropped(w, s.listener, DROP_KERNEL, drops - link.kernel_drops)
        link.kernel_drops = drops


cdef inline void flow_cleanup(worker_t *w, session_t *s, close_reason_t reason) noexcept nogil:
    """Called once for each UDP session, when it ends. CLOSE_NORMAL: it got all its answers."""
    cdef flow_t *flow = s.flow
    cdef link_t *link
    cdef bint done = reason == CLOSE_NORMAL and flow.datagrams_down >= flow.datagrams_up * flow.responses
    flow_unbind(w, s)
    flow_list_remove(w, s)
    counter_add(&w.flow_count, -1)
    if flow.link != NO_INDEX:
        link = links_at(&w.udp.links, flow.link)
        if not done:
            flow_count_drops(w, s, link, socket_drops(link.fd))
        link_give(w, link, done, s.active_ms, link.tag != 0)
    flow.next_free = w.udp.flows.free
    w.udp.flows.free = flow
    s.flow = NULL
