# Opening: from an accepted client to a session that looks for its backend, at once, or after its first bytes were read
# (READING, see preface.pxd) and its listener's hook was asked (ASKING, see session/asking.pxd). Called by accept.pxd,
# events.pxd and worker/loop.pxd, on the worker's thread.

from libc.stdint cimport uint32_t
from libc.string cimport memset

from l4lb._dataplane.admission.access cimport access_refused
from l4lb._dataplane.admission.admission cimport (
    ADMITTED, HELD_PROCESS, admit_source, admitted_t, admitted_too_fast, hold_pool, hold_worker, refusal_closes,
    release,
)
from l4lb._dataplane.admission.limits cimport bandwidth_pay, bandwidth_t, session_bandwidth
from l4lb._dataplane.balancing.pick cimport client_hash, selection_hashes
from l4lb._dataplane.base.addresses cimport source_address_set
from l4lb._dataplane.base.enums cimport (
    CLOSE_CLIENT_ABORT, CLOSE_DENIED, CLOSE_PROXY_HEADER_ERROR, CLOSE_RATE_LIMITED, CLOSE_RESOURCE_LIMIT,
    HALF_READABLE, HASH_KEY_DESTINATION, HASH_KEY_RANDOM, HASH_KEY_SESSION, HELLO_WAIT_MS, HOOK_BACKEND,
    HOOK_DEADLINE_MASK, HOOK_FAILED, HOOK_FULL, HOOK_LATE, HOOK_POOL, HOOK_REJECTED, HOOK_REJECTS, HOOK_RESULT_COUNT,
    PROXY_REFUSED_TIMEOUT, ROUTE_WAIT_MS, SESSION_ASKING, SESSION_READING, SIDE_CLIENT, close_reason_t, hook_result_t,
)
from l4lb._dataplane.base.hashing cimport random_next
from l4lb._dataplane.base.linux cimport IPPROTO_TCP, counter_add, published_load_u32, unlikely
from l4lb._dataplane.base.parts cimport chunk_t
from l4lb._dataplane.base.types cimport listener_t, pool_t, session_t, source_address_t
from l4lb._dataplane.base.worker_types cimport accepted_client_t, answer_t, worker_t
from l4lb._dataplane.resources.chunks cimport chunk_bytes
from l4lb._dataplane.resources.sessions cimport sessions_at, sessions_reach, sessions_take
from l4lb._dataplane.session.asking cimport answer_take, ask_send
from l4lb._dataplane.session.closing cimport session_count_end, session_dispose, session_end, socket_end
from l4lb._dataplane.session.records cimport histogram_add, record_client
from l4lb._dataplane.session.setup cimport session_init, session_listener, session_pool
from l4lb._dataplane.tcp.headers cimport session_destination
from l4lb._dataplane.tcp.preface cimport (
    AWAIT_HEADER, AWAIT_HELLO, AWAIT_NOTHING, AWAIT_ROUTE, AWAIT_STARTTLS, PREFACE_DONE, PREFACE_NO_MEMORY,
    PREFACE_REFUSED, PREFACE_WAITS, pool_asks_for_hello, preface_note_destination, preface_outcome_t, preface_read,
    preface_refuse, preface_route, session_take_pool,
)
from l4lb._dataplane.tcp.progress cimport session_arm
from l4lb._dataplane.tcp.transitions cimport session_connect, session_connect_to, session_mark, session_watch
from l4lb._dataplane.udp.make_room cimport admit_to_process_with_room


cdef inline void session_hash(worker_t *w, session_t *s, pool_t *pool) noexcept nogil:
    """By the pool's key; the destination only where the key includes it."""
    cdef source_address_t destination
    if pool.hash_key == HASH_KEY_RANDOM:
        s.hash = random_next(&w.random)
        return
    memset(&destination, 0, sizeof(destination))
    if pool.hash_key == HASH_KEY_DESTINATION or pool.hash_key == HASH_KEY_SESSION:
        session_destination(s, &destination)
    s.hash = client_hash(pool, &s.source, &destination, IPPROTO_TCP)


cdef inline void session_set_out(worker_t *w, session_t *s, uint32_t backend_id) noexcept nogil:
    """Its pool is known: on to a backend. `backend_id`: the one to try first; 0: as the pool's policy says."""
    cdef pool_t *pool = session_pool(w, s)
    if pool != NULL and selection_hashes(pool.selection):
        session_hash(w, s, pool)
    if unlikely(backend_id):
        session_connect_to(w, s, backend_id)
    else:
        session_connect(w, s)


cdef inline void session_refuse(worker_t *w, session_t *s, close_reason_t reason, bint closes) noexcept nogil:
    """End a session that has not begun to relay; `closes`: its client sees a FIN."""
    session_count_end(w, s, reason)
    if closes:
        socket_end(s.client_fd, False)
        s.client_fd = -1
    session_dispose(w, s, reason)


# ---- its listener's hook ----

