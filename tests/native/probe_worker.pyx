# A probe module of workers, built for tests alone (L4LB_PROBE=1): no thread runs them, tests drive them step by step,
# with the product's headers and real sockets.

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from l4lb._dataplane.admission.admission cimport (
    admit_to_places, hold_as_before, hold_nothing, hold_pool, hold_worker, release,
)
from l4lb._dataplane.admission.heaviest cimport found_source_t, heaviest_t, source_order_t, sources_heaviest
from l4lb._dataplane.admission.limits cimport (
    bandwidth_pay, bandwidth_room, bandwidth_t, bandwidth_wait_ms, session_bandwidth, session_rate_take,
)
from l4lb._dataplane.admission.sources cimport (
    SOURCE_NO_MEMORY, SOURCE_RECENT_NS, SOURCE_TAKEN, source_key_fill, source_taken_t, sources_close, sources_give,
    sources_init, sources_take, sources_take_anyway,
)
from l4lb._dataplane.balancing.queue cimport queue_enter, queue_leave, queue_poke
from l4lb._dataplane.base.enums cimport (
    NO_INDEX, SESSION_CONNECTING, SESSION_FLOW, SESSION_RELAYING, TIMER_IDLE, close_reason_t,
)
from l4lb._dataplane.base.linux cimport AF_INET, connect, read, sockaddr
from l4lb._dataplane.base.parts cimport session_list_t
from l4lb._dataplane.base.source_types cimport (
    SOURCE_IDLE_MAX, SOURCE_LIMIT_COUNT, SOURCE_SHARDS, source_key_t, source_limit_t, source_limits_t, source_t,
    sources_t,
)
from l4lb._dataplane.base.types cimport (
    backend_counters_t, backend_live_t, backend_times_t, held_t, listener_counters_t, listener_live_t, listener_t,
    listening_list_t, listening_t, pool_live_t, pool_t, session_t, snapshot_t, source_address_t,
)
from l4lb._dataplane.base.udp_types cimport flow_list_t, link_t
from l4lb._dataplane.base.worker_types cimport plane_t, worker_t
from l4lb._dataplane.resources.chunks cimport chunk_take
from l4lb._dataplane.resources.pipes cimport pipe_take
from l4lb._dataplane.resources.ready cimport ready_push
from l4lb._dataplane.resources.sessions cimport list_init, sessions_at, sessions_take
from l4lb._dataplane.resources.stats cimport counters_free, counters_new
from l4lb._dataplane.resources.timers cimport timers_arm
from l4lb._dataplane.session.closing cimport session_end, socket_has_unsent, socket_reset, socket_unsent
from l4lb._dataplane.tcp.accept cimport accept_event
from l4lb._dataplane.udp.flows cimport (
    flow_bind, flow_find, flow_hash, flow_idlest, flow_key_fill, flow_key_t, flow_list_push, flow_take, flow_used,
)
from l4lb._dataplane.udp.links cimport (
    link_drain, link_give, link_open, link_reuse, link_watch, links_at, links_sweep, spares_close_one,
)
from l4lb._dataplane.udp.plane cimport udp_open
from l4lb._dataplane.worker.listening cimport worker_accept_on, worker_leave_listeners
from l4lb._dataplane.worker.loop cimport worker_close, worker_open

cdef source_address_t address_of(bytes host, int port):
    cdef source_address_t found
    memset(&found, 0, sizeof(found))
    found.length = len(host)
    found.port = port
    memcpy(found.bytes, <char *>host, len(host))
    return found


