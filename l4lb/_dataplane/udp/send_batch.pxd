# Send batch: datagrams on their way out, gathered and sent with one sendmmsg(2). Those of one size that follow each
# other are sent as a train where the path takes one (udp(7): UDP_SEGMENT). Called on the worker's thread by answers.pxd
# and events.pxd; knows no session.

from libc.errno cimport errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.enums cimport (
    DATAGRAM_BATCH, PATH_ERROR_COUNT, PATH_REFUSED, POST_VECTORS, TRAIN_BYTES, TRAIN_MIN_BYTES, TRAIN_SEGMENTS,
    path_error_t,
)
from l4lb._dataplane.base.linux cimport (
    CMSG_DATA, CMSG_LEN, CMSG_SPACE, EINTR, EINVAL, EIO, EMSGSIZE, EPERM, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO,
    IPV6_TCLASS, IP_PKTINFO, IP_TOS, MSG_DONTWAIT, MSG_NOSIGNAL, SOL_UDP, UDP_SEGMENT, cmsghdr, counter_add,
    in6_pktinfo, in_pktinfo, iovec, msghdr, sendmmsg, sendmsg,
)
from l4lb._dataplane.base.udp_types cimport message_t, post_t, route_t
from l4lb._dataplane.udp.paths cimport path_error_of


cdef inline void control_add(msghdr *header, int level, int type, const void *value, size_t length) noexcept nogil:
    """One more control message; there is room for all that are ever added."""
    cdef cmsghdr *control = <cmsghdr *>(<uint8_t *>header.msg_control + header.msg_controllen)
    control.cmsg_level = level
    control.cmsg_type = type
    control.cmsg_len = CMSG_LEN(length)
    memcpy(CMSG_DATA(control), value, length)
    header.msg_controllen += CMSG_SPACE(length)


cdef inline void control_add_local(msghdr *header, const route_t *route) noexcept nogil:
    """Answer from the address that was asked, whichever others this host has. Asked at an IPv6 multicast address: from
    the address of that interface."""
    cdef in_pktinfo v4
    cdef in6_pktinfo v6
    if route.wide:
        if route.local[0] == 0xFF:
            memset(&v6.ipi6_addr, 0, 16)
        else:
            memcpy(&v6.ipi6_addr, route.local, 16)
        v6.ipi6_ifindex = route.interface
        control_add(header, IPPROTO_IPV6, IPV6_PKTINFO, &v6, sizeof(v6))
        return
    memset(&v4, 0, sizeof(v4))
    memcpy(&v4.ipi_spec_dst, route.local + 12, 4)
    control_add(header, IPPROTO_IP, IP_PKTINFO, &v4, sizeof(v4))


cdef inline bint route_is_v4(const route_t *route) noexcept nogil:
    """Whether IPv4 packets are sent by it, even from an IPv6 socket."""
    return not route.wide or (route.local != NULL and route.local[10] == 0xFF and route.local[0] == 0)


cdef inline void control_add_tos(msghdr *header, const route_t *route) noexcept nogil:
    cdef int tos = route.tos
    if route_is_v4(route):
        control_add(header, IPPROTO_IP, IP_TOS, &tos, sizeof(tos))
    else:
        control_add(header, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof(tos))


cdef inline bint message_takes(post_t *self, const route_t *route, uint32_t length) noexcept nogil:
    """Whether a datagram of `length` bytes may travel with the last message, as one train."""
    cdef message_t *m
    if self.count == 0 or route.flow.no_trains or length == 0:
        return False
    m = &self.messages[self.count - 1]
    return (
        not m.closed and m.flow == route.flow and m.tos == route.tos and length <= m.segment_bytes
        and m.datagrams < TRAIN_SEGMENTS and m.bytes + length <= TRAIN_BYTES
    )


