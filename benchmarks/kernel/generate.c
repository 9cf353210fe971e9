/* Packets at the rate that one CPU makes and handles, without a socket: the kernel runs a program on frames that are sent
 * (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES).
 *
 *     generate packets DEVICE LINK-ADDRESS ADDRESS PORT FLOWS COUNT PID
 *     generate sink DEVICE
 *
 * The first sends COUNT datagrams of 18 bytes out of DEVICE to a neighbour's LINK-ADDRESS, from FLOWS clients in turn to
 * ADDRESS and PORT, after one of each client that is not measured; a sink on DEVICE takes what comes back. It prints a
 * JSON object: CPU time in nanoseconds, packets sent and packets that came back. The time is that of this thread and of
 * PID, the softirq thread of the CPU that this is bound to: they handle the packets on their whole way. The second only
 * drops what comes in by DEVICE: it prints "up", and ends when its input does. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/types.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "generate.h"

enum { BATCH = 64, CLIENT_LINK = 2 };

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static struct bpf_object *loaded(const char *program)
{
	char file[4096];
	snprintf(file, sizeof file, "%s.bpf.o", program);
	struct bpf_object *object = bpf_object__open_file(file, NULL);
	if (!object || bpf_object__load(object) < 0)
		die(file);
	return object;
}

static int program_of(struct bpf_object *object, const char *name)
{
	return bpf_program__fd(bpf_object__find_program_by_name(object, name));
}

/* Drops what comes in by the device until this process ends. */
static void sink_attach(struct bpf_object *object, int device)
{
	LIBBPF_OPTS(bpf_link_create_opts, options, .flags = XDP_FLAGS_DRV_MODE);
	if (bpf_link_create(program_of(object, "sink"), device, BPF_XDP, &options) < 0)
		die("bpf_link_create");
}

static __u32 words_sum(const void *data, int bytes)
{
	const __u16 *words = data;
	__u32 sum = 0;
	for (int i = 0; i < bytes / 2; i++)
		sum += words[i];
	return sum;
}

static void settings_fill(struct settings *settings, const char *link, const char *address, int port, int flows)
{
	struct ethhdr *ethernet = (void *)settings->frame;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u8 *to = ethernet->h_dest;
	memset(settings, 0, sizeof *settings);
	settings->flows = flows;
	if (sscanf(link, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", to, to + 1, to + 2, to + 3, to + 4, to + 5) != 6) {
		fprintf(stderr, "%s: no link address\n", link);
		exit(2);
	}
	ethernet->h_source[0] = CLIENT_LINK; /* locally administered */
	ethernet->h_proto = htons(ETH_P_IP);
	*ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP};
	ip->tot_len = htons(FRAME_BYTES - sizeof *ethernet);
	if (inet_pton(AF_INET, address, &ip->daddr) != 1) {
		fprintf(stderr, "%s: no IPv4 address\n", address);
		exit(2);
	}
	udp->dest = htons(port);
	udp->len = htons(FRAME_BYTES - sizeof *ethernet - sizeof *ip);
	settings->ip_sum = words_sum(ip, sizeof *ip);
	settings->udp_sum = words_sum(udp, sizeof *udp) + words_sum(&ip->daddr, 4) + htons(IPPROTO_UDP) + udp->len;
}

static __s64 thread_ns(void)
{
	struct timespec at;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* What a process with one thread was charged: the first field of /proc/PID/schedstat. */
static __s64 process_ns(const char *pid)
{
	char file[64];
	long long ns = 0;
	snprintf(file, sizeof file, "/proc/%s/schedstat", pid);
	FILE *opened = fopen(file, "r");
	if (!opened || fscanf(opened, "%lld", &ns) != 1)
		die(file);
	fclose(opened);
	return ns;
}

static void send_packets(int program, int device, int count)
{
	__u8 frame[FRAME_BYTES] = {0};
	struct xdp_md context = {.data_end = sizeof frame, .ingress_ifindex = device};
	LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame, .data_size_in = sizeof frame, .ctx_in = &context,
		    .ctx_size_in = sizeof context, .repeat = count, .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = BATCH);
	if (bpf_prog_test_run_opts(program, &options) < 0)
		die("BPF_PROG_TEST_RUN");
}

static int packets(struct bpf_object *object, int device, char **argv)
{
	int flows = atoi(argv[3]), count = atoi(argv[4]), zero = 0;
	int counts_fd = bpf_object__find_map_fd_by_name(object, "counts");
	struct settings settings;
	struct counts before, after;
	settings_fill(&settings, argv[0], argv[1], atoi(argv[2]), flows);
	if (bpf_map_update_elem(bpf_object__find_map_fd_by_name(object, "settings"), &zero, &settings, BPF_ANY) < 0)
		die("settings");
	sink_attach(object, device);
	send_packets(program_of(object, "generate"), device, flows);
	bpf_map_lookup_elem(counts_fd, &zero, &before);
	__s64 began = thread_ns() + process_ns(argv[5]);
	send_packets(program_of(object, "generate"), device, count);
	__s64 took = thread_ns() + process_ns(argv[5]) - began;
	bpf_map_lookup_elem(counts_fd, &zero, &after);
	printf("{\"ns\": %lld, \"sent\": %lld, \"returned\": %lld}\n", (long long)took,
	       (long long)(after.sent - before.sent), (long long)(after.taken - before.taken));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	int device = if_nametoindex(argv[2]);
	if (!device)
		die(argv[2]);
	struct bpf_object *object = loaded(argv[0]);
	if (strcmp(argv[1], "packets") == 0 && argc == 9)
		return packets(object, device, argv + 3);
	if (strcmp(argv[1], "sink") != 0 || argc != 3)
		return 2;
	sink_attach(object, device);
	puts("up");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
