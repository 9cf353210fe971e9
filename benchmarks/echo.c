/* A UDP server that sends every datagram back from the address that it was sent to.
 *
 *     echo PORT ADDRESS...
 *
 * A process for each address, which a signal to this one ends too. Prints "up" once all are bound. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int bound(const char *address, int port)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_DGRAM, 0), room = 4 << 20;
    if (inet_pton(AF_INET, address, &here.sin_addr) != 1) {
        fprintf(stderr, "%s: no IPv4 address\n", address);
        exit(2);
    }
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room) < 0)
        die("socket");
    if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0)
        die(address);
    return fd;
}

static void serve(int fd)
{
    char data[65536];
    struct sockaddr_in peer;
    for (;;) {
        socklen_t size = sizeof peer;
        ssize_t count = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&peer, &size);
        if (count >= 0) /* an error is what ICMP said of an earlier answer: its client has gone */
            sendto(fd, data, count, 0, (struct sockaddr *)&peer, size);
    }
}

int main(int argc, char **argv)
{
    int fds[64];
    if (argc < 3 || argc > 66)
        return 2;
    for (int i = 2; i < argc; i++)
        fds[i - 2] = bound(argv[i], atoi(argv[1]));
    pid_t parent = getpid();
    for (int i = 2; i < argc; i++) {
        pid_t pid = fork();
        if (pid < 0)
            die("fork");
        if (pid == 0) {
            if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
                return 1;
            serve(fds[i - 2]);
        }
    }
    puts("up");
    fflush(stdout);
    for (;;)
        pause();
}
