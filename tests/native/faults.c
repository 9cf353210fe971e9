/* System calls that fail on demand: preloaded into `l4lb serve` by tests/support/faults.py, which builds it with cc.
 *
 * A file that test and process map (its path in L4LB_FAULTS) holds rules; a test writes them while the process runs, and
 * reads how often each was met and hit. A rule names a call, which threads and which file descriptors it is about, and
 * what happens: an errno instead of the call, or the call with a smaller size.
 *
 * Data plane and libraries reach the kernel in two ways, by libc's wrappers and by its syscall(2): both are taken here.
 *
 * Where a call lies about a socket that epoll watches for edges ("empty", "full", less than there is), the kernel would
 * report an edge later. So that this stays true, the descriptor is armed anew behind the lie, which reports what is
 * ready now.
 *
 * The structures are those of tests/support/faults.py, field by field. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum call {
    ACCEPT, SOCKET, CONNECT, RECV, SEND, SPLICE, PIPE, EPOLL_CTL, EPOLL_WAIT, RECVMMSG, SENDMMSG, SENDMSG, RECVMSG,
    SETSOCKOPT, GETSOCKOPT, IOCTL, BIND, EVENTFD, READ, WRITE, FCNTL, SHUTDOWN, MALLOC, CALLS
};

enum { RULES = 16, WATCHED = 65536, VERSION = 1 };

/* Which threads: bits. By their names, which l4lb/net/threads.py gives them. */
enum { WORKERS = 1, CONTROL = 2, OTHERS = 4 };

/* Which file descriptors: bits of `kinds`; 0 means any. */
enum { TCP = 1, UDP = 2, UNIX = 4, PIPES = 8, OTHER = 16, LISTENING = 32 };

struct rule {
    uint32_t call;           /* enum call + 1; 0: no rule here. Written last, read first */
    int32_t error;           /* errno; 0: the call is made, with no more than `amount` */
    uint32_t amount;         /* bytes, or datagrams */
    uint32_t every;          /* each so many-th call that fits; 0 and 1: each */
    uint32_t permille;       /* of those; 0 and 1000: all */
    uint32_t threads;        /* bits */
    uint32_t kinds;          /* bits */
    uint16_t local_port;     /* of the socket; 0: any */
    uint16_t peer_port;
    int32_t argument;        /* epoll_ctl: operation; setsockopt, getsockopt: option; ioctl: request; -1: any */
    uint32_t address_port;   /* connect, bind: port of the address given; 0: any */
    int64_t left;            /* so often at most; below 0: without end */
    uint64_t met;            /* calls that fitted */
    uint64_t hit;            /* of those, how many were meddled with */
};

struct control {
    uint32_t version;
    uint32_t active;         /* 0: nobody looks at the rules */
    struct rule rules[RULES];
};

struct watched {
    int epoll_fd;            /* + 1; 0: not watched */
    struct epoll_event event;
};

/* What a call is about. */
struct subject {
    enum call call;
    int fd;
    int argument;
    const struct sockaddr *address;
};

static struct control *control;
static struct watched watched[WATCHED];
static __thread uint32_t this_thread;    /* its bit, once it cannot change any more */
static __thread uint64_t dice;
static __thread int inside;              /* what the rules themselves call is not meddled with */

static long (*kernel)(long, ...);

#define REAL(name) \
    static __typeof__(name) *real; \
    if (real == NULL) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("L4LB_FAULTS");
    int fd;
    void *mapped;
    kernel = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (path == NULL || (fd = open(path, O_RDWR | O_CLOEXEC)) < 0)
        return;
    mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED && ((struct control *)mapped)->version == VERSION)
        control = mapped;
}

static uint32_t thread_bit(void) {
    char name[17] = "";
    if (this_thread)
        return this_thread;
    prctl(PR_GET_NAME, name);
    if (!strncmp(name, "l4lb-worker", 11))
        return this_thread = WORKERS;
    if (!strncmp(name, "l4lb-control", 12))
        return this_thread = CONTROL;
    return OTHERS;                       /* a new thread has its creator's name at first: ask again */
}

static uint32_t port_of(const struct sockaddr *address) {
    if (address == NULL)
        return 0;
    if (address->sa_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)address)->sin_port);
    if (address->sa_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
    return 0;
}

