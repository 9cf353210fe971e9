# UDP types: structs of the UDP plane that know nothing of sessions, listeners and workers. No functions.
#
#   intake_t   what one recvmmsg brought
#   post_t     what one sendmmsg will take
#   link_t     a socket connected to a backend
#   flow_t     what a session has besides, when it is one of UDP
#   quic_ids_t which backend gave a QUIC connection id

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from l4lb._dataplane.base.enums cimport (
    CONTROL_BYTES, DATAGRAM_BATCH, LINK_BUCKETS, PATH_ERROR_COUNT, POST_CONTROL_BYTES, POST_VECTORS,
    PROXY_HEADER_MAX_BYTES, REFUSED_SLOTS,
)
from l4lb._dataplane.base.linux cimport iovec, mmsghdr, sockaddr_storage, socklen_t

cdef struct datagram_t:           # as received, its bytes apart
    uint32_t length               # of the payload
    uint32_t skip                 # bytes before it: a PROXY header
    uint16_t tlvs_at              # its TLVs, counted from its first byte
    uint16_t tlvs_length
    uint32_t segment_bytes        # of a train: datagrams of that size, the last may be shorter; 0: just one
    uint32_t kernel_drops         # of its socket so far; 0: none, or not told
    uint32_t interface            # where it came in; with a local address only
    uint8_t local[16]             # the address of ours that it was sent to, IPv4 as v4-mapped; see local_from_v4
    uint8_t local_length          # 16, or 0: not told
    uint8_t tos                   # of IPv4 and IPv6 alike, the ECN bits included (RFC 3168)
    bint cut
    bint to_many                  # asked at a broadcast or multicast address: each socket of a port has a copy

cdef struct intake_t:
    mmsghdr headers[DATAGRAM_BATCH]
    iovec vectors[DATAGRAM_BATCH]
    sockaddr_storage names[DATAGRAM_BATCH]
    uint8_t control[DATAGRAM_BATCH][CONTROL_BYTES]
    datagram_t datagrams[DATAGRAM_BATCH]
    uint8_t *bytes                # DATAGRAM_BATCH slots of DATAGRAM_BYTES
    uint32_t used                 # slots whose bytes are still needed

cdef struct quic_id_t:            # in a datagram
    const uint8_t *bytes
    uint32_t length

cdef struct quic_header_t:
    bint long_form
    uint32_t version              # of the long form
    quic_id_t destination
    quic_id_t source              # of the long form

cdef struct quic_ids_t:           # of a pool, for all workers, see udp/quic.pxd
    uint64_t *words               # shared; NULL: nobody needs them
    void *memory                  # that they are in
    uint64_t seed                 # so that nobody can aim at one bucket
    int64_t lengths               # shared; bit n: ids of n bytes are among them

cdef struct quic_entry_t:         # one of them, for another process
    uint32_t place
    uint32_t tag
    uint32_t backend_id

cdef struct flow_t:
    uint32_t hash                 # of its key
    uint32_t next_idler           # in its listener's list by last use; session indices
    uint32_t previous_idler
    uint32_t used_ms              # when it was last put in front there
    uint32_t link                 # index of its backend socket, or NO_INDEX
    uint32_t requests_left        # until it gives its key up; 0: no limit
    uint32_t responses            # it ends when each datagram has so many; 0: no limit
    uint64_t datagrams_up
    uint64_t datagrams_down
    uint64_t quic_given           # hash of the last id that the backend gave, while the client has not used it
    int fd                        # the listening socket: its datagrams come from there, and answers leave by it
    uint32_t scope_id             # of a client with a link-local address
    uint32_t interface            # see datagram_t
    uint8_t local[16]
    uint8_t local_length
    uint8_t peer_length           # 4 or 16
    uint16_t peer_port            # in network order
    uint8_t peer[16]              # who sends the datagrams: the client itself, or a proxy that says for whom
    uint8_t destination[16]       # where the client meant to go, when a PROXY header is to say so
    uint16_t destination_port
    uint8_t destination_length    # 4 or 16, 0: nobody asks
    bint wide                     # the listening socket is one of IPv6
    uint8_t named                 # a PROXY header named the client: it is not the peer
    bint bound                    # its key is in the table
    bint one_way                  # no answer is waited for, and none is passed on
    bint unreachable              # ICMP or a route said so, and nothing was heard of its backend since
    bint no_trains                # its way does not take them
    bint denied                   # a local firewall let a datagram to the backend not out: what ICMP says is its own
    bint quic                     # its pool goes by connection ids
    uint8_t quic_given_length     # 0: no such id
    flow_t *next_free

