/* What nobody can go below: a relay of one thread that makes the calls which forwarding takes, and nothing else. It has
 * no limits, deadlines, counters, choice or health, and dies of any error that it does not expect.
 *
 *     floor small|bulk|udp|udp1 PORT BACKEND
 *
 * small: TCP, recv and send; bulk: TCP, splice through a pipe of 1 MiB for each direction; udp: datagrams, a connected
 * socket for each client; udp1: the same, where each answer ends its session and the socket serves the next client.
 * Everything is on 127.0.0.1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 65536, PIPE = 1 << 20, EVENTS = 256, FDS = 20000, BATCH = 64, SIZE = 4096, CLIENTS = 1 << 16 };

static int epoll_fd, listening;
static struct sockaddr_in backend;
static char buffer[BUFFER];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct sockaddr_in local(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return at;
}

static void watch(int fd, uint32_t events)
{
    struct epoll_event wanted = {.events = events | EPOLLET, .data.fd = fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &wanted) < 0)
        die("epoll_ctl");
}

/* ---- TCP ---- */

struct half {            /* by the descriptor that it reads */
    int to;              /* the other socket; 0 where there is none */
    int pipe[2];         /* bulk */
    size_t held;         /* bytes read and not yet sent: in the pipe, or in `kept` */
    char *kept;
    int at_end, client;  /* client: not watched until its backend is connected */
};
static struct half halves[FDS];
static int bulk;

static void hang_up(int fd)
{
    struct half *h = &halves[fd];
    if (h->pipe[1]) {
        close(h->pipe[0]);
        close(h->pipe[1]);
    }
    free(h->kept);
    *h = (struct half){0};
    close(fd);
}

static void hang_up_both(int fd)
{
    int other = halves[fd].to;
    hang_up(fd);
    hang_up(other);
}