static uint32_t kind_of(int fd) {
    int type = 0, domain = 0, listening = 0;
    socklen_t length = sizeof(type);
    struct stat status;
    if (kernel(SYS_getsockopt, (long)fd, (long)SOL_SOCKET, (long)SO_TYPE, &type, &length) < 0) {
        if (fd >= 0 && fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode))
            return PIPES;
        return OTHER;
    }
    kernel(SYS_getsockopt, (long)fd, (long)SOL_SOCKET, (long)SO_DOMAIN, &domain, &length);
    kernel(SYS_getsockopt, (long)fd, (long)SOL_SOCKET, (long)SO_ACCEPTCONN, &listening, &length);
    if (listening)
        return LISTENING;
    if (domain == AF_UNIX)
        return UNIX;
    if (domain == AF_INET || domain == AF_INET6)
        return type == SOCK_STREAM ? TCP : UDP;
    return OTHER;
}

static int ports_fit(const struct rule *rule, int fd) {
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    if (rule->local_port) {
        if (kernel(SYS_getsockname, (long)fd, &address, &length) < 0)
            return 0;
        if (port_of((struct sockaddr *)&address) != rule->local_port)
            return 0;
    }
    length = sizeof(address);
    if (rule->peer_port) {
        if (kernel(SYS_getpeername, (long)fd, &address, &length) < 0)
            return 0;
        if (port_of((struct sockaddr *)&address) != rule->peer_port)
            return 0;
    }
    return 1;
}

static int fits(const struct rule *rule, const struct subject *subject) {
    if (!(rule->threads & thread_bit()))
        return 0;
    if (rule->argument != -1 && rule->argument != subject->argument)
        return 0;
    if (rule->address_port && rule->address_port != port_of(subject->address))
        return 0;
    if (rule->kinds && !(rule->kinds & kind_of(subject->fd)))
        return 0;
    return ports_fit(rule, subject->fd);
}

static uint64_t throw_dice(void) {
    if (dice == 0)
        dice = (uint64_t)(uintptr_t)&dice * 0x9E3779B97F4A7C15u | 1;
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return dice;
}

