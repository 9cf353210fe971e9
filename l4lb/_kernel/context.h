// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What a program gets to see: the packet's bytes, by XDP or by tcx, and what it says of the packet when it ends.
// Everything else that differs between the two stands under #ifdef TCX beside what it is for. Needs nothing before
// it.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifdef TCX
typedef struct __sk_buff context_t;
#define PASS (-1)              // TCX_NEXT (Linux 6.6): other programs of the device see it too
#define DROP TC_ACT_SHOT
#define TRAIN_SEGMENT(context) ((context)->gso_size)
#else
typedef struct xdp_md context_t;
#define PASS XDP_PASS
#define DROP XDP_DROP
#define TRAIN_SEGMENT(context) ((void)(context), 0)
#endif

#define INLINE static __always_inline
// With a stack of its own, of which there are 512 bytes in all. As it is not static, the verifier goes through it once,
// not for each way that leads there; so it does not know what it is given, and wants to see that pointers are there.
#define APART __attribute__((noinline))
#define AF_INET 2
#define AF_INET6 10

INLINE void *at(context_t *context, __u32 offset)
{
	return (void *)(long)context->data + offset;
}

INLINE void *end_of(context_t *context)
{
	return (void *)(long)context->data_end;
}

INLINE long load(context_t *context, __u32 offset, void *to, __u32 size)
{
#ifdef TCX
	return bpf_skb_load_bytes(context, offset, to, size);
#else
	return bpf_xdp_load_bytes(context, offset, to, size);
#endif
}

// The same as `put`, at any place, also behind pieces that are not in front.
INLINE long store(context_t *context, __u32 offset, const void *from, __u32 size)
{
#ifdef TCX
	return bpf_skb_store_bytes(context, offset, from, size, BPF_F_RECOMPUTE_CSUM);
#else
	return bpf_xdp_store_bytes(context, offset, (void *)from, size);
#endif
}

// Of socket buffers the kernel may know a checksum of all that is in them, which has to stay right.
INLINE long put(context_t *context, __u32 offset, const void *from, const __u32 size)
{
#ifdef TCX
	return bpf_skb_store_bytes(context, offset, from, size, offset ? BPF_F_RECOMPUTE_CSUM : 0);
#else
	void *to = at(context, offset);
	if (to + size > end_of(context))
		return -1;
	__builtin_memcpy(to, from, size);
	return 0;
#endif
}