/* 0 when the other side takes no more now, -1 when it is gone. */
static int flush_kept(struct half *h)
{
    while (h->held) {
        ssize_t sent = bulk ? splice(h->pipe[0], NULL, h->to, NULL, h->held, SPLICE_F_NONBLOCK | SPLICE_F_MOVE)
                            : send(h->to, h->kept, h->held, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN ? 0 : -1;
        h->held -= sent;
        if (!bulk)
            memmove(h->kept, h->kept + sent, h->held);
    }
    return 1;
}

static ssize_t read_some(int fd, struct half *h)
{
    if (bulk) {
        ssize_t count = splice(fd, NULL, h->pipe[1], NULL, PIPE, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
        h->held += count > 0 ? count : 0;
        return count;
    }
    ssize_t count = recv(fd, buffer, BUFFER, 0);
    ssize_t sent = count > 0 ? send(h->to, buffer, count, MSG_NOSIGNAL) : 0;
    if (count > 0 && sent < count) {
        if (sent < 0 && errno != EAGAIN)
            return -1;
        sent = sent < 0 ? 0 : sent;
        h->kept = realloc(h->kept, count - sent);
        memcpy(h->kept, buffer + sent, count - sent);
        h->held = count - sent;
    }
    return count;
}

/* -1 when the session is over. */
static int relay(int fd, uint32_t events)
{
    struct half *h = &halves[fd];
    for (;;) {
        int flushed = flush_kept(h);
        if (flushed <= 0)
            return flushed;
        if (h->at_end)
            return 0;
        ssize_t count = read_some(fd, h);
        if (count < 0)
            return errno == EAGAIN ? 0 : -1;
        if (count == 0) {
            h->at_end = 1;
            if (halves[h->to].at_end)
                return -1;
            shutdown(h->to, SHUT_WR);
            return 0;
        }
        /* A short read has emptied the socket: the next edge tells of more. Not so when the end is behind it. */
        if (count < BUFFER && !bulk && !(events & (EPOLLRDHUP | EPOLLHUP)))
            return flush_kept(h) < 0 ? -1 : 0;
    }
}

static void make_pipe(struct half *h)
{
    if (pipe2(h->pipe, O_NONBLOCK | O_CLOEXEC) < 0 || fcntl(h->pipe[1], F_SETPIPE_SZ, PIPE) < 0)
        die("pipe");
}

static void accept_all(void)
{
    int client, off = 0;
    while ((client = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (server < 0)
            die("socket");
        setsockopt(server, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off);
        if (connect(server, (struct sockaddr *)&backend, sizeof backend) < 0 && errno != EINPROGRESS)
            die("connect");
        halves[client] = (struct half){.to = server, .client = 1};
        halves[server] = (struct half){.to = client};
        if (bulk) {
            make_pipe(&halves[client]);
            make_pipe(&halves[server]);
        }
        watch(server, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    }
}

static void on_tcp(int fd, uint32_t events)
{
    if (fd == listening) {
        accept_all();
        return;
    }
    struct half *h = &halves[fd];
    if (!h->to)
        return; /* ended earlier in this turn */
    int other = h->to;
    if (halves[other].client) { /* connected */
        halves[other].client = 0;
        watch(other, EPOLLIN | (bulk ? EPOLLOUT : 0) | EPOLLRDHUP);
        if (!(events & EPOLLIN))
            return;
    }
    int ended = halves[other].at_end && events & EPOLLHUP; /* both ends are done: nobody needs to read that */
    if (!ended && events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        ended = relay(fd, events) < 0;
    if (!ended && events & EPOLLOUT && halves[other].held)
        ended = relay(other, 0) < 0;
    if (ended)
        hang_up_both(fd);
}

/* ---- UDP ---- */

static int link_of[CLIENTS];           /* by the client's port: its socket to the backend, or 0 */
static struct sockaddr_in client_of[FDS];
static int rested[FDS], rested_count;  /* udp1: sockets that may serve another client */
static int asked[FDS];                 /* questions without an answer, by socket */
static int one_answer;
static struct mmsghdr answers[BATCH];
static struct iovec answer_parts[BATCH];
static struct sockaddr_in answer_to[BATCH];
static char answer_bytes[BATCH][SIZE];
static int answer_count;

static void send_answers(void)
{
    for (int at = 0, sent; at < answer_count; at += sent)
        if ((sent = sendmmsg(listening, answers + at, answer_count - at, 0)) <= 0)
            sent = 1; /* lost */
    answer_count = 0;
}

static int link_for(const struct sockaddr_in *client)
{
    int *link = &link_of[client->sin_port];
    if (!*link && rested_count)
        *link = rested[--rested_count];
    if (!*link) {
        *link = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (*link < 0 || connect(*link, (struct sockaddr *)&backend, sizeof backend) < 0)
            die("link");
        watch(*link, EPOLLIN);
    }
    client_of[*link] = *client;
    return *link;
}

static void read_questions(void)
{
    static struct mmsghdr questions[BATCH];
    static struct iovec parts[BATCH];
    static struct sockaddr_in from[BATCH];
    static char bytes[BATCH][SIZE];
    int count;
    do {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){bytes[i], SIZE};
            questions[i].msg_hdr = (struct msghdr){&from[i], sizeof from[i], &parts[i], 1, NULL, 0, 0};
        }
        count = recvmmsg(listening, questions, BATCH, MSG_DONTWAIT, NULL);
        for (int i = 0; i < count; i++) {
            int link = link_for(&from[i]);
            asked[link]++;
            send(link, bytes[i], questions[i].msg_len, 0);
        }
    } while (count == BATCH);
}

/* Whether there may be more. */
static int read_answers(int link)
{
    static struct mmsghdr read[16];
    static struct iovec parts[16];
    int room = BATCH - answer_count < 16 ? BATCH - answer_count : 16;
    for (int i = 0; i < room; i++) {
        parts[i] = (struct iovec){answer_bytes[answer_count + i], SIZE};
        read[i].msg_hdr = (struct msghdr){NULL, 0, &parts[i], 1, NULL, 0, 0};
    }
    int count = recvmmsg(link, read, room, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++, answer_count++) {
        answer_to[answer_count] = client_of[link];
        answer_parts[answer_count] = (struct iovec){answer_bytes[answer_count], read[i].msg_len};
        answers[answer_count].msg_hdr = (struct msghdr){
            &answer_to[answer_count], sizeof *answer_to, &answer_parts[answer_count], 1, NULL, 0, 0};
    }
    asked[link] -= count > 0 ? count : 0;
    if (count > 0 && one_answer && !asked[link]) {
        link_of[client_of[link].sin_port] = 0;
        rested[rested_count++] = link;
    }
    if (answer_count == BATCH)
        send_answers();
    return count == room;
}

static void on_udp(int fd)
{
    if (fd == listening)
        read_questions();
    else
        while (read_answers(fd))
            ;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    signal(SIGPIPE, SIG_IGN); /* splice to a socket whose peer is gone */
    int udp = strncmp(argv[1], "udp", 3) == 0, on = 1, room = 4 << 20;
    bulk = strcmp(argv[1], "bulk") == 0;
    one_answer = strcmp(argv[1], "udp1") == 0;
    struct sockaddr_in at = local(atoi(argv[2]));
    backend = local(atoi(argv[3]));
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    listening = socket(AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (udp) {
        setsockopt(listening, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
        setsockopt(listening, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    }
    if (bind(listening, (struct sockaddr *)&at, sizeof at) < 0 || (!udp && listen(listening, 4096) < 0))
        die("listen");
    watch(listening, EPOLLIN);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (udp)
                on_udp(events[i].data.fd);
            else
                on_tcp(events[i].data.fd, events[i].events);
        }
        if (udp && answer_count)
            send_answers();
    }
}