static int due(struct rule *rule) {
    uint64_t met = __atomic_add_fetch(&rule->met, 1, __ATOMIC_SEQ_CST);
    int64_t left = __atomic_load_n(&rule->left, __ATOMIC_SEQ_CST);
    if (rule->every > 1 && met % rule->every)
        return 0;
    if (rule->permille && rule->permille < 1000 && throw_dice() % 1000 >= rule->permille)
        return 0;
    while (left > 0)
        if (__atomic_compare_exchange_n(&rule->left, &left, left - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            break;
    if (left == 0)
        return 0;
    __atomic_add_fetch(&rule->hit, 1, __ATOMIC_SEQ_CST);
    return 1;
}

/* The rule that is to be followed now, or NULL. errno is left as it was. */
static struct rule *rule_for(enum call call, int fd, int argument, const void *address) {
    struct subject subject = {call, fd, argument, address};
    struct rule *found = NULL;
    int saved = errno, i;
    if (control == NULL || inside || !__atomic_load_n(&control->active, __ATOMIC_ACQUIRE))
        return NULL;
    inside = 1;
    for (i = 0; i < RULES && found == NULL; i++) {
        struct rule *rule = &control->rules[i];
        if (__atomic_load_n(&rule->call, __ATOMIC_ACQUIRE) == (uint32_t)call + 1 && fits(rule, &subject) && due(rule))
            found = rule;
    }
    inside = 0;
    errno = saved;
    return found;
}

/* What is ready on `fd` is reported once more: see the top of the file. */
static void edge_again(int fd) {
    struct watched *here;
    int saved = errno;
    if (fd < 0 || fd >= WATCHED)
        return;
    here = &watched[fd];
    if (here->epoll_fd && here->event.events & EPOLLET)
        kernel(SYS_epoll_ctl, (long)here->epoll_fd - 1, (long)EPOLL_CTL_MOD, (long)fd, &here->event);
    errno = saved;
}

static long fail(const struct rule *rule, int fd) {
    if (rule->error == EAGAIN)
        edge_again(fd);
    errno = rule->error;
    return -1;
}

/* A call whose size may be made smaller; `size` is among its arguments. */
#define MEDDLE(call, fd, argument, address, size) \
    struct rule *rule = rule_for(call, fd, argument, address); \
    if (rule != NULL && rule->error) \
        return fail(rule, fd); \
    int shorter = rule != NULL && rule->amount < (size); \
    if (shorter) \
        (size) = rule->amount

#define FAIL_IF_TOLD(call, fd, argument, address) \
    do { \
        struct rule *rule = rule_for(call, fd, argument, address); \
        if (rule != NULL && rule->error) \
            return fail(rule, fd); \
    } while (0)

static long again_after(long result, int shorter, int fd) {
    if (shorter)
        edge_again(fd);
    return result;
}

static long do_recv(int fd, void *buffer, size_t size, int flags, void *address, void *length) {
    MEDDLE(RECV, fd, flags, NULL, size);
    return again_after(kernel(SYS_recvfrom, (long)fd, buffer, size, (long)flags, address, length), shorter, fd);
}

static long do_send(int fd, const void *buffer, size_t size, int flags, const void *address, socklen_t length) {
    MEDDLE(SEND, fd, flags, address, size);
    return again_after(kernel(SYS_sendto, (long)fd, buffer, size, (long)flags, address, (long)length), shorter, fd);
}

static long do_splice(int from, void *from_at, int to, void *to_at, size_t size, unsigned flags) {
    int socket = kind_of(from) == PIPES ? to : from;
    MEDDLE(SPLICE, socket, from == socket ? 0 : 1, NULL, size);     /* argument 0: out of a socket, 1: into one */
    return again_after(
        kernel(SYS_splice, (long)from, from_at, (long)to, to_at, size, (unsigned long)flags), shorter, socket);
}

static long do_accept(int fd, void *address, void *length, int flags) {
    FAIL_IF_TOLD(ACCEPT, fd, flags, NULL);
    return kernel(SYS_accept4, (long)fd, address, length, (long)flags);
}

static long do_connect(int fd, const void *address, socklen_t length) {
    FAIL_IF_TOLD(CONNECT, fd, -2, address);
    return kernel(SYS_connect, (long)fd, address, (long)length);
}

static long do_recvmmsg(int fd, void *messages, unsigned count, int flags, void *timeout) {
    MEDDLE(RECVMMSG, fd, flags, NULL, count);
    return again_after(
        kernel(SYS_recvmmsg, (long)fd, messages, (unsigned long)count, (long)flags, timeout), shorter, fd);
}

static long do_sendmmsg(int fd, void *messages, unsigned count, int flags) {
    MEDDLE(SENDMMSG, fd, flags, NULL, count);
    return again_after(kernel(SYS_sendmmsg, (long)fd, messages, (unsigned long)count, (long)flags), shorter, fd);
}

static long do_sendmsg(int fd, const void *message, int flags) {
    FAIL_IF_TOLD(SENDMSG, fd, flags, NULL);
    return kernel(SYS_sendmsg, (long)fd, message, (long)flags);
}

/* ---- by libc's syscall(2) ---- */

long syscall(long number, ...) {
    va_list list;
    long a, b, c, d, e, f;
    va_start(list, number);
    a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long);
    d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
    va_end(list);
    if (kernel == NULL)
        kernel = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    switch (number) {
    case SYS_accept4: return do_accept((int)a, (void *)b, (void *)c, (int)d);
    case SYS_connect: return do_connect((int)a, (void *)b, (socklen_t)c);
    case SYS_recvfrom: return do_recv((int)a, (void *)b, (size_t)c, (int)d, (void *)e, (void *)f);
    case SYS_sendto: return do_send((int)a, (void *)b, (size_t)c, (int)d, (void *)e, (socklen_t)f);
    case SYS_splice: return do_splice((int)a, (void *)b, (int)c, (void *)d, (size_t)e, (unsigned)f);
    case SYS_recvmmsg: return do_recvmmsg((int)a, (void *)b, (unsigned)c, (int)d, (void *)e);
    case SYS_sendmmsg: return do_sendmmsg((int)a, (void *)b, (unsigned)c, (int)d);
    case SYS_sendmsg: return do_sendmsg((int)a, (void *)b, (int)c);
    case SYS_close:
        if (a >= 0 && a < WATCHED)
            watched[a].epoll_fd = 0;
        break;
    default: break;
    }
    return kernel(number, a, b, c, d, e, f);
}

/* ---- by libc's wrappers ---- */

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    return (int)do_accept(fd, address, length, flags);
}

int accept(int fd, struct sockaddr *address, socklen_t *length) {
    return (int)do_accept(fd, address, length, 0);
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    return (int)do_connect(fd, address, length);
}

ssize_t recv(int fd, void *buffer, size_t size, int flags) {
    return do_recv(fd, buffer, size, flags, NULL, NULL);
}

ssize_t recvfrom(int fd, void *buffer, size_t size, int flags, struct sockaddr *address, socklen_t *length) {
    return do_recv(fd, buffer, size, flags, address, length);
}

ssize_t send(int fd, const void *buffer, size_t size, int flags) {
    return do_send(fd, buffer, size, flags, NULL, 0);
}

