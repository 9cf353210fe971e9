# Pre-copy: before the sessions of TCP stand still to go to another process, the sockets of those that relay go ahead,
# while their bytes flow on here. The new process registers them with epoll, which takes most of the time that a move
# takes. Called on the worker's thread by worker/loop.pxd.
#
#   the old process: control asks (precopy_version) --> workers send descriptors and ids, some each turn (precopied)
#   the new process: control gives them to workers (arriving) --> sessions in state ARRIVING, which only note events
#                    importing.pxd makes sessions of them; those of which no more is heard are closed (arrived_version)
#
# A socket that is open elsewhere too does not end when it is closed here: see session/closing.pxd:shared_socket_end.
# The worker itself sends them, as control could not know whether a number still means the same socket.

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.enums cimport (
    SESSIONS_PER_BLOCK, SESSION_ARRIVING, SESSION_CLIENT_WATCHED, SESSION_RELAYING, SIDE_BACKEND,
    SIDE_CLIENT, TIMER_IDLE, side_t,
)
from l4lb._dataplane.base.linux cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, EAGAIN, EINTR, ENOBUFS, EPOLLOUT, ETOOMANYREFS, MSG_NOSIGNAL, SCM_RIGHTS,
    SOL_SOCKET, cmsghdr, iovec, msghdr, published_load_pointer, published_load_u32, published_load_u64,
    published_store_pointer, published_store_u64, sendmsg,
)
from l4lb._dataplane.base.migration_types cimport arrival_t, arrivals_t
from l4lb._dataplane.base.types cimport half_t, session_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.poller cimport poller_forget, poller_watch
from l4lb._dataplane.resources.sessions cimport sessions_at, sessions_give, sessions_take
from l4lb._dataplane.session.closing cimport socket_end

cdef enum:
    PRECOPY_BATCH = 64            # sessions in one message
    CONTROL_ROOM = 1024           # for the descriptors of one message

cdef enum precopy_result_t:
    PRECOPY_SENT = 0
    PRECOPY_LATER                 # no room now
    PRECOPY_FAILED                # these go with their sessions

cdef struct precopy_t:            # one message
    uint64_t ids[PRECOPY_BATCH]
    int fds[2 * PRECOPY_BATCH]
    uint32_t indices[PRECOPY_BATCH]
    uint32_t count


# ---- the old process ----

cdef inline bint session_can_go_ahead(const session_t *s) noexcept nogil:
    """It has both sockets and keeps them to its end. Unix sockets go with the session: as long as they are open there,
    they could not be ended here."""
    return s.state == SESSION_RELAYING and s.unix_sides == 0 and s.flags & SESSION_CLIENT_WATCHED != 0


cdef inline precopy_result_t precopy_send(int fd, precopy_t *message) noexcept nogil:
    """sendmsg(2), SCM_RIGHTS: EAGAIN, ENOBUFS the socket is full; ETOOMANYREFS too many are on their way (unix(7));
    EINTR. ENOMEM: not these. EPIPE, ECONNRESET, EBADF: nobody wants them any more."""
    cdef uint8_t control[CONTROL_ROOM]
    cdef msghdr header
    cdef cmsghdr *rights
    cdef iovec vector
    memset(&header, 0, sizeof(header))
    memset(control, 0, sizeof(control))
    vector.iov_base = message.ids
    vector.iov_len = message.count * sizeof(uint64_t)
    header.msg_iov = &vector
    header.msg_iovlen = 1
    header.msg_control = control
    header.msg_controllen = CMSG_LEN(2 * message.count * sizeof(int))
    rights = CMSG_FIRSTHDR(&header)
    rights.cmsg_level = SOL_SOCKET
    rights.cmsg_type = SCM_RIGHTS
    rights.cmsg_len = CMSG_LEN(2 * message.count * sizeof(int))
    memcpy(CMSG_DATA(rights), message.fds, 2 * message.count * sizeof(int))
    if sendmsg(fd, &header, MSG_NOSIGNAL) >= 0:
        return PRECOPY_SENT
    if errno == EAGAIN or errno == ENOBUFS or errno == ETOOMANYREFS or errno == EINTR:
        return PRECOPY_LATER
    return PRECOPY_FAILED


cdef inline void precopy_collect(worker_t *w, precopy_t *message) noexcept nogil:
    """The next ones, from where the pass is."""
    cdef uint32_t end = w.sessions.block_count * SESSIONS_PER_BLOCK
    cdef session_t *s
    message.count = 0
    while w.precopy_at < end and message.count < PRECOPY_BATCH:
        s = sessions_at(&w.sessions, w.precopy_at)
        w.precopy_at += 1
        if session_can_go_ahead(s):
            message.ids[message.count] = s.id
            message.indices[message.count] = s.index
            message.fds[2 * message.count] = s.client_fd
            message.fds[2 * message.count + 1] = s.backend_fd
            message.count += 1


