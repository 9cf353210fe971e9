# Linux: the system calls, constants and atomics that the data plane uses, as C declares them.
#
# The bottom of the native layers: it cimports nothing of ours. Each function is called in few places, and its errors
# are handled beside the call, by the names in its man page.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from posix.types cimport off_t

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <endian.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <netinet/udp.h>
    #include <pthread.h>
    #include <poll.h>
    #include <linux/sock_diag.h>
    #include <linux/sockios.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/ioctl.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <sys/un.h>
    #include <time.h>
    #include <unistd.h>

    #define l4lb_likely(x) __builtin_expect(!!(x), 1)
    #define l4lb_unlikely(x) __builtin_expect(!!(x), 0)

    /* One writer, any reader: a counter that its own worker adds to and the control plane reads. */
    #define counter_add(p, n) __atomic_store_n((p), *(p) + (uint64_t)(n), __ATOMIC_RELAXED)
    #define counter_read(p) __atomic_load_n((p), __ATOMIC_RELAXED)

    /* The same for how much is in use: it goes up and down. */
    #define gauge_add(p, n) __atomic_store_n((p), *(p) + (uint32_t)(n), __ATOMIC_RELAXED)
    #define gauge_read(p) __atomic_load_n((p), __ATOMIC_RELAXED)

    /* Any writer: shared between workers. */
    #define shared_add(p, n) __atomic_fetch_add((p), (n), __ATOMIC_SEQ_CST)
    #define shared_read(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define shared_store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define shared_swap_if(p, old, new) \
        __atomic_compare_exchange_n((p), (old), (new), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

    /* Publication: what was written before the store is seen after the load. */
    #define published_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define published_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

    /* The calls that every session makes, without libc's cancellation points: in a process with threads those cost two
     * atomic operations per call, and no thread here is ever cancelled. Same results, same errno. */
    #define direct_accept4(...) ((int)syscall(SYS_accept4, __VA_ARGS__))
    #define direct_connect(...) ((int)syscall(SYS_connect, __VA_ARGS__))
    #define direct_close(fd) ((int)syscall(SYS_close, (fd)))
    #define direct_recv(fd, buffer, size, flags) syscall(SYS_recvfrom, (fd), (buffer), (size), (flags), NULL, NULL)
    #define direct_send(fd, buffer, size, flags) syscall(SYS_sendto, (fd), (buffer), (size), (flags), NULL, 0)
    #define direct_splice(...) syscall(SYS_splice, __VA_ARGS__)
    #define direct_recvmmsg(...) ((int)syscall(SYS_recvmmsg, __VA_ARGS__, NULL))
    #define direct_sendmmsg(...) ((int)syscall(SYS_sendmmsg, __VA_ARGS__))
    #define direct_sendmsg(...) syscall(SYS_sendmsg, __VA_ARGS__)

    typedef unsigned __int128 l4lb_uint128;

    static inline uint64_t clock_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);   /* no error with a valid clock id; vDSO, no system call */
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    """
    bint likely "l4lb_likely"(bint condition)
    bint unlikely "l4lb_unlikely"(bint condition)
    void counter_add(uint64_t *counter, uint64_t amount)
    uint64_t counter_read(uint64_t *counter)
    void gauge_add(uint32_t *gauge, int amount)
    uint32_t gauge_read(uint32_t *gauge)
    int64_t shared_add(int64_t *value, int64_t amount)
    int64_t shared_read(int64_t *value)
    void shared_store(int64_t *value, int64_t new_value)
    bint shared_swap_if(int64_t *value, int64_t *expected, int64_t desired)
    void *published_load_pointer "published_load"(void **place)
    void published_store_pointer "published_store"(void **place, void *value)
    uint64_t published_load_u64 "published_load"(uint64_t *place)
    void published_store_u64 "published_store"(uint64_t *place, uint64_t value)
    uint32_t published_load_u32 "published_load"(uint32_t *place)
    void published_store_u32 "published_store"(uint32_t *place, uint32_t value)
    uint64_t clock_now_ns()
    int count_leading_zeros "__builtin_clzll"(unsigned long long value)

    # Held for a few hundred instructions at most. No function of these fails on a mutex of the default kind.
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int count_trailing_zeros "__builtin_ctzll"(unsigned long long value)

    ctypedef unsigned int socklen_t
    ctypedef unsigned long long uint128_t "l4lb_uint128"

    cdef struct sockaddr:
        uint16_t sa_family

    cdef struct in_addr:
        uint32_t s_addr

    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr

    cdef struct in6_addr:
        uint8_t s6_addr[16]

    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id

    cdef struct sockaddr_storage:
        uint16_t ss_family

    cdef struct pollfd:
        int fd
        short events
        short revents

    short POLLIN

    cdef struct iovec:
        void *iov_base
        size_t iov_len

    cdef struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags

    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len

    int SCM_RIGHTS

    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type

    cdef struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr

    cdef struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex

    cdef struct linger:
        int l_onoff
        int l_linger

    cdef union epoll_data_t:
        void *ptr
        int fd
        uint32_t u32
        uint64_t u64

    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data

    int AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, SOCK_STREAM, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_CLOEXEC
    int SOL_SOCKET, SO_ERROR, SO_LINGER, SO_OOBINLINE, IPPROTO_TCP, TCP_NODELAY, TCP_QUICKACK
    int IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, IP_TRANSPARENT, IPPROTO_IPV6, IPV6_TRANSPARENT
    int SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT
    int TCP_INFO, TCP_CLOSE
    int IPPROTO_UDP, SOL_UDP, UDP_GRO, UDP_SEGMENT, SO_RXQ_OVFL, SO_MEMINFO
    int IP_TOS, IP_RECVTOS, IP_PKTINFO, IPV6_TCLASS, IPV6_RECVTCLASS, IPV6_PKTINFO
    int SO_SNDBUF, SO_RCVBUF, SO_SNDBUFFORCE, SO_RCVBUFFORCE
    enum: SK_MEMINFO_DROPS, SK_MEMINFO_VARS
    int SHUT_RD, SHUT_WR, SHUT_RDWR, MSG_MORE, MSG_NOSIGNAL, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MSG_CTRUNC, SIOCOUTQ
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLPRI, EPOLLET, EPOLLEXCLUSIVE
    int EFD_NONBLOCK, EFD_CLOEXEC
    unsigned int SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE
    int O_NONBLOCK, O_CLOEXEC, F_SETPIPE_SZ
    int EAGAIN, EINTR, EINPROGRESS, EINVAL, ENOSYS, ENOMEM, ENOBUFS, EMFILE, ENFILE, ETOOMANYREFS
    int ECONNRESET, ECONNABORTED, ECONNREFUSED, EPIPE, EPROTO, EPERM, ETIMEDOUT, EALREADY, EISCONN, ENOTCONN
    int EEXIST, EIO, EMSGSIZE, EACCES, EADDRINUSE, EADDRNOTAVAIL, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENOENT
    int EAFNOSUPPORT, EHOSTDOWN, ELOOP, ENONET, ENOPROTOOPT, ENOSPC, ENOTDIR, EOPNOTSUPP, EPROTONOSUPPORT

    int errno
    int accept4 "direct_accept4"(int fd, sockaddr *address, socklen_t *length, int flags)
    int socket(int family, int kind, int protocol)
    int bind(int fd, sockaddr *address, socklen_t length)
    int connect "direct_connect"(int fd, sockaddr *address, socklen_t length)
    int getsockname(int fd, sockaddr *address, socklen_t *length)
    int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
    int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
    ssize_t recv "direct_recv"(int fd, void *buffer, size_t size, int flags)
    ssize_t send "direct_send"(int fd, const void *buffer, size_t size, int flags)
    int recvmmsg "direct_recvmmsg"(int fd, mmsghdr *messages, unsigned int count, int flags)
    int sendmmsg "direct_sendmmsg"(int fd, mmsghdr *messages, unsigned int count, int flags)
    ssize_t sendmsg "direct_sendmsg"(int fd, const msghdr *message, int flags)
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *before)
    uint8_t *CMSG_DATA(cmsghdr *header)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    int shutdown(int fd, int how)
    int close "direct_close"(int fd)
    int ioctl(int fd, unsigned long request, ...)
    int fcntl(int fd, int command, ...)
    int pipe2(int *fds, int flags)
    ssize_t splice "direct_splice"(
        int fd_in, off_t *offset_in, int fd_out, off_t *offset_out, size_t size, unsigned int flags
    )
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll_fd, epoll_event *events, int capacity, int timeout_ms)
    int eventfd(unsigned int initial, int flags)
    int poll(pollfd *fds, unsigned long count, int timeout_ms)
    ssize_t read(int fd, void *buffer, size_t size)
    uint16_t htons(uint16_t value)
    uint64_t be64toh(uint64_t value)
    uint32_t ntohl(uint32_t value)
    uint16_t ntohs(uint16_t value)
    int posix_memalign(void **place, size_t alignment, size_t size)
    ssize_t write(int fd, const void *buffer, size_t size)
