/* Requests at a fixed rate, whatever the answers take: HTTP in sessions that stay, HTTP in a session each, the bytes of a
 * file in a session each, which the server answers in HTTP, or DNS by UDP.
 *
 *     paced keep|close|dns HOST PORT CLIENTS RATE SECONDS
 *     paced file HOST PORT CLIENTS RATE SECONDS FILE
 *
 * HOST is an IPv4 address.
 *
 * Request number i is due i/RATE seconds after the start, and its latency counts from then: when the server, or this
 * program, falls behind, the delay is in the figures. A request that is due while all clients wait for answers is sent
 * by the first that is free. Prints one JSON object; times are in microseconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum mode { KEEP, CLOSE, FILE_EACH, DNS };

struct client {
    int fd;
    uint16_t id;     /* of the DNS query under way */
    int64_t due_ns;  /* when the request under way was due; -1: none is */
    int64_t begun_ns;
    int sent;        /* whether it has been sent: a connection may not be there yet */
    int got;         /* bytes of the answer so far */
    char answer[4096];
};

static const char *const REQUEST[] = {
    [KEEP] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    [CLOSE] = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
};
static char file[16384];
static size_t file_bytes;
static const unsigned char QUESTION[] = /* host0.example.test A IN; its first two bytes become the id */
    "\0\0\1\0\0\1\0\0\0\0\0\0\5host0\7example\4test\0\0\1\0\1";
enum { QUESTION_BYTES = sizeof(QUESTION) - 1, LOST_AFTER_NS = 1000000000 };

static enum mode mode;
static struct sockaddr_in server;
static int epoll_fd, client_count;
static struct client *clients;
static int *idle, idle_first, idle_count; /* a ring: each client has its turn */
static int64_t *latencies, done_count, failed_count;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

static void hang_up(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static void make_idle(struct client *c)
{
    c->due_ns = -1;
    idle[(idle_first + idle_count++) % client_count] = c - clients;
}

static struct client *take_idle(void)
{
    struct client *c = &clients[idle[idle_first]];
    idle_first = (idle_first + 1) % client_count;
    idle_count--;
    return c;
}

static void end_request(struct client *c, int ok)
{
    if (ok)
        latencies[done_count++] = now_ns() - c->due_ns;
    else
        failed_count++;
    if (mode == CLOSE || mode == FILE_EACH || !ok)
        hang_up(c);
    make_idle(c);
}

static int is_open(struct client *c)
{
    if (c->fd >= 0)
        return 1;
    c->fd = socket(AF_INET, (mode == DNS ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        die("socket");
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS)
        return 0;
    int one = 1;
    if (mode != DNS)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u32 = c - clients};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &wanted) < 0)
        die("epoll_ctl");
    return 1;
}

/* -1 when it fails. A connection that is not yet there takes it at EPOLLOUT. */
static int send_request(struct client *c)
{
    unsigned char question[QUESTION_BYTES];
    const void *data = mode == DNS ? (const void *)question : mode == FILE_EACH ? file : REQUEST[mode];
    size_t size = mode == DNS ? sizeof question : mode == FILE_EACH ? file_bytes : strlen(REQUEST[mode]);
    if (mode == DNS) {
        memcpy(question, QUESTION, sizeof question);
        memcpy(question, &c->id, 2);
    }
    ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
    c->sent = sent == (ssize_t)size;
    return c->sent || (sent < 0 && (errno == EAGAIN || errno == ENOTCONN)) ? 0 : -1;
}

static void start_request(struct client *c, int64_t due_ns)
{
    c->due_ns = due_ns;
    c->begun_ns = now_ns();
    c->sent = c->got = 0;
    c->id++;
    if (!is_open(c) || send_request(c) < 0)
        end_request(c, 0);
}

/* A whole answer of HTTP: its headers, and as many bytes more as they say. */
static int is_whole(struct client *c)
{
    c->answer[c->got] = 0;
    char *body = strstr(c->answer, "\r\n\r\n"), *length = strcasestr(c->answer, "\r\nContent-Length:");
    return body && length && c->got >= body + 4 - c->answer + atoi(length + 17);
}

