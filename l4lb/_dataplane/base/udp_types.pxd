# UDP types: structs of the UDP plane that know nothing of sessions, listeners and workers. No functions.
#
#   intake_t   what one recvmmsg received
#   post_t     what one sendmmsg will send
#   link_t     a socket connected to a backend
#   flow_t     the part of a session that only UDP has
#   quic_ids_t which backend gave a QUIC connection id

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from l4lb._dataplane.base.enums cimport (
    CONTROL_BYTES, DATAGRAM_BATCH, LINK_BUCKETS, PATH_ERROR_COUNT, POST_CONTROL_BYTES, POST_VECTORS,
    PROXY_HEADER_MAX_BYTES, REFUSED_SLOTS,
)
from l4lb._dataplane.base.linux cimport iovec, mmsghdr, sockaddr_storage, socklen_t

cdef struct datagram_t:           # a received datagram, without its bytes
    uint32_t length               # of the payload
    uint32_t skip                 # bytes before it: a PROXY header
    uint16_t tlvs_at              # its TLVs, counted from its first byte
    uint16_t tlvs_length
    uint32_t segment_bytes        # of a train: the size of its datagrams, the last may be shorter; 0: a single datagram
    uint32_t kernel_drops         # drops of its socket so far; 0: none, or not reported
    uint32_t interface            # that it came in by; only with a local address
    uint8_t local[16]             # the address of ours that it was sent to, IPv4 as v4-mapped; see local_from_v4
    uint8_t local_length          # 16, or 0: not reported
    uint8_t tos                   # of IPv4 and IPv6 alike, the ECN bits included (RFC 3168)
    bint cut
    bint to_many                  # sent to a broadcast or multicast address: each socket of the port gets a copy

cdef struct intake_t:
    mmsghdr headers[DATAGRAM_BATCH]
    iovec vectors[DATAGRAM_BATCH]
    sockaddr_storage names[DATAGRAM_BATCH]
    uint8_t control[DATAGRAM_BATCH][CONTROL_BYTES]
    datagram_t datagrams[DATAGRAM_BATCH + 1]
    uint8_t *bytes                # DATAGRAM_BATCH slots of DATAGRAM_BYTES, and one for what waited: udp/waiting.pxd
    uint32_t used                 # slots whose bytes are still needed

cdef struct quic_id_t:            # in a datagram
    const uint8_t *bytes
    uint32_t length

cdef struct quic_header_t:
    bint long_form
    uint32_t version              # of the long form
    quic_id_t destination
    quic_id_t source              # of the long form

cdef struct quic_ids_t:           # of a pool, for all workers, see balancing/quic.pxd
    uint64_t *words               # shared; NULL: the pool does not need them
    void *memory                  # the allocation that holds them
    uint64_t seed                 # so that no client can aim at one bucket
    int64_t lengths               # shared; bit n: ids of n bytes are among them

cdef struct quic_entry_t:         # one id, for another process
    uint32_t place
    uint32_t tag
    uint32_t backend_id

cdef struct flow_t:
    uint32_t hash                 # of its key
    uint32_t next_idler           # in its listener's list by last use; session indices
    uint32_t previous_idler
    uint32_t used_ms              # when it was last moved to the front there
    uint32_t link                 # index of its backend socket, or NO_INDEX
    uint32_t requests_left        # until it gives its key up; 0: no limit
    uint32_t responses            # it ends when each datagram has got so many answers; 0: no limit
    uint64_t datagrams_up
    uint64_t datagrams_down
    uint64_t quic_given           # hash of the last id that the backend gave, while the client has not used it
    int fd                        # the listening socket, which receives its datagrams and sends its answers
    uint32_t scope_id             # of a client with a link-local address
    uint32_t interface            # see datagram_t
    uint8_t local[16]
    uint8_t local_length
    uint8_t peer_length           # 4 or 16
    uint16_t peer_port            # in network order
    uint8_t peer[16]              # who sends the datagrams: the client itself, or a proxy that says for whom
    uint8_t destination[16]       # where the client meant to go, when a PROXY header is to say so
    uint16_t destination_port
    uint8_t destination_length    # 4 or 16; 0: not needed
    bint wide                     # the listening socket is IPv6
    uint8_t named                 # a PROXY header named the client: it is not the peer
    bint bound                    # its key is in the table
    bint one_way                  # no answer is waited for, and none is passed on
    bint unreachable              # ICMP or a route reported it, and its backend has not answered since
    bint no_trains                # its path does not take them
    bint denied                   # a local firewall blocked a datagram to the backend: ICMP errors are the firewall's
    bint quic                     # its pool hashes connection ids
    uint8_t quic_given_length     # 0: no such id
    flow_t *next_free

cdef struct route_t:              # how a datagram leaves
    int fd
    flow_t *flow
    uint64_t *lost                # counts datagrams that the kernel did not take
    uint8_t tos
    uint32_t interface
    const uint8_t *local          # the address to answer from; NULL: the socket has only one
    bint wide
    sockaddr_storage to
    socklen_t to_length           # 0: the socket is connected

cdef struct message_t:            # one message of a post: what the kernel does not see of it
    flow_t *flow
    uint64_t *lost
    uint32_t bytes
    uint32_t datagrams
    uint32_t segment_bytes        # of each datagram; the last may be shorter
    uint32_t slot                 # the slot of the intake where it begins
    bint closed                   # nothing can be added: its last datagram is shorter, or it travels alone
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
    bint resent                   # the message at hand was sent again after one of these

cdef struct link_t:
    uint32_t index
    int fd                        # -1: a free slot
    uint32_t session              # that it serves, or NO_INDEX: it is a spare
    uint32_t next                 # in its list of spares, or of free slots
    uint32_t previous
    uint32_t since_ms             # a spare since then
    uint32_t rests_until_ms       # ... and does not serve again before
    uint32_t kernel_drops         # drops that were counted already
    uint64_t tag                  # what it connects, see udp/connect.pxd:link_tag; 0: it does not serve again
    uint16_t batch                # how many datagrams the next event is likely to bring, see LINK_BATCH_MIN
    bint wide                     # an IPv6 socket
    bint resting                  # a spare of that list: an answer may still come
    bint unread                   # there may be something to read that no event will report
    bint one_way                  # for sessions that pass no answer on
    uint32_t backend_id

cdef struct spares_t:             # the oldest first; link indices
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

cdef struct refused_t:            # a backend that has lately refused, or could not be reached
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

cdef struct udp_t:                # a worker's; made when it first serves a UDP listener
    intake_t up
    intake_t down
    post_t post_up
    post_t post_down
    links_t links
    flows_t flows
    refused_t refused[REFUSED_SLOTS]
    void *waiting                 # waitings_t, see udp/waiting.pxd; NULL until it is needed
    uint32_t waiting_count
    void *replayed                # waiting_t: of the session that was just made; its datagrams are still to be sent
    uint32_t denials              # sends that a firewall denied, in this event
    uint8_t prefix[PROXY_HEADER_MAX_BYTES]  # the PROXY header of the datagram that is being sent

cdef struct exported_flow_t:      # all that another process needs to take a session over
    int fd                        # of the listening socket
    int link_fd                   # moves with it
    uint64_t id                   # 0: it gets a new one
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
