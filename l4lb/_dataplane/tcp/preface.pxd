# Preface: a session's first bytes, read before there is a backend, because they say who the client is (a PROXY header)
# or what it wants (a TLS ClientHello). The header is taken out; all else stays in the up half's chunk, to be relayed.
# The session keeps what they said in a `preface_t` of its own, freed when it ends. Called on the worker's thread by
# opening.pxd.
#
#   awaited: a header --complete--> AWAIT_ROUTE, when the listener has routes --decided--> AWAIT_HELLO, when the pool
#            wants one --here, or no TLS--> AWAIT_NOTHING
#
# A header is waited for until a deadline that no byte moves, as is what decides about the route: then the pool is the
# one for which nothing more is needed. A ClientHello is optional.

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport calloc, realloc
from libc.string cimport memcpy

from l4lb._dataplane.admission.admission cimport hold_other_pool
from l4lb._dataplane.balancing.routes cimport ROUTE_LATER, route_facts_t, route_target, routes_find
from l4lb._dataplane.base.enums cimport (
    HALF_EOF, HALF_READABLE, HALF_SOURCE_FIN, PROXY_BAD_SIGNATURE, PROXY_COMPLETE, PROXY_HEADER_MAX_BYTES,
    PROXY_NEED_MORE, PROXY_SEND_ALPN, PROXY_SEND_AUTHORITY, PROXY_TRUNCATED, SIDE_CLIENT, proxy_result_t,
)
from l4lb._dataplane.base.hashing cimport random_next
from l4lb._dataplane.base.linux cimport EAGAIN, EINTR, counter_add, recv
from l4lb._dataplane.base.route_types cimport route_t, routes_t
from l4lb._dataplane.base.types cimport half_t, listener_t, pool_t, preface_t, session_t, source_address_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.proxy_protocol.header cimport proxy_header_parse, source_address_unmap
from l4lb._dataplane.proxy_protocol.types cimport PROXY_UNSPEC, proxy_header_t, proxy_mode_t
from l4lb._dataplane.resources.chunks cimport chunk_bytes, chunk_give, chunk_take
from l4lb._dataplane.resources.sessions cimport session_reads_short
from l4lb._dataplane.session.setup cimport session_listener, session_pool
from l4lb._dataplane.tcp.starttls cimport (
    STARTTLS_BYTES, STARTTLS_NONE, STARTTLS_PART, STARTTLS_TLS, starttls_read, starttls_t, starttls_tell,
)
from l4lb._dataplane.tls.client_hello cimport (
    HELLO_FOUND, HELLO_MAX_BYTES, HELLO_NEED_MORE, client_hello_parse, client_hello_t, hello_result_t,
)

cdef enum:
    AWAIT_NOTHING = 0             # up to here: proxy_mode_t
    AWAIT_HELLO = 0x10            # in addition, or alone
    AWAIT_ROUTE = 0x20
    AWAIT_STARTTLS = 0x40         # the client was told to begin TLS: the backend must be asked for it, see starttls.pxd
    AWAIT_HEADER = 0x0F           # mask of the mode
    PREFACE_BYTES = PROXY_HEADER_MAX_BYTES + HELLO_MAX_BYTES      # more is never read before there is a backend

cdef enum preface_outcome_t:
    PREFACE_WAITS = 0             # for its next edge, or its deadline
    PREFACE_DONE
    PREFACE_REFUSED               # and counted
    PREFACE_ABANDONED             # the client is gone
    PREFACE_NO_MEMORY


cdef inline const uint8_t *preface_bytes(const preface_t *preface) noexcept nogil:
    return <const uint8_t *>preface + sizeof(preface_t)


cdef inline preface_t *preface_grow(session_t *s, uint32_t count) noexcept nogil:
    """The session's preface with room for `count` bytes in all; NULL when memory is short."""
    cdef preface_t *grown
    if s.preface == NULL:
        s.preface = <preface_t *>calloc(1, sizeof(preface_t) + count)
        return s.preface
    grown = <preface_t *>realloc(s.preface, sizeof(preface_t) + count)
    if grown != NULL:
        s.preface = grown
    return grown


cdef inline int preface_note_destination(session_t *s, const source_address_t *destination) noexcept nogil:
    """Remember where the client connected to, if the listening socket knows. 0, or -1 when memory is short."""
    if destination.length == 0:
        return 0
    if preface_grow(s, 0) == NULL:
        return -1
    s.preface.destination = destination[0]
    return 0


# ---- the result ----

cdef inline void preface_refuse(worker_t *w, session_t *s, uint32_t refusal) noexcept nogil:
    """Count it by proxy_refusal_t."""
    counter_add(&s.listener.counters[w.index].proxy_refused[refusal], 1)