static void read_answer(struct client *c)
{
    while (c->fd >= 0 && c->due_ns >= 0) {
        ssize_t count = recv(c->fd, c->answer + c->got, sizeof c->answer - 1 - c->got, 0);
        if (count < 0 && errno == EAGAIN)
            return;
        if (mode == DNS) { /* answers of a query that was given up are of another id */
            if (count < 2)
                end_request(c, 0);
            else if (memcmp(c->answer, &c->id, 2) == 0)
                end_request(c, 1);
            continue;
        }
        if (count <= 0) {
            end_request(c, count == 0 && (mode == CLOSE || mode == FILE_EACH) && is_whole(c));
            return;
        }
        c->got += count;
        if (mode == KEEP && is_whole(c))
            end_request(c, 1);
    }
}

static void give_up_lost(int64_t now)
{
    for (int i = 0; i < client_count; i++)
        if (clients[i].due_ns >= 0 && now - clients[i].begun_ns > LOST_AFTER_NS)
            end_request(&clients[i], 0);
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double percentile_us(int percent)
{
    return done_count ? latencies[(done_count - 1) * percent / 100] / 1e3 : 0;
}

int main(int argc, char **argv)
{
    if (argc != (argc > 1 && strcmp(argv[1], "file") == 0 ? 8 : 7))
        return 2;
    mode = strcmp(argv[1], "keep") == 0 ? KEEP : strcmp(argv[1], "close") == 0 ? CLOSE : argc == 8 ? FILE_EACH : DNS;
    if (mode == FILE_EACH) {
        FILE *opened = fopen(argv[7], "rb");
        if (!opened)
            die(argv[7]);
        file_bytes = fread(file, 1, sizeof file, opened);
        fclose(opened);
    }
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
    if (inet_pton(AF_INET, argv[2], &server.sin_addr) != 1)
        return 2;
    client_count = atoi(argv[4]);
    double rate = atof(argv[5]), seconds = atof(argv[6]);
    int64_t total = rate * seconds, next = 0;
    clients = calloc(client_count, sizeof *clients);
    idle = calloc(client_count, sizeof *idle);
    latencies = calloc(total + 1, sizeof *latencies);
    epoll_fd = epoll_create1(0);
    if (!clients || !idle || !latencies || epoll_fd < 0)
        die("start");
    prctl(PR_SET_TIMERSLACK, 1);
    for (int i = 0; i < client_count; i++) {
        clients[i].fd = -1;
        make_idle(&clients[i]);
    }
    int64_t start = now_ns(), looked = start;
    while (next < total || idle_count < client_count) {
        int64_t now = now_ns();
        while (next < total && idle_count && start + (int64_t)(next / rate * 1e9) <= now)
            start_request(take_idle(), start + (int64_t)(next++ / rate * 1e9));
        if (now - looked > LOST_AFTER_NS) {
            looked = now;
            give_up_lost(now);
        }
        int64_t wait = LOST_AFTER_NS;
        if (next < total && idle_count)
            wait = start + (int64_t)(next / rate * 1e9) - now_ns();
        if (wait < 0)
            wait = 0;
        struct timespec timeout = {wait / 1000000000, wait % 1000000000};
        struct epoll_event events[256];
        int ready = epoll_pwait2(epoll_fd, events, 256, &timeout, NULL);
        if (ready < 0 && errno != EINTR)
            die("epoll_pwait2");
        for (int i = 0; i < ready; i++) {
            struct client *c = &clients[events[i].data.u32];
            if (c->due_ns < 0) {
                if (mode == KEEP && events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                    hang_up(c);
                continue;
            }
            if (!c->sent && send_request(c) < 0)
                end_request(c, 0);
            else
                read_answer(c);
        }
    }
    double took = (now_ns() - start) / 1e9;
    qsort(latencies, done_count, sizeof *latencies, by_size);
    printf("{\"done\": %lld, \"failed\": %lld, \"seconds\": %.3f, \"p50\": %.1f, \"p99\": %.1f}\n",
           (long long)done_count, (long long)failed_count, took, percentile_us(50), percentile_us(99));
    return 0;
}
