// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What generate.c and its programs in the kernel share.

#define FRAME_BYTES 60
#define FIRST_CLIENT 0x0a550002u // 10.85.0.2
#define FIRST_PORT 1024
#define PORTS 16384              // of each client

struct settings {
	__u32 flows;
	__u32 ip_sum, udp_sum;   // of what a checksum covers beside the client's address and port, not yet folded
	__u8 frame[FRAME_BYTES];
};

struct counts {
	__u64 sent, taken;
};