cdef inline void session_reject(worker_t *w, session_t *s) noexcept nogil:
    """As one that is denied by its address."""
    cdef listener_t *listener = session_listener(w, s)
    session_refuse(w, s, CLOSE_DENIED, listener != NULL and listener.access.closes)


cdef inline bint pool_is_published(worker_t *w, uint32_t slot) noexcept nogil:
    return slot < w.snapshot.pool_slots and w.snapshot.pools_by_slot[slot] != NULL


cdef inline void session_hooked(worker_t *w, session_t *s, hook_result_t result, uint32_t target) noexcept nogil:
    """Carry out what its hook says, or what holds without an answer. A pool that has gone since is as no answer."""
    if result == HOOK_POOL and not pool_is_published(w, target):
        result = HOOK_FAILED
    if result >= HOOK_LATE:
        s.tagged = False
    counter_add(&s.listener.counters[w.index].hooked[<int>result], 1)
    if result == HOOK_REJECTED or (result >= HOOK_LATE and published_load_u32(&s.listener.hook) & HOOK_REJECTS):
        session_reject(w, s)
        return
    if result == HOOK_POOL:
        session_take_pool(w, s, target)
    session_set_out(w, s, target if result == HOOK_BACKEND else 0)


cdef inline void session_ask(worker_t *w, session_t *s, uint32_t hook) noexcept nogil:
    """`hook`: as listener_live_t has it."""
    s.state = SESSION_ASKING
    s.attempt_started_ns = w.now_ns
    s.state_deadline_ms = <uint32_t>w.now_ms + (hook & HOOK_DEADLINE_MASK)
    if not session_watch(w, s):
        return
    if not ask_send(w, s):
        session_hooked(w, s, HOOK_FULL, 0)
        return
    session_arm(w, s, s.state_deadline_ms)


cdef inline void session_answered(worker_t *w, const answer_t *answer) noexcept nogil:
    """Unless the session has gone on without its hook, or is gone."""
    cdef session_t *s = sessions_at(&w.sessions, answer.index) if sessions_reach(&w.sessions, answer.index) else NULL
    cdef hook_result_t result = <hook_result_t>answer.result
    if (
        s == NULL or s.state != SESSION_ASKING or s.generation != answer.generation or s.id != answer.session_id
    ):
        counter_add(&w.answers.dropped, 1)
        return
    histogram_add(&w.counters.hook_time, w.now_ns - s.attempt_started_ns)
    s.tagged = answer.tagged
    session_hooked(w, s, result if result < HOOK_RESULT_COUNT else HOOK_FAILED, answer.target)


cdef inline void answers_take(worker_t *w) noexcept nogil:
    cdef answer_t answer
    while answer_take(w, &answer):
        session_answered(w, &answer)


cdef inline void session_decide(worker_t *w, session_t *s) noexcept nogil:
    """Where it goes, or whether it may: its listener's hook is asked, if it has one."""
    cdef uint32_t hook = published_load_u32(&s.listener.hook)
    if unlikely(hook):
        session_ask(w, s, hook)
    else:
        session_set_out(w, s, 0)


cdef inline void session_route(worker_t *w, session_t *s) noexcept nogil:
    """The client and what it wants are known."""
    cdef bandwidth_t bandwidth
    if s.up.chunk != NULL:
        bandwidth = session_bandwidth(s, 0)
        bandwidth_pay(&bandwidth, w.now_ns, s.up.chunk.length)
    session_decide(w, s)


# ---- reading ----

cdef inline void session_await(worker_t *w, session_t *s, uint32_t proxy_timeout_ms) noexcept nogil:
    """Until a deadline that no byte moves, for what is awaited next."""
    cdef uint32_t wait_ms = HELLO_WAIT_MS
    if s.awaited & AWAIT_HEADER:
        wait_ms = proxy_timeout_ms
    elif s.awaited & AWAIT_ROUTE:
        wait_ms = ROUTE_WAIT_MS
    s.state_deadline_ms = <uint32_t>w.now_ms + wait_ms
    session_arm(w, s, s.state_deadline_ms)


cdef inline bint session_admitted(worker_t *w, session_t *s) noexcept nogil:
    """Whether the client that the header names may come in, by its address and its source's limits. Otherwise the
    session has ended."""
    cdef listener_t *listener = session_listener(w, s) if w.snapshot.refuses else NULL
    cdef admitted_t admitted
    cdef close_reason_t reason
    if listener != NULL and access_refused(&listener.access, &s.source):
        session_refuse(w, s, CLOSE_DENIED, listener.access.closes)
        return False
    admitted = admit_source(w, s.listener, &s.source, &s.held)
    if admitted != ADMITTED:
        reason = CLOSE_RATE_LIMITED if admitted_too_fast(admitted) else CLOSE_RESOURCE_LIMIT
        session_refuse(w, s, reason, refusal_closes(s.listener, admitted))
        return False
    return True


