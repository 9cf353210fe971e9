// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Forwarding in the kernel: one source, two programs. As it is for XDP; with -DTCX for the ingress of tcx (Linux 6.6),
// where packets are socket buffers. Only what Linux's stable interface has: no BTF, no CO-RE. It is dual licensed, as
// some helpers (bpf_fib_lookup) are for programs under the GPL alone; the rest of l4lb is under Apache-2.0.
//
//   a packet --parse--> a service (address, port, protocol)? --no--> an answer of a NAT backend? --no--> the stack
//                          | yes                                        | yes
//                          | a known flow's backend, or by hash         | from the service's address again
//                          v                                            v
//                       dsr: to the backend's link address as it is   by the kernel's routes
//                       nat: to the backend's address, by the kernel's routes; with an address of this host as the
//                            source where the backend cannot answer by way of this host (full_nat.h)
//                       tunnel: as it is, behind a header of its own to the backend's address (tunnel.h)
//
// maps.h says which maps control writes; the programs write flows, fragments and counts. A service changes as a whole:
// its table is written where no service points to yet, then its entry is replaced.

#include "context.h"
#include "layout.h"
#include "maps.h"
#include "parse.h"
#include "hash.h"
#include "rewrite.h"
#include "route.h"
#include "too_large.h"
#include "tunnel.h"
#include "flows.h"
#include "quic.h"
#include "choose.h"
#include "full_nat.h"

INLINE void count_up(void *map, __u32 index, const struct packet *packet)
{
	struct counts *counts = bpf_map_lookup_elem(map, &index);
	if (!counts)
		return;
	counts->packets_up++;
	counts->bytes_up += packet->bytes;
	counts->flows += packet->is_new;
}

INLINE void count_down(void *map, __u32 index, const struct packet *packet)
{
	struct counts *counts = bpf_map_lookup_elem(map, &index);
	if (!counts)
		return;
	counts->packets_down++;
	counts->bytes_down += packet->bytes;
}

// Whether its client may not come in. Later packets of a flow are asked too: a ban ends it.
INLINE int is_denied(const struct packet *packet, const struct service *service)
{
	struct denied_key key = {.bits = 160, .number = service->number, .client = packet->source};
	__u32 number = service->number;
	if (!(service->flags & SERVICE_LISTS) || packet->is_error || !bpf_map_lookup_elem(&denied, &key))
		return 0;
	struct counts *counts = bpf_map_lookup_elem(&by_service, &number);
	if (counts)
		counts->denied++;
	return 1;
}

INLINE void fragment_key_fill(struct fragment_key *key, const struct packet *packet)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = packet->source;
	key->destination = packet->destination;
	key->id = packet->fragment_id;
	key->protocol = packet->protocol;
}

// For the later fragments of a client's packet.
APART int remember_request(struct packet *packet, const struct choice *choice)
{
	if (!packet || !choice)
		return -1;
	struct fragment_key key;
	struct fragment later = {.backend = choice->index, .incarnation = choice->incarnation, .source = choice->source};
	if (choice->source)
		later.id = packet->sent_id = next_id();
	later.ends.client_port = packet->source_port;
	later.ends.service_port = packet->destination_port;
	fragment_key_fill(&key, packet);
	return bpf_map_update_elem(&fragments, &key, &later, BPF_ANY);
}

// ... and of an answer.
APART int remember_answer(const struct packet *packet, const struct address *service, const struct address *client,
						  int by_full_nat)
{
	if (!packet || !service || !client)
		return -1;
	struct fragment_key key;
	struct fragment later = {.is_answer = 1, .ends.service = *service, .ends.client = *client, .source = by_full_nat};
	fragment_key_fill(&key, packet);
	return bpf_map_update_elem(&fragments, &key, &later, BPF_ANY);
}

// TOO_LARGE: nothing has become of it yet, `packet->mtu` is what would fit.
APART int direct(context_t *context, struct packet *packet, const struct service *service,
				 const struct backend *backend)
{
	if (!packet || !service || !backend)
		return DROP;
	struct bpf_fib_lookup look;
	long found = look_up(context, packet, &packet->source, &backend->address, &look);
	int up = service->mode == MODE_NAT;                                 // the stack can fragment it
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED && !(up && may_be_fragmented(context, packet))) {
		packet->mtu = look.mtu_result;
		return TOO_LARGE;
	}
	if (up) {
		struct change change = {.from = packet->destination, .to = backend->address, .of_destination = 1};
		change.from_port = packet->destination_port;
		change.to_port = backend->port;
		if (rewrite(context, packet, &change))
			return stop(VERDICT_SHORT, DROP);
	}
	return forward(context, packet, &look, found, up);
}

INLINE int send(context_t *context, struct packet *packet, const struct service *service, const struct choice *choice,
				const struct backend *backend)
{
	int sent;
	count_up(&by_service, service->number, packet);
	count_up(&by_backend, choice->index, packet);
	if (choice->source)
		sent = full_nat(context, packet, backend, choice);
	else if (service->mode == MODE_TUNNEL)
		sent = tunnel(context, packet, service, backend);
	else
		sent = direct(context, packet, service, backend);
	return sent == TOO_LARGE ? too_large(context, packet) : sent;
}

#define IS_OURS (-3)                     // no action of a program