cdef inline void message_begin(post_t *self, const route_t *route, uint32_t length, uint32_t slot) noexcept nogil:
    cdef message_t *m = &self.messages[self.count]
    cdef msghdr *header = &self.headers[self.count].msg_hdr
    header.msg_iov = &self.vectors[self.vector_count]
    header.msg_iovlen = 0
    header.msg_control = &self.control[self.count][0]
    header.msg_controllen = 0
    header.msg_flags = 0
    header.msg_name = NULL
    header.msg_namelen = route.to_length
    if route.to_length:
        self.names[self.count] = route.to
        header.msg_name = &self.names[self.count]
    if route.local != NULL:
        control_add_local(header, route)
    if route.tos:
        control_add_tos(header, route)
    m.flow = route.flow
    m.lost = route.lost
    m.tos = route.tos
    m.bytes = m.datagrams = 0
    m.segment_bytes = length
    m.slot = slot
    m.closed = length < TRAIN_MIN_BYTES
    self.fd = route.fd
    self.count += 1


cdef inline void message_vector(post_t *self, const void *data, uint32_t length) noexcept nogil:
    cdef iovec *vector = &self.vectors[self.vector_count]
    vector.iov_base = <void *>data
    vector.iov_len = length
    self.vector_count += 1
    self.headers[self.count - 1].msg_hdr.msg_iovlen += 1


cdef inline bint post_full(post_t *self) noexcept nogil:
    return self.count == DATAGRAM_BATCH or self.vector_count + 2 > POST_VECTORS


cdef inline void post_add(
    post_t *self, const route_t *route, const uint8_t *data, uint32_t length, const uint8_t *prefix,
    uint32_t prefix_length, uint32_t slot
) noexcept nogil:
    """Add one datagram with `prefix` before it; there must be room. Bytes are not copied: they stay where they are
    until `post_flush`. All messages of a post are sent by one socket."""
    cdef uint32_t whole = prefix_length + length
    cdef message_t *m
    if not message_takes(self, route, whole):
        message_begin(self, route, whole, slot)
    m = &self.messages[self.count - 1]
    if prefix_length:
        message_vector(self, prefix, prefix_length)
    message_vector(self, data, length)
    m.bytes += whole
    m.datagrams += 1
    m.closed = m.closed or whole < m.segment_bytes


cdef inline void post_add_train(
    post_t *self, const route_t *route, const uint8_t *data, uint32_t length, uint32_t segment_bytes, uint32_t slot
) noexcept nogil:
    """Add a train as it was received."""
    cdef message_t *m
    message_begin(self, route, segment_bytes, slot)
    m = &self.messages[self.count - 1]
    message_vector(self, data, length)
    m.bytes = length
    m.datagrams = (length + segment_bytes - 1) // segment_bytes
    m.closed = True


cdef inline void message_lost(message_t *m, uint32_t datagrams) noexcept nogil:
    counter_add(m.lost, datagrams)


cdef inline void post_sent(post_t *self, uint64_t datagrams, uint64_t size) noexcept nogil:
    self.sent_datagrams += datagrams
    self.sent_bytes += size


cdef inline void post_begin(post_t *self) noexcept nogil:
    """Forget the results of earlier flushes."""
    self.sent_datagrams = self.sent_bytes = 0
    memset(self.path_errors, 0, sizeof(self.path_errors))


cdef inline bint post_note_path_error(post_t *self, int error) noexcept nogil:
    """Whether a connected socket has reported the fate of an earlier datagram instead of sending this one (see
    paths.pxd). Then this one is sent again, once: if that fails too, the error is its own."""
    cdef path_error_t kind = path_error_of(error)
    if kind == PATH_ERROR_COUNT:
        return False
    self.path_errors[<int>kind] += 1
    self.resent = not self.resent
    return self.resent


cdef inline void vectors_skip(iovec **at, size_t *offset, size_t count) noexcept nogil:
    """Advance by `count` bytes."""
    while count:
        if at[0].iov_len - offset[0] > count:
            offset[0] += count
            return
        count -= at[0].iov_len - offset[0]
        at[0] += 1
        offset[0] = 0