cdef inline int preface_keep_header(session_t *s, proxy_header_t *header, const uint8_t *data) noexcept nogil:
    """0, or -1 when memory is short. A header that names no client leaves the socket's own addresses in force; one of a
    unix client makes the session a unix client's, without an IP address."""
    cdef preface_t *kept
    if header.family != PROXY_UNSPEC:
        source_address_unmap(&header.source)
        source_address_unmap(&header.destination)
        s.source = header.source
    if header.family == PROXY_UNSPEC and header.tlvs.length == 0:
        return 0
    kept = preface_grow(s, header.tlvs.length)
    if kept == NULL:
        return -1
    if header.family != PROXY_UNSPEC:
        kept.destination = header.destination
    kept.received_length = header.tlvs.length
    memcpy(<uint8_t *>preface_bytes(kept), data + header.tlvs.offset, header.tlvs.length)
    return 0


cdef inline int preface_keep_hello(session_t *s, const client_hello_t *hello) noexcept nogil:
    cdef uint32_t before = s.preface.received_length if s.preface != NULL else 0
    cdef uint32_t added = <uint32_t>hello.server_name_length + hello.alpn_length
    cdef uint8_t *out
    if added == 0:
        return 0
    if preface_grow(s, before + added) == NULL:
        return -1
    out = <uint8_t *>preface_bytes(s.preface) + before
    memcpy(out, &hello.server_name[0], hello.server_name_length)
    memcpy(out + hello.server_name_length, &hello.alpn[0], hello.alpn_length)
    s.preface.authority_length = hello.server_name_length
    s.preface.alpn_length = hello.alpn_length
    return 0


cdef inline preface_outcome_t preface_header(
    worker_t *w, session_t *s, const uint8_t *data, uint32_t length, uint32_t *skipped
) noexcept nogil:
    cdef proxy_header_t header
    cdef proxy_result_t result
    result = proxy_header_parse(&header, data, length, <proxy_mode_t>(s.awaited & AWAIT_HEADER))
    if result == PROXY_NEED_MORE and not s.up.flags & HALF_EOF:
        return PREFACE_WAITS
    if result == PROXY_NEED_MORE and length == 0:
        return PREFACE_ABANDONED               # connected and left, as a port check does
    if result != PROXY_COMPLETE:
        preface_refuse(w, s, (PROXY_TRUNCATED if result == PROXY_NEED_MORE else result) - PROXY_BAD_SIGNATURE)
        return PREFACE_REFUSED
    s.awaited &= <uint8_t>~AWAIT_HEADER
    skipped[0] = header.length
    return PREFACE_DONE if preface_keep_header(s, &header, data) == 0 else PREFACE_NO_MEMORY


cdef inline bint pool_asks_for_hello(pool_t *pool) noexcept nogil:
    return pool != NULL and pool.send.tlvs & (PROXY_SEND_AUTHORITY | PROXY_SEND_ALPN)


cdef inline hello_result_t preface_hello_parse(
    session_t *s, client_hello_t *hello, const uint8_t *data, uint32_t length
) noexcept nogil:
    """Of all that the client has sent, behind its request for TLS if there was one."""
    cdef uint32_t at = STARTTLS_BYTES if s.awaited & AWAIT_STARTTLS else 0
    return client_hello_parse(hello, data + at, length - at)


# ---- routes ----

cdef inline void session_take_pool(worker_t *w, session_t *s, uint32_t slot) noexcept nogil:
    """Its route leads to the pool in that slot of the current snapshot."""
    cdef pool_t *pool = w.snapshot.pools_by_slot[slot]
    if pool.live == s.pool:
        return
    hold_other_pool(s.pool, pool.live, &s.held)
    s.pool = pool.live


cdef inline preface_outcome_t preface_routed(
    worker_t *w, session_t *s, const route_t *route, const route_facts_t *facts
) noexcept nogil:
    """The route is known; NULL: none takes the client."""
    s.awaited &= <uint8_t>~AWAIT_ROUTE
    if facts.hello == HELLO_FOUND and preface_keep_hello(s, facts.said) < 0:
        return PREFACE_NO_MEMORY
    if route != NULL:
        session_take_pool(w, s, route_target(route, &s.source, random_next(&w.random)))
    if facts.hello == HELLO_NEED_MORE and not facts.complete and pool_asks_for_hello(session_pool(w, s)):
        s.awaited |= AWAIT_HELLO
    return PREFACE_DONE


cdef inline preface_outcome_t preface_starttls(session_t *s, starttls_t request, uint32_t *skipped) noexcept nogil:
    """The route depends on a ClientHello that comes after an answer."""
    if request == STARTTLS_PART:
        return PREFACE_WAITS
    if request == STARTTLS_TLS:
        s.awaited |= AWAIT_STARTTLS
        return PREFACE_WAITS if starttls_tell(s, 0x53) else PREFACE_ABANDONED
    skipped[0] += STARTTLS_BYTES
    return PREFACE_WAITS if starttls_tell(s, 0x4E) else PREFACE_ABANDONED