// From a NAT backend, to a client, whom it sees as from the service. IS_OURS: a backend sends it to this host itself.
APART int as_service(context_t *context, const struct packet *packet, const struct address *service, __be16 port)
{
	if (!packet || !service)
		return DROP;
	struct bpf_fib_lookup look;
	struct change change = {.from = packet->source, .to = *service, .of_destination = 0};
	change.from_port = packet->source_port;
	change.to_port = port;
	long found = look_up(context, packet, service, &packet->destination, &look);
	if (found == BPF_FIB_LKUP_RET_NOT_FWDED || found == BPF_FIB_LKUP_RET_FWD_DISABLED)
		return IS_OURS;
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED && !may_be_fragmented(context, packet))
		return stop(VERDICT_TOO_LARGE, PASS);                            // the stack answers the backend
	if (rewrite(context, packet, &change))
		return stop(VERDICT_SHORT, DROP);
	count_verdict(VERDICT_ANSWER);
	return forward(context, packet, &look, found, 1);
}

// Of a packet from a backend to this host: `ends` is the flow by full NAT that it belongs to. 0, or -1: it is none of ours
// (checks, sessions of the proxy).
APART int translate(const struct packet *packet, struct flow_key *ends)
{
	if (!packet || !ends)
		return -1;
	struct translation_key key = {.backend = packet->source, .source = packet->destination};
	key.backend_port = packet->source_port;
	key.source_port = packet->destination_port;
	key.protocol = packet->protocol;
	struct translation *known = translation_find(&key);
	if (!known)
		return -1;
	*ends = known->flow;
	if (!packet->is_error)
		translation_note(known, packet, bpf_ktime_get_ns(), ENDED_DOWN);
	struct backend *backend = backend_at(known->backend);
	count_down(&by_service, known->number, packet);
	if (backend && backend->incarnation == known->incarnation)
		count_down(&by_backend, known->backend, packet);
	return 0;
}

INLINE int own(context_t *context, struct packet *packet)
{
	struct flow_key ends;
	if (!any_source() || translate(packet, &ends))
		return stop(VERDICT_OTHER, PASS);
	if (packet->part == PART_FIRST)
		remember_answer(packet, &ends.service, &ends.client, 1);
	int verdict = to_client(context, packet, &ends);
	return verdict == TOO_LARGE ? too_large(context, packet) : verdict;
}

INLINE int answer(context_t *context, struct packet *packet)
{
	struct endpoint from = {.address = packet->source, .port = packet->source_port, .protocol = packet->protocol};
	struct answer *known = bpf_map_lookup_elem(&answers, &from);
	if (!known || packet->is_error)
		return own(context, packet);
	struct endpoint seen = known->service;
	if (packet->part == PART_FIRST)
		remember_answer(packet, &seen.address, &packet->destination, 0);
	__u32 number = known->number, backend = known->backend;
	int verdict = as_service(context, packet, &seen.address, seen.port);
	if (verdict == IS_OURS)
		return own(context, packet);
	if (verdict != PASS) {
		count_down(&by_service, number, packet);
		count_down(&by_backend, backend, packet);
	}
	return verdict;
}

INLINE int later_answer(context_t *context, struct packet *packet, const struct fragment *first)
{
	if (!first->source) {
		int verdict = as_service(context, packet, &first->ends.service, 0);
		return verdict == IS_OURS ? stop(VERDICT_OTHER, PASS) : verdict;
	}
	int verdict = to_client(context, packet, &first->ends);
	return verdict == TOO_LARGE ? too_large(context, packet) : verdict;
}

// It has no ports: it goes where the first one went.
INLINE int later_fragment(context_t *context, struct packet *packet)
{
	struct fragment_key key;
	fragment_key_fill(&key, packet);
	struct fragment *first = bpf_map_lookup_elem(&fragments, &key);
	if (!first)
		return stop(VERDICT_OTHER, PASS);
	struct fragment known = *first;
	if (known.is_answer)
		return later_answer(context, packet, &known);
	struct endpoint key_ = {.address = packet->destination, .port = known.ends.service_port, .protocol = packet->protocol};
	struct service *service = bpf_map_lookup_elem(&services, &key_);
	struct backend *backend = backend_at(known.backend);
	if (!service || !backend || backend->incarnation != known.incarnation)
		return stop(VERDICT_NO_BACKEND, DROP);
	packet->source_port = known.ends.client_port;
	packet->destination_port = known.ends.service_port;
	packet->sent_id = known.id;
	struct choice choice = {.index = known.backend, .incarnation = known.incarnation, .source = known.source};
	return send(context, packet, service, &choice, backend);
}

INLINE int balance(context_t *context)
{
	struct packet packet;
	if (parse(context, &packet))
		return stop(VERDICT_OTHER, PASS);
	if (packet.part == PART_LATER)
		return later_fragment(context, &packet);
	struct endpoint key = {.address = packet.destination, .port = packet.destination_port, .protocol = packet.protocol};
	struct service *service = bpf_map_lookup_elem(&services, &key);
	if (!service)
		return answer(context, &packet);
	if (is_denied(&packet, service))
		return stop(VERDICT_DENIED, DROP);
	struct choice choice = {};
	enum verdict verdict = choose(context, &packet, service, &choice);
	struct backend *backend = backend_at(choice.index);
	if (verdict == VERDICT_OTHER)
		return stop(VERDICT_OTHER, PASS);
	if (verdict != VERDICT_FORWARDED || !backend)
		return stop(VERDICT_NO_BACKEND, DROP);
	if (choice.source && keep_port(&packet, service, &choice))
		return stop(VERDICT_NO_PORT, DROP);
	if (packet.part == PART_FIRST)
		remember_request(&packet, &choice);
	count_verdict(VERDICT_FORWARDED);
	return send(context, &packet, service, &choice, backend);
}

#ifdef TCX
SEC("tc")
int l4lb_tcx(struct __sk_buff *context)
{
	return balance(context);
}
#else
SEC("xdp")
int l4lb_xdp(struct xdp_md *context)
{
	return balance(context);
}
#endif

char _license[] SEC("license") = "Dual BSD/GPL";