cdef class Plane:
    """Workers of one process, and one listener with one pool and one backend."""

    cdef plane_t plane
    cdef snapshot_t snapshot
    cdef listener_live_t live
    cdef listener_t listener
    cdef pool_t terms
    cdef pool_live_t pool
    cdef backend_live_t backend
    cdef listening_list_t *nowhere          # for each worker
    cdef uint32_t count

    def __cinit__(self, uint32_t workers=1, int64_t max_sessions=0, int64_t of_listener=0, bint mixed=False):
        cdef uint32_t i
        self.count = workers
        self.plane.worker_count = workers
        self.plane.max_sessions = max_sessions
        sources_init(&self.plane.sources, 1)
        self.plane.notice_fd = self.plane.records_fd = -1
        self.plane.workers = <worker_t **>calloc(workers, sizeof(worker_t *))
        self.live.counters = <listener_counters_t **>counters_new(workers, sizeof(listener_counters_t))
        self.backend.counters = <backend_counters_t **>counters_new(workers, sizeof(backend_counters_t))
        self.backend.times = <backend_times_t **>counters_new(workers, sizeof(backend_times_t))
        self.live.flows = <flow_list_t *>calloc(workers, sizeof(flow_list_t))
        self.pool.queues = <session_list_t *>calloc(workers, sizeof(session_list_t))
        self.backend.id = 7
        self.nowhere = <listening_list_t *>calloc(workers, sizeof(listening_list_t))
        self.terms.live = &self.pool
        self.listener.pool = &self.terms
        self.listener.live = &self.live
        self.listener.max_sessions = of_listener
        self.snapshot.mixed = mixed
        self.snapshot.listener_count = 1
        self.snapshot.listeners = &self.listener
        self.snapshot.listening = self.nowhere
        for i in range(workers):
            self.live.flows[i].head = self.live.flows[i].tail = NO_INDEX
            list_init(&self.pool.queues[i])
            self.plane.workers[i] = <worker_t *>calloc(1, sizeof(worker_t))
            if worker_open(self.plane.workers[i], &self.plane, i) < 0 or udp_open(self.plane.workers[i]) < 0:
                raise MemoryError()
            self.plane.workers[i].snapshot = &self.snapshot

    def __dealloc__(self):
        self.close()

    def close(self):
        """All sockets and memory go; nothing else may be called then."""
        cdef uint32_t i
        if self.plane.workers == NULL:
            return
        for i in range(self.count):
            worker_close(self.plane.workers[i])
        for i in range(self.count):
            free(self.plane.workers[i])
        free(self.plane.workers)
        self.plane.workers = NULL
        sources_close(&self.plane.sources)
        counters_free(<void **>self.live.counters, self.count)
        counters_free(<void **>self.backend.counters, self.count)
        counters_free(<void **>self.backend.times, self.count)
        free(self.live.flows)
        free(self.pool.queues)
        free(self.nowhere)

    def set_now(self, uint64_t now_ms):
        """Of every worker; what came before is handled."""
        cdef uint32_t i
        for i in range(self.count):
            self.plane.workers[i].now_ms = <uint32_t>now_ms
            self.plane.workers[i].now_ns = now_ms * 1000000
            self.plane.workers[i].handled_ms = <uint32_t>now_ms

    def woken(self, uint32_t worker):
        """Whether somebody has woken it since the last call."""
        cdef uint64_t value = 0
        return read(self.plane.workers[worker].event_fd, &value, sizeof(value)) > 0

    # ---- admission ----

    def admit(self, uint32_t worker, bint datagrams, int held=0):
        """(what came of it, what places are held)."""
        cdef held_t holds
        cdef int result
        hold_nothing(&holds)
        holds.places = <uint8_t>held
        result = <int>admit_to_places(self.plane.workers[worker], &self.listener, datagrams, &holds)
        return result, holds.places

    def hold(self, uint32_t worker, int held):
        """Pool and worker too."""
        cdef held_t holds
        hold_nothing(&holds)
        holds.places = <uint8_t>held
        hold_pool(&self.pool, &holds)
        hold_worker(self.plane.workers[worker], &holds)
        return holds.places

    def hold_as_before(self, bint datagrams):
        cdef held_t holds
        cdef source_address_t client = address_of(b"\x7f\0\0\1", 1)
        hold_nothing(&holds)
        hold_as_before(&self.plane, &self.live, &self.pool, &client, datagrams, &holds)
        return holds.places

    def release(self, uint32_t worker, int held):
        cdef held_t holds
        hold_nothing(&holds)
        holds.places = <uint8_t>held
        release(self.plane.workers[worker], &self.live, &self.pool, &holds)
        return holds.places

    def counts(self):
        """(process, TCP, UDP, listener, pool, by worker)."""
        assigned = [self.plane.workers[i].assigned for i in range(self.count)]
        plane = self.plane.sessions_active, self.plane.sessions_of[0], self.plane.sessions_of[1]
        return (*plane, self.live.sessions_active, self.pool.sessions_active, assigned)

    # ---- accepting ----

    def listen(self, uint32_t worker, int fd):
        """Accept there; clients go to the worker with the fewest."""
        cdef listening_t entry
        memset(&entry, 0, sizeof(entry))
        entry.fd = fd
        entry.listener = &self.listener
        self.plane.balance_workers = True
        if worker_accept_on(self.plane.workers[worker], &entry) < 0:
            raise MemoryError()

    def accept(self, uint32_t worker):
        """As after an event of its one listening socket."""
        accept_event(self.plane.workers[worker], &self.plane.workers[worker].accepting[0])

    def leave(self, uint32_t worker):
        """The snapshot no longer names its listening socket."""
        worker_leave_listeners(self.plane.workers[worker], &self.snapshot)

    # ---- limits ----

    def set_limits(self, uint64_t own=0, uint64_t total=0, uint64_t session_rate=0, uint64_t burst_ns=0):
        self.live.limits.bandwidth[0] = own
        self.live.limits.total_bandwidth[0] = total
        self.live.limits.session_rate = session_rate
        self.live.limits.session_burst_ns = burst_ns

    def session_rate_take(self, uint64_t now_ns):
        return bool(session_rate_take(&self.live, now_ns))

    # ---- sessions and their queue ----

    def session(self, uint32_t worker):
        """The index of a new one, which holds all that a session can."""
        cdef worker_t *w = self.plane.workers[worker]
        cdef session_t *s = sessions_take(&w.sessions)
        cdef uint32_t index = s.index
        cdef uint32_t generation = s.generation
        memset(s, 0, sizeof(session_t))
        s.index = index
        s.generation = generation
        s.timer.slot = TIMER_IDLE
        s.client_fd = s.backend_fd = -1
        s.listener = &self.live
        s.pool = &self.pool
        s.state = SESSION_CONNECTING
        admit_to_places(w, &self.listener, False, &s.held)
        hold_pool(s.pool, &s.held)
        hold_worker(w, &s.held)
        return index

    cdef session_t *at(self, uint32_t worker, uint32_t index):
        return sessions_at(&self.plane.workers[worker].sessions, index)

    def load(self, uint32_t worker, uint32_t index, int client_fd, int backend_fd, bytes pending):
        """Give it sockets, which it closes, a reserved backend, bytes that wait for the backend, a timer and a turn."""
        cdef worker_t *w = self.plane.workers[worker]
        cdef session_t *s = self.at(worker, index)
        s.client_fd = client_fd
        s.backend_fd = backend_fd
        s.backend = &self.backend
        self.backend.sessions_active += 1
        s.up.chunk = chunk_take(&w.chunks, <const uint8_t *><char *>pending, len(pending))
        s.down.pipe = pipe_take(&w.pipes)
        timers_arm(&w.timers, &w.sessions, s, w.now_ms + 1000)
        ready_push(w, s)
        s.state = SESSION_RELAYING

    def end(self, uint32_t worker, uint32_t index, int reason):
        session_end(self.plane.workers[worker], self.at(worker, index), <close_reason_t>reason)

    def leftovers(self, uint32_t worker):
        """(sessions, chunks, pipes, ready, reserved places of the backend)."""
        cdef worker_t *w = self.plane.workers[worker]
        return (
            w.sessions.active, w.chunks.out_count, w.pipes.out_count, w.ready_count, self.backend.sessions_active
        )

    def closed(self, uint32_t worker, int reason):
        return self.live.counters[worker].closed[reason]

    def enqueue(self, uint32_t worker, uint32_t index, int64_t queue_size):
        return bool(queue_enter(self.plane.workers[worker], self.at(worker, index), queue_size))

    def dequeue(self, uint32_t worker, uint32_t index):
        queue_leave(self.plane.workers[worker], self.at(worker, index))
        self.at(worker, index).state = SESSION_CONNECTING

    def poke(self, uint32_t worker):
        queue_poke(self.plane.workers[worker], &self.pool)

    def waiting(self):
        return self.pool.waiting

    def queue(self, uint32_t worker):
        """The indices that wait there, the longest first."""
        cdef uint32_t index = self.pool.queues[worker].head
        found = []
        while index != NO_INDEX:
            found.append(index)
            index = self.at(worker, index).next_in_list
        return found

    # ---- flows of worker 0 ----

    cdef int key_fill(self, flow_key_t *key, bytes host, int port) except -1:
        cdef source_address_t peer = address_of(host, port)
        flow_key_fill(key, &peer, 3, peer.bytes, 0)            # of no address of ours
        return 0

    def flow(self, bytes host, int port, hash=None):
        """The index of a new session of that client. With `hash`, it is put there: clients that collide."""
        cdef worker_t *w = self.plane.workers[0]
        cdef flow_key_t key
        cdef uint32_t index = self.session(0)
        cdef session_t *s = self.at(0, index)
        s.flow = flow_take(&w.udp.flows)
        s.flow.fd = 3
        s.flow.peer_length = len(host)
        s.flow.peer_port = port
        memcpy(s.flow.peer, <char *>host, len(host))
        s.state = SESSION_FLOW
        w.flow_count += 1
        self.key_fill(&key, host, port)
        if flow_bind(w, s, flow_hash(&w.udp.flows, &key) if hash is None else hash) < 0:
            raise MemoryError()
        flow_list_push(w, s)
        return index

    def find(self, bytes host, int port, hash=None):
        cdef worker_t *w = self.plane.workers[0]
        cdef flow_key_t key
        cdef session_t *s
        self.key_fill(&key, host, port)
        s = flow_find(w, &key, flow_hash(&w.udp.flows, &key) if hash is None else hash)
        return None if s == NULL else s.index

    def used(self, uint32_t index):
        flow_used(self.plane.workers[0], self.at(0, index))

    def idlest(self):
        cdef session_t *s = flow_idlest(self.plane.workers[0], &self.live)
        return None if s == NULL else s.index

    def flow_count(self):
        return self.plane.workers[0].udp.flows.count

    # ---- links of worker 0 ----

    def link(self, uint64_t tag, bytes name):
        """A new one, connected to that sockaddr: (index, fd)."""
        cdef worker_t *w = self.plane.workers[0]
        cdef link_t *link = link_open(w, AF_INET, False)
        if link == NULL:
            raise OSError(errno, "link_open")
        link.tag = tag
        link.session = 0
        if connect(link.fd, <sockaddr *><char *>name, len(name)) < 0 or link_watch(w, link) < 0:
            raise OSError(errno, "connect")
        return link.index, link.fd

    def give_link(self, uint32_t index, bint done, uint32_t used_ms, bint reusable=True):
        link_give(self.plane.workers[0], links_at(&self.plane.workers[0].udp.links, index), done, used_ms, reusable)

    def reuse_link(self, uint64_t tag):
        cdef link_t *link = link_reuse(self.plane.workers[0], tag)
        return None if link == NULL else link.index

    def unread(self, uint32_t index):
        """There may be something to read in it of which no event will tell."""
        links_at(&self.plane.workers[0].udp.links, index).unread = True

    def drain_link(self, uint32_t index):
        link_drain(self.plane.workers[0], links_at(&self.plane.workers[0].udp.links, index))

    def sweep_links(self):
        links_sweep(self.plane.workers[0])

    def close_one_spare(self):
        return bool(spares_close_one(&self.plane.workers[0].udp.links))

    def links(self):
        """(open, spare)."""
        return self.plane.workers[0].udp.links.open_count, self.plane.workers[0].udp.links.spare_count

    def late_answers(self):
        return self.plane.workers[0].counters.late_answers