cdef inline preface_outcome_t preface_route(
    worker_t *w, session_t *s, const uint8_t *data, uint32_t length, uint32_t *skipped, bint complete
) noexcept nogil:
    """By all that the client has sent. `complete`: no more is waited for, and what is not known does not hold."""
    cdef listener_t *listener = session_listener(w, s)
    cdef const routes_t *routes = listener.routes if listener != NULL else NULL
    cdef starttls_t request = STARTTLS_NONE
    cdef client_hello_t hello
    cdef route_facts_t facts
    cdef int found
    facts.source = &s.source
    facts.first = data
    facts.first_length = length
    facts.complete = complete or s.up.flags & HALF_EOF != 0
    facts.hello = HELLO_NEED_MORE
    facts.said = &hello
    if routes == NULL:
        return preface_routed(w, s, NULL, &facts)
    if routes.reads_hello and not s.awaited & AWAIT_STARTTLS:
        request = starttls_read(data, length)
    if routes.reads_hello and request == STARTTLS_NONE:
        facts.hello = preface_hello_parse(s, &hello, data, length)
    found = routes_find(routes, &facts)
    if found == ROUTE_LATER:
        return PREFACE_WAITS if request == STARTTLS_NONE else preface_starttls(s, request, skipped)
    return preface_routed(w, s, &routes.entries[found] if found >= 0 else NULL, &facts)


cdef inline preface_outcome_t preface_hello(session_t *s, const uint8_t *data, uint32_t length) noexcept nogil:
    """Anything but a ClientHello goes on at once without one."""
    cdef client_hello_t hello
    cdef hello_result_t result = preface_hello_parse(s, &hello, data, length)
    if result == HELLO_NEED_MORE and not s.up.flags & HALF_EOF:
        return PREFACE_WAITS
    s.awaited &= <uint8_t>~AWAIT_HELLO
    if result == HELLO_FOUND and preface_keep_hello(s, &hello) < 0:
        return PREFACE_NO_MEMORY
    return PREFACE_DONE


# ---- reading ----

cdef inline ssize_t preface_recv(worker_t *w, session_t *s, uint32_t held) noexcept nogil:
    """Read into the scratch buffer behind what is there, and set the half's flags as the relay does. Returns how many
    bytes came; -1 when the client is lost.

    recv(2): EAGAIN empty; 0 the FIN; ECONNRESET, ETIMEDOUT, EHOSTUNREACH and the rest lost.
    """
    cdef half_t *up = &s.up
    cdef ssize_t wanted = PREFACE_BYTES - held
    cdef ssize_t got = recv(s.client_fd, w.scratch + held, wanted, 0)
    if got < 0:
        if errno == EAGAIN:
            up.flags &= <uint8_t>~HALF_READABLE
        return 0 if errno == EAGAIN or errno == EINTR else -1
    if got == 0:
        up.flags |= HALF_EOF
    elif got < wanted and not session_reads_short(s, SIDE_CLIENT, up):
        up.flags &= <uint8_t>~HALF_READABLE
        if up.flags & HALF_SOURCE_FIN:
            up.flags |= HALF_EOF
    return got


cdef inline preface_outcome_t preface_judge(
    worker_t *w, session_t *s, uint32_t length, uint32_t *skipped
) noexcept nogil:
    """Judge all that is in the scratch buffer. Its first `skipped` bytes are the header."""
    cdef preface_outcome_t outcome = PREFACE_DONE
    if s.awaited & AWAIT_HEADER:
        outcome = preface_header(w, s, w.scratch, length, skipped)
    if outcome == PREFACE_DONE and s.awaited & AWAIT_ROUTE:
        outcome = preface_route(w, s, w.scratch + skipped[0], length - skipped[0], skipped, False)
    if outcome == PREFACE_DONE and s.awaited & AWAIT_HELLO:
        outcome = preface_hello(s, w.scratch + skipped[0], length - skipped[0])
    return outcome


cdef inline int preface_store(worker_t *w, half_t *up, uint32_t length, uint32_t skipped) noexcept nogil:
    """Keep what is to be relayed, with the space of what was taken out before it: our own header may go there."""
    if up.chunk != NULL:
        chunk_give(&w.chunks, up.chunk)
        up.chunk = NULL
    if length == skipped:
        return 0
    up.chunk = chunk_take(&w.chunks, w.scratch, length)
    if up.chunk == NULL:
        return -1
    up.chunk.start = skipped
    up.chunk.length = length - skipped
    return 0


cdef inline preface_outcome_t preface_step(worker_t *w, session_t *s) noexcept nogil:
    """One read, and the judgement of all that is here."""
    cdef uint32_t held = s.up.chunk.length if s.up.chunk != NULL else 0
    cdef uint32_t skipped = 0
    cdef preface_outcome_t outcome
    cdef ssize_t got
    if held:
        memcpy(w.scratch, chunk_bytes(s.up.chunk) + s.up.chunk.start, held)
    got = preface_recv(w, s, held)
    if got < 0:
        return PREFACE_ABANDONED
    outcome = preface_judge(w, s, held + <uint32_t>got, &skipped)
    if outcome == PREFACE_WAITS or outcome == PREFACE_DONE:
        if preface_store(w, &s.up, held + <uint32_t>got, skipped) < 0:
            return PREFACE_NO_MEMORY
    return outcome


cdef inline preface_outcome_t preface_read(worker_t *w, session_t *s) noexcept nogil:
    """Read what the client has sent so far."""
    cdef preface_outcome_t outcome = PREFACE_WAITS
    while outcome == PREFACE_WAITS and s.up.flags & HALF_READABLE:
        outcome = preface_step(w, s)
    return outcome
