// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What control and the programs in the kernel share. l4lb/engine/kernel/layout.py has the same in Python; a test holds
// the two together.

#define SERVICES_MAX 16384
#define BACKENDS_MAX 16384
#define SLOT_WORDS (1 << 22)      // four slots in each: 16 million, 32 MB, of which only what is used is touched
#define FLOWS_MAX (1 << 18)
#define FRAGMENTS_MAX 8192
#define DENIED_MAX (1 << 18)      // networks of all lists and bans together
#define HEADERS_MAX 128           // Ethernet, IPv6 with a fragment header, ICMPv6 with an IPv6 header and ports
#define HANDSHAKES_MAX (1 << 16)
#define QUIC_IDS_MAX (1 << 18)
#define SOURCES_MAX 256
#define TRANSLATIONS_MAX (1 << 18)
#define IDLE_DEFAULT_NS 600000000000ULL  // with idle_timeout = "off" too: nothing tells that a flow is over

#define XXH_PRIME_1 0x9E3779B185EBCA87ULL
#define XXH_PRIME_2 0xC2B2AE3D27D4EB4FULL
#define XXH_PRIME_3 0x165667B19E3779F9ULL
#define XXH_PRIME_4 0x85EBCA77C2B2AE63ULL
#define XXH_PRIME_5 0x27D4EB2F165667C5ULL

#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12
#define ICMP_FRAGMENTATION_NEEDED 4  // a code of unreachable
#define ICMP6_TOO_BIG 2

enum mode { MODE_NAT, MODE_DSR, MODE_TUNNEL };
enum hash_key { HASH_SOURCE_IP, HASH_SOURCE_IP_PORT, HASH_DESTINATION, HASH_SESSION, HASH_RANDOM, HASH_QUIC_CID };
enum service_flag {
	SERVICE_LEFT = 1,          // only what it has goes on
	SERVICE_LISTS = 2,         // some network is denied
};
enum backend_flag { BACKEND_LEFT = 1 };  // its flows go to others

enum verdict {
	VERDICT_OTHER,         // not for a service: up the stack
	VERDICT_FORWARDED,
	VERDICT_ANSWER,
	VERDICT_NO_BACKEND,
	VERDICT_NO_ROUTE,
	VERDICT_NO_NEIGHBOUR,
	VERDICT_TOO_LARGE,
	VERDICT_SHORT,         // the packet ends within a header
	VERDICT_DENIED,        // by address: lists, bans
	VERDICT_EXPIRED,       // it has no hop left
	VERDICT_NO_ROOM,       // in front of it, for the headers of a tunnel
	VERDICT_TOO_LARGE_ANSWERED,  // too large, and its sender has been sent an ICMP error
	VERDICT_NO_PORT,       // of this host is left for its flow, by full NAT
	VERDICT_COUNT,
};

struct address {
	__u32 words[4];                // in network order; IPv4 is v4-mapped
};

struct endpoint {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

struct service {
	__u64 seed;
	struct address prefix;         // mask of the client's address
	__u32 number;                  // of its counts
	__u32 first_word;              // of its table in `slots`
	__u32 slot_count;              // 0: no backend is usable
	__u8 mode;
	__u8 hash_key;
	__u8 flags;
	__u8 source;                   // in `sources`: that backends see new flows from; 0: they see the client's address
	__be16 gue_port;               // of a tunnel; 0: IPIP
	__u8 zeros[2];
	__u32 quic_service;            // whose connection ids are its; no other listener has the same
};

struct backend {
	struct address address;
	struct address source;         // of this host, on the way there; for tunnels. All zero: there is no way
	__u32 incarnation;             // another one at this index has another
	__be16 port;
	__u8 flags;
	__u8 zero;
};

struct denied_key {                // of a longest-prefix match
	__u32 bits;                    // 32 for the number, and those of the network
	__u32 number;                  // of the service's counts
	struct address client;
};

struct flow_key {
	struct address client, service;
	__be16 client_port, service_port;
};

struct flow {
	__u64 seen;                    // ns, monotonic (coarse); at most a second old
	__u32 backend;
	__u32 incarnation;
	__u32 number;                  // of its service's counts
	__u8 ended;                    // its client has said so
	__u8 source;                   // in `sources`: by full NAT, that its backend sees it from; 0: by no full NAT
	__be16 port;                   // ... and the port there; 0: none yet
};

struct source {                    // an address of this host, and the ports there that are for full NAT
	struct address address;
	__u16 first_port, port_count;
};

struct translation_key {           // what a backend sees of a flow by full NAT
	struct address backend, source;
	__be16 backend_port, source_port;
	__u8 protocol;
	__u8 zero[3];
};

struct translation {               // whose that is
	__u64 seen;                    // ns, monotonic; at most a second old
	struct flow_key flow;
	__u32 number;                  // of its service's counts
	__u32 backend;
	__u32 incarnation;
	__u8 ended;                    // enum ended
	__u8 zero[7];
};

struct answer {                    // what a backend's packets become
	struct endpoint service;
	__u32 number;                  // of its counts
	__u32 backend;
};

struct quic_id {
	__u32 service;
	__u32 length;
	__u8 bytes[20];                // and zeros
};

struct quic_owner {
	__u32 backend;
	__u32 incarnation;
};

struct fragment_key {
	struct address source, destination;
	__u32 id;
	__u32 protocol;
};

struct fragment {
	struct flow_key ends;          // of an answer: its service, and, by full NAT, its client; else the ports alone
	__u32 id;                      // by full NAT: that its backend sees
	__u32 backend;
	__u32 incarnation;
	__u8 is_answer;
	__u8 source;                   // as in flows; of an answer: by full NAT
	__u8 zero[2];
};

struct counts {                    // of one CPU
	__u64 flows;
	__u64 packets_up, bytes_up;
	__u64 packets_down, bytes_down;  // NAT alone: other answers do not come by here
	__u64 denied;
};

// Whose a backend's place is, and a listener's number: for a process that takes the maps over. Of that, programs look at
// idle_ns alone.
struct place {
	__u8 owner[16];                // a digest of pool and backend
	struct endpoint endpoint;
	__u32 used;
	struct counts base;            // what was counted here before
};

struct number {
	__u8 owner[16];                // a digest of the listener's name
	struct counts base;
	__u64 idle_ns;                 // how long a flow may be idle
	__u64 since;                   // ns, monotonic: flows of before are of another listener
	__u32 used;
	__u32 left;                    // only the flows it has go on
};

struct icmp {                      // <linux/icmp.h> needs a C library
	__u8 type, code;
	__u16 checksum;
	__u32 rest;
};

struct gue {                       // a UDP header and, of four bytes, that of generic UDP encapsulation
	__be16 source, destination, length;
	__u16 checksum;
	__u8 control, protocol;
	__be16 flags;
};

struct fragment_header {           // of IPv6
	__u8 next, zero;
	__be16 offset;
	__u32 id;
};
