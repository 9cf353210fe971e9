# STARTTLS of PostgreSQL: a client asks for TLS before its ClientHello, so that its server name can be read only when it
# was told that TLS may begin. l4lb says that for the backend, and asks the backend the same before it relays
# (SESSION_NEGOTIATING). The protocol is in PostgreSQL's manual, "Message Flow", "SSL Session Encryption" and "GSSAPI
# Session Encryption": each request has eight bytes, each answer one.
#
#   client: SSLRequest --> l4lb: S --> client: ClientHello --> routed --> l4lb: SSLRequest --> backend: S --> relayed
#
# A request for encryption by GSSAPI is refused with N, after which clients ask for TLS. Whatever follows a request
# without waiting for the answer was not encrypted: it is for the backend to judge, as is all else. Called on the
# worker's thread by preface.pxd, transitions.pxd and events.pxd.

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcmp

from l4lb._dataplane.base.enums cimport SESSION_HEADER_SENT
from l4lb._dataplane.base.linux cimport EAGAIN, EINTR, MSG_NOSIGNAL, counter_add, recv, send
from l4lb._dataplane.base.parts cimport chunk_t
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.chunks cimport chunk_bytes, chunk_give

cdef enum:
    STARTTLS_BYTES = 8            # of a request

cdef enum starttls_t:
    STARTTLS_NONE = 0             # no request
    STARTTLS_PART                 # may become one
    STARTTLS_TLS
    STARTTLS_GSSAPI

cdef enum starttls_answer_t:
    STARTTLS_WAITS = 0            # no answer yet
    STARTTLS_AGREED
    STARTTLS_DECLINED             # the backend offers no TLS, or is no PostgreSQL
    STARTTLS_ENDED                # ... or has closed
    STARTTLS_LOST                 # ... or was lost: errno

cdef extern from * nogil:
    """
    static const uint8_t starttls_request[8] = {0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F};
    """
    const uint8_t *starttls_request


cdef inline starttls_t starttls_read(const uint8_t *data, uint32_t length) noexcept nogil:
    """What a client's first bytes are, all that have come."""
    if length == 0 or length > STARTTLS_BYTES:
        return STARTTLS_NONE
    if length < STARTTLS_BYTES:
        return STARTTLS_PART if memcmp(data, starttls_request, length) == 0 else STARTTLS_NONE
    if memcmp(data, starttls_request, STARTTLS_BYTES - 1):
        return STARTTLS_NONE
    if data[STARTTLS_BYTES - 1] == 0x2F:
        return STARTTLS_TLS
    return STARTTLS_GSSAPI if data[STARTTLS_BYTES - 1] == 0x30 else STARTTLS_NONE


cdef inline bint starttls_tell(session_t *s, uint8_t answer) noexcept nogil:
    """Send the client its answer. send(2): EAGAIN when it has asked thousands of times and read no answer; otherwise it
    is gone. False ends the session either way."""
    return send(s.client_fd, &answer, 1, MSG_NOSIGNAL) == 1


cdef inline void starttls_ask(session_t *s) noexcept nogil:
    """Send the backend the request, after our PROXY header. Both stay pending, for another backend, until this one has
    answered. send(2): what a new socket does not take at once ends by the attempt's deadline, errors by the edge that
    reports them."""
    cdef chunk_t *chunk = s.up.chunk
    send(s.backend_fd, chunk_bytes(chunk) + chunk.start, s.up.overhead_bytes + STARTTLS_BYTES, MSG_NOSIGNAL)


cdef inline starttls_answer_t starttls_hear(session_t *s) noexcept nogil:
    """Read the backend's answer, and no more. recv(2): EAGAIN not yet; 0 the FIN; everything else ends the attempt."""
    cdef uint8_t answer = 0
    cdef ssize_t got = recv(s.backend_fd, &answer, 1, 0)
    if got < 0 and (errno == EAGAIN or errno == EINTR):
        return STARTTLS_WAITS
    if got == 0:
        return STARTTLS_ENDED
    if got < 0:
        return STARTTLS_LOST
    return STARTTLS_AGREED if answer == 0x53 else STARTTLS_DECLINED


cdef inline void starttls_done(worker_t *w, session_t *s) noexcept nogil:
    """The backend has the header and the request: what is pending begins with the ClientHello."""
    cdef chunk_t *chunk = s.up.chunk
    cdef uint32_t sent = s.up.overhead_bytes + STARTTLS_BYTES
    if s.up.overhead_bytes:
        s.flags |= SESSION_HEADER_SENT
    s.up.overhead_bytes = 0
    s.up.bytes += STARTTLS_BYTES
    s.down.bytes += 1
    counter_add(&s.backend.counters[w.index].bytes_up, STARTTLS_BYTES)
    counter_add(&s.backend.counters[w.index].bytes_down, 1)
    chunk.start += sent
    chunk.length -= sent
    if chunk.length == 0:
        chunk_give(&w.chunks, chunk)
        s.up.chunk = NULL
