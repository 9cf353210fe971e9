# Links: sockets connected to backends, one for each UDP session, and the spares that wait for the next one.
#
# A session that ended gives its link back. When each of its datagrams got udp_responses answers, the link may serve
# again after a short pause, and otherwise after a long time without traffic. (Without udp_responses, as many answers as
# datagrams prove nothing: they may all answer the first.) What it receives meanwhile is discarded: it must never reach
# another client. This reuse is what makes sessions of one question cheap: no socket, connect, epoll_ctl and close for
# each. A link stays in epoll for its whole life, by its own index, so that late answers find no session.
#
# A link that serves again is empty, although nothing checks that. Sockets are edge-triggered, so no event reports what
# is left unread: `unread` records that there may be something, and `link_give` discards it. What comes later is
# reported by the next epoll_wait, whose events may be late: the process is stopped, or more is ready than one call
# returns. So a rest is over when an epoll_wait that was called after it has returned all events, and these are handled
# (`worker_t.handled_ms`).
#
# Links of one-way sessions need no rest: they serve only such sessions, which pass no answer on. Called on the worker's
# thread.

from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from l4lb._dataplane.base.enums cimport (
    LINKS_PER_BLOCK, LINK_BATCH_MIN, LINK_BUCKETS, LINK_KEEP_MS, LINK_LATE_MAX, LINK_PAUSE_MS, LINK_REST_MS,
    LINK_SPARES_MAX, NO_INDEX, PATH_REFUSED, UDP_BUFFER_BYTES, path_error_t,
)
from l4lb._dataplane.base.linux cimport (
    AF_INET6, EAGAIN, EMFILE, ENFILE, EPOLLET, EPOLLIN, EPOLL_CTL_ADD, IPPROTO_IP, IPPROTO_IPV6, IPV6_RECVTCLASS,
    IP_RECVTOS, MSG_DONTWAIT, MSG_TRUNC, SK_MEMINFO_DROPS, SK_MEMINFO_VARS, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK,
    SOL_SOCKET, SOL_UDP, SO_MEMINFO, SO_RCVBUF, SO_RCVBUFFORCE, SO_RXQ_OVFL, SO_SNDBUF, SO_SNDBUFFORCE, UDP_GRO, close,
    counter_add, getsockopt, published_load_u64, recv, setsockopt, socket, socklen_t,
)
from l4lb._dataplane.base.udp_types cimport link_t, links_t, spares_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.poller cimport LINK_TAG_BIT, poller_control, poller_forget
from l4lb._dataplane.udp.paths cimport path_error_of, path_is_closed, refused_note


cdef inline void links_init(links_t *self) noexcept nogil:
    cdef uint32_t i
    memset(self, 0, sizeof(links_t))
    self.free_head = NO_INDEX
    for i in range(LINK_BUCKETS):
        self.ready[i].head = self.ready[i].tail = NO_INDEX
        self.resting[i].head = self.resting[i].tail = NO_INDEX


cdef inline link_t *links_at(links_t *self, uint32_t index) noexcept nogil:
    """`index` must be below block_count * LINKS_PER_BLOCK."""
    return &self.blocks[index // LINKS_PER_BLOCK][index % LINKS_PER_BLOCK]


cdef inline int links_grow(links_t *self) noexcept nogil:
    """Add a block of free slots. 0, or -1 when memory is short (calloc, realloc: ENOMEM)."""
    cdef link_t **blocks
    cdef link_t *block
    cdef uint32_t i
    if self.block_count == self.block_capacity:
        blocks = <link_t **>realloc(self.blocks, (self.block_capacity + 16) * sizeof(link_t *))
        if blocks == NULL:
            return -1
        self.blocks = blocks
        self.block_capacity += 16
    block = <link_t *>calloc(LINKS_PER_BLOCK, sizeof(link_t))
    if block == NULL:
        return -1
    self.blocks[self.block_count] = block
    for i in range(LINKS_PER_BLOCK, 0, -1):
        block[i - 1].index = self.block_count * LINKS_PER_BLOCK + i - 1
        block[i - 1].fd = -1
        block[i - 1].next = self.free_head
        self.free_head = block[i - 1].index
    self.block_count += 1
    return 0


# ---- spares ----

cdef inline spares_t *link_list(links_t *self, link_t *link) noexcept nogil:
    cdef uint32_t bucket = <uint32_t>link.tag % LINK_BUCKETS
    return &self.resting[bucket] if link.resting else &self.ready[bucket]


cdef inline void spare_remove(links_t *self, link_t *link) noexcept nogil:
    cdef spares_t *spares = link_list(self, link)
    if link.previous == NO_INDEX:
        spares.head = link.next
    else:
        links_at(self, link.previous).next = link.next
    if link.next == NO_INDEX:
        spares.tail = link.previous
    else:
        links_at(self, link.next).previous = link.previous
    self.spare_count -= 1


cdef inline void spare_append(links_t *self, link_t *link) noexcept nogil:
    cdef spares_t *spares = link_list(self, link)
    link.next = NO_INDEX
    link.previous = spares.tail
    if spares.tail == NO_INDEX:
        spares.head = link.index
    else:
        links_at(self, spares.tail).next = link.index
    spares.tail = link.index
    self.spare_count += 1


cdef inline link_t *spare_find(links_t *self, spares_t *spares, uint64_t tag) noexcept nogil:
    """The oldest with that tag. A list nearly always has one tag only."""
    cdef uint32_t index = spares.head
    cdef link_t *link
    while index != NO_INDEX:
        link = links_at(self, index)
        if link.tag == tag:
            return link
        index = link.next
    return NULL


# ---- closing ----

cdef inline uint32_t socket_drops(int fd) noexcept nogil:
    """Datagrams that the kernel had no room for. getsockopt(2): kernels before 4.12 have no SO_MEMINFO."""
    cdef uint32_t info[SK_MEMINFO_VARS]
    cdef socklen_t length = sizeof(info)
    memset(info, 0, sizeof(info))
    getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &length)
    return info[SK_MEMINFO_DROPS]