cdef inline uint32_t vectors_cut(iovec *into, iovec *at, size_t offset, size_t count) noexcept nogil:
    """The next `count` bytes as vectors of their own, at most three; returns how many."""
    cdef uint32_t made = 0
    cdef size_t here
    while count:
        here = at.iov_len - offset
        if here > count:
            here = count
        into[made].iov_base = <uint8_t *>at.iov_base + offset
        into[made].iov_len = here
        made += here != 0
        count -= here
        at += 1
        offset = 0
    return made


cdef inline void message_send_singly(post_t *self, uint32_t index) noexcept nogil:
    """The path takes no trains (no checksum offload, a segment above the MTU, an old kernel): send one by one.

    sendmsg(2): what fails is lost and counted, but see `post_note_path_error`.
    """
    cdef message_t *m = &self.messages[index]
    cdef msghdr whole = self.headers[index].msg_hdr
    cdef msghdr one = whole
    cdef iovec cut[3]
    cdef iovec *at = whole.msg_iov
    cdef size_t offset = 0
    cdef uint32_t left = m.bytes
    cdef uint32_t length
    m.flow.no_trains = True
    one.msg_iov = cut
    while left:
        length = m.segment_bytes if m.segment_bytes < left else left
        one.msg_iovlen = vectors_cut(cut, at, offset, length)
        if sendmsg(self.fd, &one, MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
            if errno == EINTR or (whole.msg_namelen == 0 and post_note_path_error(self, errno)):
                continue
            message_lost(m, 1)
        else:
            post_sent(self, 1, length)
        self.resent = False
        vectors_skip(&at, &offset, length)
        left -= length


cdef inline void message_refused(post_t *self, uint32_t index, int error) noexcept nogil:
    cdef message_t *m = &self.messages[index]
    if error == EPERM and self.headers[index].msg_hdr.msg_namelen == 0:
        m.flow.denied = True                   # on its way to the backend
    if m.datagrams > 1 and (error == EINVAL or error == EIO or error == EMSGSIZE):
        self.headers[index].msg_hdr.msg_controllen -= CMSG_SPACE(sizeof(uint16_t))
        message_send_singly(self, index)
    else:
        message_lost(m, m.datagrams)


cdef inline void post_seal(post_t *self) noexcept nogil:
    """Mark trains as such for the kernel."""
    cdef uint32_t i
    cdef uint16_t size
    for i in range(self.count):
        if self.messages[i].datagrams > 1:
            size = <uint16_t>self.messages[i].segment_bytes
            control_add(&self.headers[i].msg_hdr, SOL_UDP, UDP_SEGMENT, &size, sizeof(size))


cdef inline int post_flush(post_t *self) noexcept nogil:
    """Send all. Returns -1, or, when the connected socket reports that nobody listens at its other end, the slot where
    the first message that was not sent begins (nothing of it was sent).

    sendmmsg(2): EAGAIN, ENOBUFS, ENOMEM no room; EINVAL, ENETUNREACH, EACCES, EPERM no way; EMSGSIZE too large: lost,
    but see `post_note_path_error`. An error of a message behind others that were sent is not returned.
    """
    cdef uint32_t done = 0
    cdef int sent, refused = -1
    cdef uint32_t i
    cdef bint connected
    post_seal(self)
    self.resent = False
    while done < self.count and refused < 0:
        sent = sendmmsg(self.fd, &self.headers[done], self.count - done, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent > 0:
            for i in range(done, done + <uint32_t>sent):
                post_sent(self, self.messages[i].datagrams, self.messages[i].bytes)
            done += <uint32_t>sent
            self.resent = False
            continue
        connected = self.headers[done].msg_hdr.msg_namelen == 0
        if connected and path_error_of(errno) == PATH_REFUSED:
            refused = <int>self.messages[done].slot
        elif errno != EINTR and not (connected and post_note_path_error(self, errno)):
            message_refused(self, done, errno)
            self.resent = False
            done += 1
    self.count = self.vector_count = 0
    return refused