cdef inline bint session_reads(worker_t *w, session_t *s) noexcept nogil:
    """Read what is there. True: more is needed. False: the session has gone on to a backend, or has ended."""
    cdef bint unnamed = s.awaited & AWAIT_HEADER
    cdef preface_outcome_t outcome = preface_read(w, s)
    if (outcome == PREFACE_WAITS or outcome == PREFACE_DONE) and unnamed and not s.awaited & AWAIT_HEADER:
        if not session_admitted(w, s):
            return False
    if outcome == PREFACE_WAITS:
        return True
    if outcome == PREFACE_DONE:
        session_route(w, s)
    elif outcome == PREFACE_REFUSED:
        session_end(w, s, CLOSE_PROXY_HEADER_ERROR)
    else:
        session_end(w, s, CLOSE_RESOURCE_LIMIT if outcome == PREFACE_NO_MEMORY else CLOSE_CLIENT_ABORT)
    return False


cdef inline bint session_is_routed(worker_t *w, session_t *s) noexcept nogil:
    """By its address alone, if that is enough. False: the session has ended."""
    cdef uint32_t skipped = 0
    if preface_route(w, s, w.scratch, 0, &skipped, False) != PREFACE_NO_MEMORY:
        return True
    session_end(w, s, CLOSE_RESOURCE_LIMIT)
    return False


cdef inline void session_open(
    worker_t *w, session_t *s, uint32_t proxy_timeout_ms, bint deferred, bint routed
) noexcept nogil:
    """A new session, whose `awaited` is the version of the header that its listener expects. If the client was
    `deferred`, its first bytes are here, mostly all that is awaited: then it need not be watched for them."""
    if routed:
        s.awaited |= AWAIT_ROUTE
        if not s.awaited & AWAIT_HEADER and not session_is_routed(w, s):
            return
    elif pool_asks_for_hello(session_pool(w, s)):
        s.awaited |= AWAIT_HELLO
    if s.awaited == AWAIT_NOTHING:
        session_route(w, s)
        return
    s.state = SESSION_READING
    if deferred:
        s.up.flags |= HALF_READABLE
        if not session_reads(w, s):
            return
    if session_watch(w, s):
        session_await(w, s, proxy_timeout_ms)


cdef inline void session_event_reading(worker_t *w, session_t *s, uint32_t events) noexcept nogil:
    cdef bint named = not s.awaited & AWAIT_HEADER
    session_mark(s, SIDE_CLIENT, events)
    if session_reads(w, s) and not named and not s.awaited & AWAIT_HEADER:
        session_await(w, s, 0)


cdef inline void session_timeout_reading(worker_t *w, session_t *s) noexcept nogil:
    """Without its header there is no session; without what decides about its route, or a ClientHello, it goes on."""
    cdef chunk_t *chunk = s.up.chunk
    cdef preface_outcome_t outcome = PREFACE_DONE
    cdef uint32_t skipped = 0
    if s.awaited & AWAIT_HEADER:
        preface_refuse(w, s, PROXY_REFUSED_TIMEOUT)
        session_end(w, s, CLOSE_PROXY_HEADER_ERROR)
        return
    if s.awaited & AWAIT_ROUTE and chunk == NULL:
        outcome = preface_route(w, s, w.scratch, 0, &skipped, True)
    elif s.awaited & AWAIT_ROUTE:
        outcome = preface_route(w, s, chunk_bytes(chunk) + chunk.start, chunk.length, &skipped, True)
    if outcome == PREFACE_NO_MEMORY:
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
        return
    s.awaited &= AWAIT_STARTTLS
    session_route(w, s)


# ---- from a client that was admitted ----

cdef inline void client_end(worker_t *w, accepted_client_t *client, close_reason_t reason, bint reset) noexcept nogil:
    """A client that was counted and gets no session: record it, count it as ended for `reason`, then reset or close it,
    so that who sees its end finds it counted."""
    record_client(w, client, reason)
    counter_add(&client.listener.counters[w.index].closed[<int>reason], 1)
    socket_end(client.fd, reset)
    release(w, client.listener, client.pool, &client.held)


cdef inline void session_start(worker_t *w, accepted_client_t *client) noexcept nogil:
    """A session for an admitted client. One that another worker had no room for is admitted to the process here."""
    cdef session_t *s = NULL
    cdef pool_t *pool
    hold_worker(w, &client.held)
    if client.held.places & HELD_PROCESS or admit_to_process_with_room(w, False, &client.held):
        s = sessions_take(&w.sessions)
    if s == NULL:
        client_end(w, client, CLOSE_RESOURCE_LIMIT, True)
        return
    hold_pool(client.pool, &client.held)
    session_init(w, s, client)
    source_address_set(&s.source, &client.address)
    pool = session_pool(w, s)
    if ((pool != NULL and pool.send.version) or client.routed) and preface_note_destination(s, &client.local) < 0:
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
        return
    session_open(w, s, client.proxy_timeout_ms, client.terms.deferred, client.routed)