cdef inline void link_close(links_t *self, link_t *link) noexcept nogil:
    """Not for a spare in a list. The kernel refuses what comes for it from now on."""
    close(link.fd)
    link.fd = -1
    link.session = NO_INDEX
    link.next = self.free_head
    self.free_head = link.index
    self.open_count -= 1


cdef inline link_t *spare_oldest(links_t *self, spares_t *lists) noexcept nogil:
    """The oldest spare of some tag, or NULL."""
    cdef uint32_t bucket
    for bucket in range(LINK_BUCKETS):
        if lists[bucket].head != NO_INDEX:
            return links_at(self, lists[bucket].head)
    return NULL


cdef inline bint spares_close_one(links_t *self) noexcept nogil:
    """Free a file descriptor, if possible one that no answer may come to. False when there is no spare."""
    cdef link_t *link = spare_oldest(self, self.ready)
    if link == NULL:
        link = spare_oldest(self, self.resting)
    if link == NULL:
        return False
    spare_remove(self, link)
    link_close(self, link)
    return True


cdef inline void links_sweep(worker_t *w) noexcept nogil:
    """Every second: close the spares that were not needed for a while."""
    cdef links_t *self = &w.udp.links
    cdef uint32_t now_ms = <uint32_t>w.now_ms
    cdef uint32_t i
    cdef link_t *link
    if self.spare_count == 0 or <int32_t>(now_ms - self.sweep_due_ms) < 0:
        return
    self.sweep_due_ms = now_ms + 1000
    for i in range(self.block_count * LINKS_PER_BLOCK):
        link = links_at(self, i)
        if link.fd >= 0 and link.session == NO_INDEX and now_ms - link.since_ms >= LINK_KEEP_MS:
            spare_remove(self, link)
            link_close(self, link)


cdef inline void links_free(links_t *self) noexcept nogil:
    """After the worker has stopped."""
    cdef uint32_t i
    for i in range(self.block_count * LINKS_PER_BLOCK):
        if links_at(self, i).fd >= 0:
            close(links_at(self, i).fd)
    for i in range(self.block_count):
        free(self.blocks[i])
    free(self.blocks)
    links_init(self)


# ---- opening ----

cdef inline void socket_buffers(int fd) noexcept nogil:
    """Room for bursts. The FORCE options need CAP_NET_ADMIN; the others give what net.core.rmem_max and wmem_max
    allow."""
    cdef int size = UDP_BUFFER_BYTES
    if setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0:
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size))
    if setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0:
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size))


cdef inline void link_options(int fd, int family, bint trains) noexcept nogil:
    """setsockopt(2) refuses none of these, except UDP_GRO on kernels before 5.0: then there are no trains."""
    cdef int on = 1
    socket_buffers(fd)
    setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof(on))
    setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on))
    if family == AF_INET6:
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof(on))
    if trains:
        setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof(on))


cdef inline link_t *link_open(worker_t *w, int family, bint trains) noexcept nogil:
    """A new link, not connected; NULL with errno. socket(2): EMFILE and ENFILE although a spare was closed for it,
    ENOBUFS, ENOMEM, EAFNOSUPPORT."""
    cdef links_t *self = &w.udp.links
    cdef link_t *link
    cdef int kind = SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC
    cdef int fd
    if self.free_head == NO_INDEX and links_grow(self) < 0:
        return NULL
    fd = socket(family, kind, 0)
    if fd < 0 and (errno == EMFILE or errno == ENFILE) and spares_close_one(self):
        fd = socket(family, kind, 0)
    if fd < 0:
        return NULL
    link_options(fd, family, trains)
    link = links_at(self, self.free_head)
    self.free_head = link.next
    self.open_count += 1
    link.fd = fd
    link.session = NO_INDEX
    link.kernel_drops = 0
    link.batch = LINK_BATCH_MIN
    link.wide = family == AF_INET6
    link.unread = False
    return link


