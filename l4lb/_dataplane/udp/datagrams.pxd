# Datagrams: received in batches, with what the kernel reports about them: the address that they were sent to
# (IP_PKTINFO), the type of service, and trains, which are many datagrams of one size as one (udp(7): UDP_GRO).
# send_batch.pxd sends them.
#
# A datagram is passed on whole or not at all. Called on the worker's thread by answers.pxd and events.pxd; knows no
# session.

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.enums cimport CONTROL_BYTES, DATAGRAM_BATCH, DATAGRAM_BYTES
from l4lb._dataplane.base.linux cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, IPV6_TCLASS, IP_PKTINFO, IP_TOS,
    MSG_DONTWAIT, MSG_TRUNC, SOL_SOCKET, SOL_UDP, SO_RXQ_OVFL, UDP_GRO, cmsghdr, in6_pktinfo, in_addr, in_pktinfo,
    mmsghdr, msghdr, recvmmsg, sockaddr_storage,
)
from l4lb._dataplane.base.udp_types cimport datagram_t, intake_t


cdef inline int intake_init(intake_t *self) noexcept nogil:
    """0, or -1 when memory is short. The kernel backs a page only once a datagram lies there."""
    cdef uint32_t i
    self.bytes = <uint8_t *>malloc(<size_t>(DATAGRAM_BATCH + 1) * DATAGRAM_BYTES)
    if self.bytes == NULL:
        return -1
    memset(self.headers, 0, sizeof(self.headers))
    for i in range(DATAGRAM_BATCH):
        self.vectors[i].iov_base = self.bytes + <size_t>i * DATAGRAM_BYTES
        self.vectors[i].iov_len = DATAGRAM_BYTES
        self.headers[i].msg_hdr.msg_iov = &self.vectors[i]
        self.headers[i].msg_hdr.msg_iovlen = 1
        self.headers[i].msg_hdr.msg_control = &self.control[i][0]
    return 0


cdef inline void intake_free(intake_t *self) noexcept nogil:
    free(self.bytes)
    self.bytes = NULL


cdef inline uint8_t *intake_datagram(intake_t *self, uint32_t slot) noexcept nogil:
    """With the PROXY header that it may begin with."""
    return self.bytes + <size_t>slot * DATAGRAM_BYTES


cdef inline uint8_t *intake_bytes(intake_t *self, uint32_t slot) noexcept nogil:
    """The payload."""
    return intake_datagram(self, slot) + self.datagrams[slot].skip


cdef inline void local_from_v4(datagram_t *d, const in_pktinfo *info) noexcept nogil:
    """ip(7): ipi_spec_dst is the address of this host that a datagram came to, even if it was sent to a broadcast or
    multicast address (ipi_addr), which cannot be a source. IPv6 sockets report it after their own message. It is 0 for
    what came before the socket was asked to report it."""
    cdef const in_addr *own = &info.ipi_spec_dst if info.ipi_spec_dst.s_addr else &info.ipi_addr
    memset(d.local, 0, 10)
    memset(&d.local[10], 0xFF, 2)
    memcpy(&d.local[12], own, 4)
    d.to_many = own.s_addr != info.ipi_addr.s_addr
    d.local_length = 16
    d.interface = <uint32_t>info.ipi_ifindex


cdef inline void local_from_v6(datagram_t *d, const in6_pktinfo *info) noexcept nogil:
    memcpy(d.local, &info.ipi6_addr, 16)
    d.to_many = d.local[0] == 0xFF
    d.local_length = 16
    d.interface = info.ipi6_ifindex


cdef inline void datagram_read_control(datagram_t *d, cmsghdr *control) noexcept nogil:
    """Read one control message. Values may be unaligned; ip(7), ipv6(7), udp(7) and socket(7) give their sizes."""
    cdef int number = 0
    if control.cmsg_level == SOL_UDP and control.cmsg_type == UDP_GRO:
        memcpy(&number, CMSG_DATA(control), sizeof(number))
        d.segment_bytes = <uint32_t>number if <uint32_t>number < d.length else 0
    elif control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_TOS:
        d.tos = CMSG_DATA(control)[0]
    elif control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_TCLASS:
        memcpy(&number, CMSG_DATA(control), sizeof(number))
        d.tos = <uint8_t>number
    elif control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_PKTINFO:
        local_from_v4(d, <in_pktinfo *>CMSG_DATA(control))
    elif control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_PKTINFO:
        local_from_v6(d, <in6_pktinfo *>CMSG_DATA(control))
    elif control.cmsg_level == SOL_SOCKET and control.cmsg_type == SO_RXQ_OVFL:
        memcpy(&d.kernel_drops, CMSG_DATA(control), sizeof(uint32_t))


cdef inline void datagram_read(datagram_t *d, mmsghdr *received) noexcept nogil:
    cdef msghdr *header = &received.msg_hdr
    cdef cmsghdr *control
    d.length = received.msg_len
    d.skip = 0
    d.cut = header.msg_flags & MSG_TRUNC != 0
    d.segment_bytes = d.kernel_drops = d.interface = 0
    d.tos = d.local_length = 0
    d.to_many = False
    if header.msg_controllen == 0:
        return
    control = CMSG_FIRSTHDR(header)
    while control != NULL:
        datagram_read_control(d, control)
        control = CMSG_NXTHDR(header, control)


cdef inline int intake_receive(intake_t *self, int fd, uint32_t first, uint32_t count, bint named) noexcept nogil:
    """Receive into `count` slots from `first` on. Returns how many came, or -errno. `named`: keep the senders'
    addresses.

    recvmmsg(2): EAGAIN empty; ECONNREFUSED (connected: an ICMP message came) and the rest are the caller's.
    """
    cdef uint32_t i
    cdef int got
    cdef msghdr *header
    for i in range(first, first + count):
        header = &self.headers[i].msg_hdr
        header.msg_name = &self.names[i] if named else NULL
        header.msg_namelen = sizeof(sockaddr_storage) if named else 0
        header.msg_controllen = CONTROL_BYTES
    got = recvmmsg(fd, &self.headers[first], count, MSG_DONTWAIT)
    if got < 0:
        return -errno
    for i in range(first, first + <uint32_t>got):
        datagram_read(&self.datagrams[i], &self.headers[i])
    return got


cdef inline uint32_t datagram_count(const datagram_t *d) noexcept nogil:
    """How many datagrams a train has."""
    return (d.length + d.segment_bytes - 1) // d.segment_bytes if d.segment_bytes else 1


cdef inline uint32_t datagram_first_bytes(datagram_t *d) noexcept nogil:
    """The length of a train's first datagram."""
    return d.segment_bytes if d.segment_bytes else d.length