cdef struct route_t:              # how a datagram leaves
    int fd
    flow_t *flow
    uint64_t *lost                # counts those that the kernel did not take
    uint8_t tos
    uint32_t interface
    const uint8_t *local          # the address to answer from; NULL: the socket has but one
    bint wide
    sockaddr_storage to
    socklen_t to_length           # 0: the socket is connected

cdef struct message_t:            # of a post, beside what the kernel sees of it
    flow_t *flow
    uint64_t *lost
    uint32_t bytes
    uint32_t datagrams
    uint32_t segment_bytes        # what each has, the last may have less
    uint32_t slot                 # of the intake, where it begins
    bint closed                   # nothing can be added: it ends with a shorter one, or is alone
    uint8_t tos

cdef struct post_t:
    int fd
    uint32_t count
    uint32_t vector_count
    mmsghdr headers[DATAGRAM_BATCH]
    iovec vectors[POST_VECTORS]
    sockaddr_storage names[DATAGRAM_BATCH]
    uint8_t control[DATAGRAM_BATCH][POST_CONTROL_BYTES]
    message_t messages[DATAGRAM_BATCH]
    uint64_t sent_datagrams       # since it was last empty
    uint64_t sent_bytes
    uint32_t path_errors[PATH_ERROR_COUNT]  # likewise; by path_error_t
    bint resent                   # one of these, and the message at hand was sent again since

cdef struct link_t:
    uint32_t index
    int fd                        # -1: a free slot
    uint32_t session              # that it serves, or NO_INDEX: a spare
    uint32_t next                 # of spares in their list; of free slots
    uint32_t previous
    uint32_t since_ms             # a spare since then
    uint32_t rests_until_ms       # ... and does not serve again before
    uint32_t kernel_drops         # that were counted
    uint64_t tag                  # from where to where it is connected
    uint16_t batch                # how many datagrams the next event is likely to bring, see LINK_BATCH_MIN
    bint wide                     # of IPv6
    bint resting                  # a spare of that list: an answer may still come
    bint unread                   # there may be something to read of which no event will tell
    bint one_way                  # of sessions that pass no answer on
    uint32_t backend_id

cdef struct spares_t:             # by session-less age, the oldest first; link indices
    uint32_t head
    uint32_t tail

cdef struct links_t:
    link_t **blocks
    uint32_t block_count
    uint32_t block_capacity
    uint32_t free_head
    uint32_t open_count
    uint32_t spare_count
    uint32_t sweep_due_ms
    spares_t ready[LINK_BUCKETS]  # by tag
    spares_t resting[LINK_BUCKETS]

cdef struct refused_t:            # a backend of which the network said lately that it refuses or cannot be reached
    uint32_t backend_id
    uint32_t until_ms

cdef struct flows_t:              # open addressing, linear probing; hash << 32 | session index + 1, 0: free
    uint64_t *slots
    uint32_t mask
    uint32_t count
    uint64_t seed
    flow_t *free
    flow_t **blocks
    uint32_t block_count

cdef struct flow_list_t:          # sessions of one listener on one worker, the idlest last; session indices
    uint32_t head
    uint32_t tail

cdef struct udp_t:                # of a worker; it has one once it serves a UDP listener
    intake_t up
    intake_t down
    post_t post_up
    post_t post_down
    links_t links
    flows_t flows
    refused_t refused[REFUSED_SLOTS]
    uint32_t denials              # of send(2) by a firewall, in this event
    uint8_t prefix[PROXY_HEADER_MAX_BYTES]  # the PROXY header of the datagram that is being sent

cdef struct exported_flow_t:      # a session that moves to another process: all that is to be known of it there
    int fd                        # of the listening socket
    int link_fd                   # goes along
    uint32_t backend_id
    uint32_t age_ms
    uint32_t idle_ms
    uint64_t bytes_up
    uint64_t bytes_down
    uint8_t source[16]
    uint8_t source_length
    uint16_t source_port          # in network order
    uint16_t local_port           # likewise
    bint link_wide
    flow_t flow