cdef inline int link_watch(worker_t *w, link_t *link) noexcept nogil:
    """0 or -errno, see `poller_control`."""
    return poller_control(w, EPOLL_CTL_ADD, link.fd, EPOLLIN | EPOLLET, LINK_TAG_BIT | link.index)


cdef inline link_t *link_adopt(worker_t *w, int fd, bint wide) noexcept nogil:
    """A link of a socket that is connected already, watched; NULL when memory is short, and the socket is closed. It
    does not serve another session: what it connects is not known here."""
    cdef links_t *self = &w.udp.links
    cdef link_t *link
    if self.free_head == NO_INDEX and links_grow(self) < 0:
        close(fd)
        return NULL
    link = links_at(self, self.free_head)
    self.free_head = link.next
    self.open_count += 1
    link.fd = fd
    link.session = NO_INDEX
    link.kernel_drops = socket_drops(fd)
    link.batch = LINK_BATCH_MIN
    link.resting = link.unread = link.one_way = False
    link.wide = wide
    link.tag = 0
    if link_watch(w, link) < 0:
        link_close(self, link)
        return NULL
    return link


cdef inline void link_detach(worker_t *w, link_t *link) noexcept nogil:
    """Its socket stays open, for another process: epoll would go on reporting it after a mere close."""
    cdef links_t *self = &w.udp.links
    poller_forget(w, link.fd)
    link.fd = -1
    link.session = NO_INDEX
    link.next = self.free_head
    self.free_head = link.index
    self.open_count -= 1


cdef inline bint link_discard_answers(worker_t *w, link_t *link) noexcept nogil:
    """Discard what no session waits for. False: the link must not serve again, since its backend is gone, or sends
    faster than its answers can be discarded.

    recv(2): EAGAIN, that was all; EINTR, and ICMP errors (see paths.pxd): there may be more behind them.
    """
    cdef uint32_t _i
    cdef char byte
    cdef path_error_t kind
    for _i in range(LINK_LATE_MAX):
        if recv(link.fd, &byte, 1, MSG_DONTWAIT | MSG_TRUNC) >= 0:
            counter_add(&w.counters.late_answers, 1)
            continue
        if errno == EAGAIN:
            link.unread = False
            return True
        kind = path_error_of(errno)
        if kind == PATH_REFUSED or path_is_closed(kind):
            refused_note(w, link.backend_id)
        if kind == PATH_REFUSED:
            return False
    return False


cdef inline void link_drain(worker_t *w, link_t *link) noexcept nogil:
    """A spare has something to read."""
    if not link_discard_answers(w, link):
        spare_remove(&w.udp.links, link)
        link_close(&w.udp.links, link)


cdef inline bint link_rested(worker_t *w, link_t *link) noexcept nogil:
    """Whether a spare may serve again: nothing that could still come is for another client."""
    if link.one_way or <int32_t>(link.rests_until_ms - w.handled_ms) <= 0:
        return True
    return w.backlogged and <int32_t>(link.rests_until_ms - <uint32_t>w.now_ms) <= 0 and link_discard_answers(w, link)


cdef inline link_t *link_reuse(worker_t *w, uint64_t tag) noexcept nogil:
    """A spare with that tag that may serve again, or NULL."""
    cdef links_t *self = &w.udp.links
    cdef uint32_t bucket = <uint32_t>tag % LINK_BUCKETS
    cdef link_t *link = spare_find(self, &self.ready[bucket], tag)
    if link == NULL or not link_rested(w, link):
        link = spare_find(self, &self.resting[bucket], tag)
        if link == NULL or not link_rested(w, link):
            return NULL
    spare_remove(self, link)
    return link


cdef inline uint32_t spares_max(worker_t *w) noexcept nogil:
    """How many spares a worker keeps. A session may take two file descriptors, a UDP session takes one: a spare has the
    other."""
    cdef int64_t most = <int64_t>published_load_u64(<uint64_t *>&w.plane.max_sessions)
    cdef int64_t share = most // w.plane.worker_count
    return <uint32_t>share if most and share < LINK_SPARES_MAX else LINK_SPARES_MAX


cdef inline void link_give(worker_t *w, link_t *link, bint done, uint32_t used_ms, bint reusable) noexcept nogil:
    """Its session, which used it last at `used_ms`, has ended. Answers to it may still come unless `done`."""
    cdef links_t *self = &w.udp.links
    link.session = NO_INDEX
    link.since_ms = <uint32_t>w.now_ms
    link.rests_until_ms = link.since_ms + LINK_PAUSE_MS if done else used_ms + LINK_REST_MS
    if <int32_t>(link.rests_until_ms - link.since_ms) < 0:
        link.rests_until_ms = link.since_ms
    link.resting = <int32_t>(link.rests_until_ms - link.since_ms) > LINK_PAUSE_MS and not link.one_way
    if reusable and link.unread:
        reusable = link_discard_answers(w, link)
    if not reusable or self.spare_count >= spares_max(w):
        link_discard_answers(w, link)
        link_close(self, link)
    else:
        spare_append(self, link)