cdef inline void precopy_begin(worker_t *w, uint64_t version) noexcept nogil:
    """What an earlier pass sent is closed there."""
    cdef uint32_t i
    w.precopy_version = version
    w.precopying = True
    w.precopy_at = 0
    for i in range(w.sessions.block_count * SESSIONS_PER_BLOCK):
        sessions_at(&w.sessions, i).shared = False


cdef inline void precopy_run(worker_t *w) noexcept nogil:
    """One message. Once it is sent, the sockets in it count as shared."""
    cdef precopy_t message
    cdef precopy_result_t result = PRECOPY_SENT
    cdef uint32_t at = w.precopy_at
    cdef uint32_t i
    precopy_collect(w, &message)
    if message.count:
        result = precopy_send(w.plane.precopy_fd, &message)
    if result == PRECOPY_LATER:
        w.precopy_at = at
        return
    if result == PRECOPY_SENT:
        for i in range(message.count):
            sessions_at(&w.sessions, message.indices[i]).shared = True
    if w.precopy_at >= w.sessions.block_count * SESSIONS_PER_BLOCK:
        w.precopying = False
        published_store_u64(&w.precopied_version, w.precopy_version)


cdef inline void precopies(worker_t *w) noexcept nogil:
    """Each turn."""
    cdef uint64_t asked = published_load_u64(&w.plane.precopy_version)
    if asked != w.precopy_version:
        precopy_begin(w, asked)
    if w.precopying:
        precopy_run(w)


# ---- the new process ----

cdef inline void edge_arriving(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil:
    """The other process reads it. Noted for when it is here."""
    if side == SIDE_CLIENT:
        s.up.bytes |= events
    else:
        s.down.bytes |= events


cdef inline void arrival_drop(worker_t *w, session_t *s, bint reset) noexcept nogil:
    """Without `reset` the other process goes on with it, or has ended it."""
    poller_forget(w, s.client_fd)
    poller_forget(w, s.backend_fd)
    socket_end(s.client_fd, reset)
    socket_end(s.backend_fd, reset)
    sessions_give(&w.sessions, s)


cdef inline bint arrival_take(worker_t *w, arrival_t *arrival) noexcept nogil:
    """False when memory or watches are short: its descriptors are closed then, and the session comes with others."""
    cdef session_t *s = sessions_take(&w.sessions)
    if s == NULL:
        return False
    memset(&s.up, 0, sizeof(half_t))
    memset(&s.down, 0, sizeof(half_t))
    s.id = arrival.id
    s.client_fd = arrival.fds[0]
    s.backend_fd = arrival.fds[1]
    s.backend = NULL
    s.flow = NULL
    s.flags = 0
    s.timer.slot = TIMER_IDLE
    s.state = SESSION_ARRIVING
    arrival.index = s.index
    if poller_watch(w, s, SIDE_CLIENT, s.client_fd, 0) == 0:
        if poller_watch(w, s, SIDE_BACKEND, s.backend_fd, EPOLLOUT) == 0:
            return True
    arrival_drop(w, s, False)
    arrival.fds[0] = arrival.fds[1] = -1
    return False


cdef inline void arrivals_take(worker_t *w) noexcept nogil:
    """Each turn. Control keeps the batch, and learns from it where each is; `lost` ones are not here."""
    cdef arrivals_t *batch = <arrivals_t *>published_load_pointer(<void **>&w.arriving)
    cdef uint32_t i
    if batch == NULL:
        return
    for i in range(batch.count):
        if not arrival_take(w, &batch.entries[i]):
            batch.entries[i].lost = True
            socket_end(batch.entries[i].fds[0], False)
            socket_end(batch.entries[i].fds[1], False)
    published_store_pointer(<void **>&w.arriving, NULL)


cdef inline void arrivals_drop(worker_t *w, bint reset) noexcept nogil:
    cdef session_t *s
    cdef uint32_t i
    for i in range(w.sessions.block_count * SESSIONS_PER_BLOCK):
        s = sessions_at(&w.sessions, i)
        if s.state == SESSION_ARRIVING:
            arrival_drop(w, s, reset)


cdef inline void arrivals_end(worker_t *w, uint64_t asked) noexcept nogil:
    """After the imports: whatever is still arriving has ended in the other process, or stays there. `asked` was read
    before the imports."""
    if asked != w.arrived_version:
        arrivals_drop(w, published_load_u32(&w.plane.arrivals_reset) != 0)
        published_store_u64(&w.arrived_version, asked)