ssize_t sendto(int fd, const void *buffer, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
    return do_send(fd, buffer, size, flags, address, length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    return do_sendmsg(fd, message, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    FAIL_IF_TOLD(RECVMSG, fd, flags, NULL);
    return kernel(SYS_recvmsg, (long)fd, message, (long)flags);
}

ssize_t splice(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags) {
    return do_splice(from, from_at, to, to_at, size, flags);
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout) {
    return (int)do_recvmmsg(fd, messages, count, flags, timeout);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
    return (int)do_sendmmsg(fd, messages, count, flags);
}

int socket(int family, int type, int protocol) {
    REAL(socket);
    FAIL_IF_TOLD(SOCKET, -1, family | (type & 0xF) << 8, NULL);     /* argument: family and type in one */
    return real(family, type, protocol);
}

int pipe2(int fds[2], int flags) {
    REAL(pipe2);
    FAIL_IF_TOLD(PIPE, -1, flags, NULL);
    return real(fds, flags);
}

int epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event) {
    REAL(epoll_ctl);
    int result;
    FAIL_IF_TOLD(EPOLL_CTL, fd, operation, NULL);
    result = real(epoll_fd, operation, fd, event);
    if (fd < 0 || fd >= WATCHED || result < 0 || thread_bit() != WORKERS)
        return result;
    if (operation == EPOLL_CTL_DEL) {
        watched[fd].epoll_fd = 0;
    } else {
        watched[fd].event = *event;
        watched[fd].epoll_fd = epoll_fd + 1;
    }
    return result;
}

int epoll_wait(int epoll_fd, struct epoll_event *events, int capacity, int timeout) {
    REAL(epoll_wait);
    unsigned room = (unsigned)capacity;
    MEDDLE(EPOLL_WAIT, epoll_fd, -2, NULL, room);
    (void)shorter;
    return real(epoll_fd, events, (int)room, timeout);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length) {
    REAL(setsockopt);
    FAIL_IF_TOLD(SETSOCKOPT, fd, option, NULL);
    return real(fd, level, option, value, length);
}

int getsockopt(int fd, int level, int option, void *value, socklen_t *length) {
    REAL(getsockopt);
    FAIL_IF_TOLD(GETSOCKOPT, fd, option, NULL);
    return real(fd, level, option, value, length);
}

int ioctl(int fd, unsigned long request, ...) {
    REAL(ioctl);
    va_list list;
    void *argument;
    va_start(list, request);
    argument = va_arg(list, void *);
    va_end(list);
    FAIL_IF_TOLD(IOCTL, fd, (int)request, NULL);
    return real(fd, request, argument);
}

int bind(int fd, const struct sockaddr *address, socklen_t length) {
    REAL(bind);
    FAIL_IF_TOLD(BIND, fd, -2, address);
    return real(fd, address, length);
}

int eventfd(unsigned initial, int flags) {
    REAL(eventfd);
    FAIL_IF_TOLD(EVENTFD, -1, flags, NULL);
    return real(initial, flags);
}

ssize_t read(int fd, void *buffer, size_t size) {
    REAL(read);
    MEDDLE(READ, fd, -2, NULL, size);
    return again_after(real(fd, buffer, size), shorter, fd);
}

ssize_t write(int fd, const void *buffer, size_t size) {
    REAL(write);
    MEDDLE(WRITE, fd, -2, NULL, size);
    return again_after(real(fd, buffer, size), shorter, fd);
}

static int fcntl_of(int fd, int command, void *argument, int (*real)(int, int, ...)) {
    FAIL_IF_TOLD(FCNTL, fd, command, NULL);
    return real(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
    REAL(fcntl);
    va_list list;
    void *argument;
    va_start(list, command);
    argument = va_arg(list, void *);
    va_end(list);
    return fcntl_of(fd, command, argument, real);
}

int fcntl64(int fd, int command, ...) {
    REAL(fcntl64);
    va_list list;
    void *argument;
    va_start(list, command);
    argument = va_arg(list, void *);
    va_end(list);
    return fcntl_of(fd, command, argument, real);
}

int shutdown(int fd, int how) {
    REAL(shutdown);
    FAIL_IF_TOLD(SHUTDOWN, fd, how, NULL);
    return real(fd, how);
}

/* glibc's own names of its allocator: asking for the next `malloc` would itself allocate. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *block, size_t size);

static int no_memory(void) {
    if (control == NULL || rule_for(MALLOC, -1, -2, NULL) == NULL)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) {
    return no_memory() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    return no_memory() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *block, size_t size) {
    return no_memory() ? NULL : __libc_realloc(block, size);
}