cdef class Bucket:
    """The token bucket of one session and direction, under a plane's limits for "up"."""

    cdef session_t session
    cdef Plane plane

    def __cinit__(self, Plane plane):
        self.plane = plane
        self.session.listener = &plane.live

    def room(self, uint64_t now_ns):
        cdef bandwidth_t bandwidth = session_bandwidth(&self.session, 0)
        return bandwidth_room(&bandwidth, now_ns)

    def pay(self, uint64_t now_ns, uint64_t moved):
        cdef bandwidth_t bandwidth = session_bandwidth(&self.session, 0)
        bandwidth_pay(&bandwidth, now_ns, moved)

    def wait_ms(self, uint64_t now_ns):
        cdef bandwidth_t bandwidth = session_bandwidth(&self.session, 0)
        return bandwidth_wait_ms(&bandwidth, now_ns)


cdef class Sources:
    """A table of sources, with the limits of one listener. Addresses are of 4 or 16 bytes."""

    cdef sources_t table
    cdef source_limits_t limits
    cdef list sessions                      # pointers to the sources that have one; None when it was given back

    def __cinit__(
        self, uint64_t sessions=0, uint64_t session_rate=0, uint64_t burst_ns=0, bint dry_run=False,
        uint64_t prefix_v4=32, uint64_t prefix_v6=64, uint64_t bandwidth=0,
    ):
        sources_init(&self.table, 12345)
        self.limits.counts = 1
        self.limits.sessions = sessions
        self.limits.session_rate = session_rate
        self.limits.session_burst_ns = burst_ns
        self.limits.prefix_v4 = prefix_v4
        self.limits.prefix_v6 = prefix_v6
        self.limits.dry_run = dry_run
        self.limits.bandwidth[0] = bandwidth
        self.sessions = []

    def __dealloc__(self):
        sources_close(&self.table)

    def take(self, bytes host, uint64_t now_ns, uint32_t listener=1, uint32_t scope_id=0, bint anyway=False):
        """(a number for `give`, or None; which limit it is over, 3: none)."""
        cdef source_address_t address = address_of(host, 1)
        cdef source_key_t key
        cdef source_t *source = NULL
        cdef source_limit_t over = SOURCE_LIMIT_COUNT
        cdef source_taken_t taken = SOURCE_TAKEN
        address.scope_id = scope_id
        source_key_fill(&key, &self.limits, listener, &address)
        if anyway:
            source = sources_take_anyway(&self.table, &key)
        else:
            taken = sources_take(&self.table, &self.limits, &key, now_ns, &source, &over)
        if taken == SOURCE_NO_MEMORY:
            raise MemoryError()
        if taken != SOURCE_TAKEN:
            return None, <int>over
        self.sessions.append(<size_t>source)
        return len(self.sessions) - 1, <int>over

    def give(self, size_t session, uint64_t now_ns):
        cdef size_t pointer = self.sessions[session]
        self.sessions[session] = None
        sources_give(&self.table, <source_t *>pointer, now_ns)

    def pass_by(self, uint64_t first, uint64_t count, uint64_t start_ns, uint64_t step_ns):
        """So many IPv6 networks of 64 bits, each with one session that begins and ends, one after the other. Returns
        how many were refused."""
        cdef source_address_t address
        cdef source_key_t key
        cdef source_t *source
        cdef source_limit_t over
        cdef uint64_t i, network, refused = 0
        memset(&address, 0, sizeof(address))
        address.length = 16
        for i in range(count):
            network = first + i
            memcpy(&address.bytes[0], &network, 8)
            source_key_fill(&key, &self.limits, 1, &address)
            if sources_take(&self.table, &self.limits, &key, start_ns + i * step_ns, &source, &over) == SOURCE_TAKEN:
                sources_give(&self.table, source, start_ns + i * step_ns)
            else:
                refused += 1
        return refused

    def move(self, size_t session, int direction, int64_t count, int64_t paid_until_ns=0):
        """Bytes, and how far its bucket is then."""
        cdef size_t pointer = self.sessions[session]
        (<source_t *>pointer).bytes[direction] += count
        (<source_t *>pointer).paid_until_ns[direction] = paid_until_ns

    def known(self):
        """How many there are in the table, and how many of them have no session."""
        cdef uint32_t i, count = 0, idle = 0
        for i in range(SOURCE_SHARDS):
            count += self.table.shards[i].count
            idle += self.table.shards[i].idle_count
        return count, idle

    def heap_is_sound(self):
        """Whether every idle source is where it says, and owes no less than the one above it."""
        cdef uint32_t i, at
        for i in range(SOURCE_SHARDS):
            for at in range(self.table.shards[i].idle_count):
                if self.table.shards[i].idle[at].idle_at != at:
                    return False
                if at and self.table.shards[i].idle[(at - 1) // 2].owed_until_ns > (
                    self.table.shards[i].idle[at].owed_until_ns
                ):
                    return False
        return True

    def heaviest(self, int order, uint32_t limit, uint64_t now_ns, uint32_t listener=0):
        """(how many there are, [(network, sessions, all sessions, recent, refused, bytes up, bytes down)])."""
        cdef heaviest_t heaviest
        cdef found_source_t *found = <found_source_t *>calloc(limit + 1, sizeof(found_source_t))
        cdef uint32_t i
        memset(&heaviest, 0, sizeof(heaviest))
        heaviest.order = <source_order_t>order
        heaviest.limit = limit
        heaviest.found = found
        sources_heaviest(&self.table, &heaviest, listener, now_ns)
        told = [
            (
                (<char *>found[i].source.key.network)[:found[i].source.key.length],
                found[i].source.sessions, found[i].source.sessions_total, found[i].recent, found[i].source.refused,
                found[i].source.bytes[0], found[i].source.bytes[1],
            )
            for i in range(heaviest.count)
        ]
        free(found)
        return heaviest.matched, told


SOURCES_REMEMBERED = <int>SOURCE_SHARDS * <int>SOURCE_IDLE_MAX
SOURCE_BYTES = sizeof(source_t)
RECENT_NS = <int64_t>SOURCE_RECENT_NS


def reset(int fd):
    socket_reset(fd)


def unsent(int fd):
    return socket_unsent(fd)


def has_unsent(int fd):
    return bool(socket_has_unsent(fd))
