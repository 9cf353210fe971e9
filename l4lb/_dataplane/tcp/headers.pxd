# Headers: the PROXY header in front of a TCP session's bytes to its backend. It is made anew for each attempt to
# connect, as the beginning of what the up half has pending, and taken back when the attempt fails: once a backend has
# received any of it, no other is tried. Called on the worker's thread by connect.pxd.

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.addresses cimport source_address_set
from l4lb._dataplane.base.enums cimport PROXY_HEADER_MAX_BYTES, SCRATCH_BYTES
from l4lb._dataplane.base.linux cimport getsockname, sockaddr, sockaddr_storage, socklen_t
from l4lb._dataplane.base.parts cimport chunk_t
from l4lb._dataplane.base.types cimport half_t, pool_t, session_t, source_address_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.proxy_protocol.sender cimport proxy_client_t, proxy_send_write
from l4lb._dataplane.proxy_protocol.types cimport PROXY_STREAM
from l4lb._dataplane.resources.chunks cimport chunk_bytes, chunk_give, chunk_take
from l4lb._dataplane.tcp.preface cimport preface_bytes


cdef inline void session_destination(session_t *s, source_address_t *destination) noexcept nogil:
    """Where the client connected to, by its own header if it sent one. getsockname(2) does not fail on an open
    socket."""
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    if s.preface != NULL and s.preface.destination.length:
        destination[0] = s.preface.destination
        return
    memset(&address, 0, sizeof(address))
    getsockname(s.client_fd, <sockaddr *>&address, &length)
    source_address_set(destination, &address)


cdef inline int header_build(worker_t *w, session_t *s, pool_t *pool, uint8_t *bytes) noexcept nogil:
    """Returns its length. `bytes` has room for PROXY_HEADER_MAX_BYTES, more than any pool can ask for."""
    cdef source_address_t destination
    cdef proxy_client_t client
    memset(&client, 0, sizeof(client))
    session_destination(s, &destination)
    client.source = &s.source
    client.destination = &destination
    client.transport = PROXY_STREAM
    client.instance = w.plane.instance
    client.session_id = s.id
    if s.preface != NULL:
        client.received.data = preface_bytes(s.preface)
        client.received.length = s.preface.received_length
        client.authority.data = client.received.data + s.preface.received_length
        client.authority.length = s.preface.authority_length
        client.alpn.data = client.authority.data + s.preface.authority_length
        client.alpn.length = s.preface.alpn_length
    return proxy_send_write(&client, &pool.send, bytes, PROXY_HEADER_MAX_BYTES)


cdef inline int header_prepend(worker_t *w, half_t *up, uint32_t length) noexcept nogil:
    """Put the `length` bytes at the scratch buffer's start in front of what is pending. 0, or -1 when memory is short
    or there is no room. Where a header was received and stripped, the chunk itself mostly has room."""
    cdef chunk_t *chunk = up.chunk
    cdef uint32_t pending = chunk.length if chunk != NULL else 0
    if chunk != NULL and chunk.start >= length:
        chunk.start -= length
        chunk.length += length
        memcpy(chunk_bytes(chunk) + chunk.start, w.scratch, length)
        return 0
    if length + pending > SCRATCH_BYTES:
        return -1
    if chunk != NULL:
        memcpy(w.scratch + length, chunk_bytes(chunk) + chunk.start, pending)
        chunk_give(&w.chunks, chunk)
    up.chunk = chunk_take(&w.chunks, w.scratch, length + pending)
    return 0 if up.chunk != NULL else -1


cdef inline int header_attach(worker_t *w, session_t *s, pool_t *pool) noexcept nogil:
    """Before an attempt. 0, also when the pool sends none; -1 when memory is short."""
    cdef int length
    if pool.send.version == 0:
        return 0
    length = header_build(w, s, pool, w.scratch)
    if length < 0 or header_prepend(w, &s.up, <uint32_t>length) < 0:
        return -1
    s.up.overhead_bytes = <uint32_t>length
    return 0


cdef inline void header_detach(worker_t *w, session_t *s) noexcept nogil:
    """After an attempt that failed, when none of it was sent."""
    cdef chunk_t *chunk = s.up.chunk
    cdef uint32_t length = s.up.overhead_bytes
    if length == 0:
        return
    s.up.overhead_bytes = 0
    chunk.start += length
    chunk.length -= length
    if chunk.length == 0:
        chunk_give(&w.chunks, chunk)
        s.up.chunk = NULL
