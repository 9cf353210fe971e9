# Enums: the named numbers that the files of the data plane share. No structs, no functions.

cdef enum:
    CACHE_LINE_BYTES = 64
    SCRATCH_BYTES = 65536         # what one recv reads; a half that keeps filling it is a bulk flow
    PIPE_BYTES = 1048576          # requested from the kernel, which may give less
    TURN_BYTES = 1048576          # a half moves at most about this much before others get their turn
    BULK_READS = 2                # full scratch reads in a row before a half takes a pipe
    BULK_MIN_BYTES = 32768        # a wake-up that splices less than this ends bulk mode
    EPOLL_BATCH = 256             # events that one epoll_wait returns
    EPOLL_BATCH_UDP = 1024        # ... on a worker with UDP; udp/links.pxd says why so many
    ACCEPT_BATCH = 64
    ACK_HOLD_MS = 8               # how long a handshake's last ACK waits for bytes to ride on
    CLIENT_FIRST_MAX = 3
    HELLO_WAIT_MS = 3000          # how long to wait for a ClientHello: time for one retransmission
    ROUTE_WAIT_MS = 5000          # ... when it decides about the pool: time for two
    ACCEPT_PAUSE_MS = 100         # after EMFILE and similar errors
    ENDING_POLL_MS = 16           # shortest interval between checks whether an ending session's last bytes were taken
    ENDING_POLL_MAX_MS = 128      # ... and the longest
    CLIENT_WATCH_MS = 32          # when a connect takes longer, its client is watched: it may leave meanwhile
    INBOX_SIZE = 64               # power of two
    RECORD_SLOTS = 4096           # power of two
    NOTICE_SLOTS = 64             # power of two
    ASK_SLOTS = 1024              # power of two
    ANSWER_SLOTS = 4096           # power of two
    EVICT_LOOKED_MAX = 4096       # sessions that one turn looks at
    EVICT_ENDED_MAX = 64          # ... and ends
    SESSIONS_PER_BLOCK = 256
    PIPE_CACHE_MAX = 64
    DATAGRAM_BATCH = 64           # datagrams, or trains of them, that one call receives or sends
    DATAGRAM_PAYLOAD_MAX = 65507  # over IPv4: 65,535 less the headers of IP and UDP
    DATAGRAM_BYTES = 65536        # room for the largest datagram or train
    TRAIN_BYTES = 65487           # the most that a train may hold: 65,535 less the headers of IPv6 and UDP
    TRAIN_SEGMENTS = 64           # ... in so many datagrams (UDP_MAX_SEGMENTS in older kernels)
    TRAIN_MIN_BYTES = 128         # smaller datagrams travel alone: cutting a train apart would cost more
    CONTROL_BYTES = 192           # control messages received with a datagram: all that are requested fit
    POST_VECTORS = 256
    UDP_TURN_BATCHES = 4          # batches read from a socket before others get their turn
    UDP_BUFFER_BYTES = 4194304    # requested from the kernel for each socket
    LINKS_PER_BLOCK = 256
    LINK_BUCKETS = 1024           # power of two
    LINK_SPARES_MAX = 8192        # idle backend sockets that a worker keeps, if max_sessions allows as many
    LINK_BATCH_MIN = 16           # the fewest datagrams that a receive on a link has room for: more room costs nothing
    LINK_PAUSE_MS = 4             # a duplicate of an answer comes within this time
    LINK_REST_MS = 5000           # no answer is expected after so long without traffic
    LINK_KEEP_MS = 10000          # an idle backend socket is closed after this
    LINK_LATE_MAX = 1024          # late answers that are discarded at once; a socket with more is closed
    REFUSED_MS = 1000             # after a refusal a backend gets no new session for so long, while others do
    REFUSED_SLOTS = 256           # power of two
    POST_CONTROL_BYTES = 128      # control messages sent with a datagram
    CHUNK_CLASSES = 3
    TIER_CURSORS = 8              # further tiers share the last one
    SNI_MAX_BYTES = 255
    PROXY_HEADER_MAX_BYTES = 4096     # either version, all TLVs included; l4lb accepts as much as nginx
    NO_INDEX = 0xFFFFFFFF

# The order is that of l4lb.model.states.CloseReason; tests/unit/native/test_fastpath.py holds them together.
cdef enum close_reason_t:
    CLOSE_NORMAL = 0
    CLOSE_CLIENT_ABORT
    CLOSE_BACKEND_ABORT
    CLOSE_CONNECT_FAILED
    CLOSE_CONNECT_TIMEOUT
    CLOSE_IDLE_TIMEOUT
    CLOSE_HALF_CLOSE_TIMEOUT
    CLOSE_MAX_DURATION
    CLOSE_NO_BACKEND
    CLOSE_QUEUE_FULL
    CLOSE_QUEUE_TIMEOUT
    CLOSE_DENIED
    CLOSE_RATE_LIMITED
    CLOSE_PROXY_HEADER_ERROR
    CLOSE_BACKEND_DOWN
    CLOSE_ADMIN
    CLOSE_DRAIN
    CLOSE_SHUTDOWN
    CLOSE_RESOURCE_LIMIT
    CLOSE_INTERNAL_ERROR
    CLOSE_REASON_COUNT

# Why a datagram is not passed on. The order is that of l4lb.model.states.DropReason; tests/unit/native/test_fastpath.py
# holds them together.
cdef enum drop_reason_t:
    DROP_TOO_LARGE = 0            # it was truncated on receipt, or leaves no room for the PROXY header
    DROP_NO_BACKEND
    DROP_RATE_LIMITED             # session_rate
    DROP_MAX_SESSIONS             # ... and this worker has no idle session to end for it
    DROP_RESOURCES                # out of file descriptors or memory
    DROP_DRAINING                 # from a new client, while the listener serves only the clients that it has
    DROP_BANDWIDTH
    DROP_NOT_SENT                 # the kernel did not take it on its way to a backend
    DROP_ANSWER_NOT_SENT          # ... or to a client
    DROP_LATE                     # an answer after the last one that udp_responses allows
    DROP_PROXY_HEADER
    DROP_DENIED                   # by address: allow, deny, bans
    DROP_UNROUTED                 # a part of a QUIC ClientHello, whose rest did not come
    DROP_KERNEL                   # a socket's queue was full
    DROP_REASON_COUNT

# Why a connect failed. The order is that of l4lb.model.states.ConnectFailure; tests/unit/native/test_fastpath.py holds
# them together.
cdef enum connect_failure_t:
    FAILURE_REFUSED = 0
    FAILURE_TIMEOUT
    FAILURE_UNREACHABLE
    FAILURE_RESET
    FAILURE_RESOURCES             # this host was short of something (verdicts.pxd): the backend did not fail
    FAILURE_OTHER
    FAILURE_COUNT

# What this host was short of for an attempt. The order is that of l4lb.model.states.Shortage, which begins at 1.
cdef enum shortage_t:
    SHORTAGE_NONE = 0
    SHORTAGE_PORTS
    SHORTAGE_ADDRESS              # the source address is not of this host
    SHORTAGE_FILES
    SHORTAGE_MEMORY
    SHORTAGE_DENIED               # a firewall, a prohibit route, permissions of a socket's file
    SHORTAGE_FAMILY               # no IPv6 here
    SHORTAGE_COUNT

# What the network reports about datagrams to a backend, see udp/paths.pxd. The order is that of
# l4lb.model.states.PathError; tests/unit/native/test_fastpath.py holds them together.
cdef enum path_error_t:
    PATH_REFUSED = 0
    PATH_HOST_UNREACHABLE
    PATH_NET_UNREACHABLE
    PATH_PROHIBITED
    PATH_TOO_LARGE
    PATH_PROTOCOL
    PATH_ERROR_COUNT

# A session's life. tcp/opening.pxd makes the transitions out of READING and ASKING, tcp/ending.pxd those out of
# RESETTING and CLOSING, tcp/transitions.pxd all others:
#
#          +--its first bytes count--> READING
#          |                             | they are here
#   FREE --+--accept--> (hook?) <--------+
#                       |    +--its listener has one--> ASKING
#                       |                                | it has answered, or is late
#                      (choice) <------------------------+
#                       | ^  +--all at max_sessions--> QUEUED
#                       | |                              | a place is free
#                     CONNECTING <-----------------------+
#                       | | ^ next attempt
#                       | | +--> (itself), or with retry_pause, when no other backend is left to try,
#                       | +----> PAUSING --the pause is over--> (choice)
#                       | +--TLS is to be agreed on first--> NEGOTIATING --the backend agrees--> RELAYING
#                       |                                      +--it does not--> (choice)
#                       +--connected--> RELAYING --both FINs forwarded--> FREE
#                                        +--one side reset--> RESETTING --its last bytes were taken--> FREE
#                                        +--one FIN forwarded, half_close = false--> CLOSING --it was taken--> FREE
#   any --no backend, limit, timeout, shutdown, before RELAYING a client that is gone--> FREE
#
# A UDP session is a FLOW from its first datagram to its end (udp/events.pxd). ARRIVING is no session yet: its sockets
# are here, and another process has it (tcp/precopy.pxd). worker/states.pxd says what happens to a
# session in each state. The order is that of l4lb.model.states.SessionState.
cdef enum session_state_t:
    SESSION_FREE = 0
    SESSION_READING
    SESSION_ASKING
    SESSION_QUEUED
    SESSION_CONNECTING
    SESSION_NEGOTIATING
    SESSION_PAUSING
    SESSION_RELAYING
    SESSION_RESETTING
    SESSION_CLOSING
    SESSION_FLOW
    SESSION_ARRIVING
    SESSION_STATE_COUNT

# What came of asking a listener's hook about a session, and what an answer says. The order is that of
# l4lb.model.hooks.HookResult; tests/unit/native/test_fastpath.py holds them together.
cdef enum hook_result_t:
    HOOK_ACCEPTED = 0
    HOOK_REJECTED
    HOOK_POOL
    HOOK_BACKEND
    HOOK_LATE                     # no answer before the deadline. From here on: what the listener's on_error says holds
    HOOK_FAILED                   # it raised, or answered what cannot be carried out
    HOOK_FULL                     # too many were asked already
    HOOK_RESULT_COUNT

cdef enum:
    HOOK_REJECTS = 0x80000000     # of listener_live_t.hook: on_error is "reject"
    HOOK_DEADLINE_MASK = 0x7FFFFFFF

cdef enum side_t:
    SIDE_CLIENT = 0
    SIDE_BACKEND = 1

# One direction of a session, from the socket it reads (source) to the one it writes (sink).
cdef enum:
    HALF_READABLE = 1             # the source may have bytes: no EAGAIN or short read since its last edge
    HALF_WRITABLE = 2             # the sink took everything since its last edge
    HALF_SOURCE_FIN = 4           # EPOLLRDHUP was seen: without READ_ON, a short read is the last one
    HALF_READ_ON = 8              # copy until a read finds nothing: an urgent mark stops reads, or a reset follows
    HALF_EOF = 16                 # all that the source will ever give has been read
    HALF_FIN_SENT = 32            # ... and forwarded, with the FIN after it
    HALF_BULK = 64                # reads through a pipe
    HALF_DEAD = 128               # the sink is reset: nothing more is read for it

cdef enum:
    SESSION_CLIENT_WANTS_OUT = 1  # the client is watched for EPOLLOUT too
    SESSION_CLIENT_RESET = 2      # this side's socket reported a reset
    SESSION_BACKEND_RESET = 4
    SESSION_READY = 8             # in the ready list
    SESSION_NODELAY_DONE = 16     # the backend's TCP_NODELAY is as it should be
    SESSION_ACK_HELD = 32         # the handshake's last ACK waits for the client's first bytes
    SESSION_SPOKEN = 64           # one side has sent something
    SESSION_CLIENT_WATCHED = 128  # the client is in epoll
    SESSION_THROTTLED = 256       # a half waits for its bandwidth
    SESSION_SPLICED = 512         # some of its bytes went through a pipe
    SESSION_ANSWERED = 2048       # the backend has sent something
    SESSION_MEASURED = 1024       # its pool needs to know how long connect and answer take
    SESSION_HEADER_HELD = 4096    # our PROXY header waits for the client's first bytes, to be sent with them
    SESSION_HEADER_SENT = 8192    # ... or some of it was sent, before any of the client's bytes
    SESSION_ENDING = 32768        # one side has ended, and the timer is armed for it
    SESSION_URGENT_INLINE = 16384  # the backend's socket leaves urgent bytes in the stream

cdef enum table_kind_t:
    TABLE_MAGLEV = 0
    TABLE_RING
    TABLE_RENDEZVOUS

cdef enum splice_mode_t:
    SPLICE_AUTO = 0
    SPLICE_ALWAYS
    SPLICE_OFF

cdef enum selection_t:
    SELECT_CURSOR = 0
    SELECT_HASH
    SELECT_LEAST_SESSIONS
    SELECT_TWO_CHOICES
    SELECT_FIRST
    SELECT_PEAK_EWMA

# What a session is hashed by, for SELECT_HASH and SELECT_TWO_CHOICES. l4lb.routing.hashing computes the same.
cdef enum hash_key_t:
    HASH_KEY_SOURCE_IP = 0
    HASH_KEY_SOURCE_IP_PORT
    HASH_KEY_DESTINATION
    HASH_KEY_SESSION              # source, destination and protocol
    HASH_KEY_RANDOM               # drawn anew for each session
    HASH_KEY_QUIC_CID             # UDP only: the connection id in a first packet, see balancing/quic.pxd

# The result of parsing. From PROXY_BAD_SIGNATURE on it is a refusal, and each reason has a counter.
# l4lb.proxy_protocol.Reason names them in this order; tests/unit/test_proxy_protocol.py holds them together.
cdef enum proxy_result_t:
    PROXY_COMPLETE = 0
    PROXY_NEED_MORE               # valid so far, but not complete
    PROXY_BAD_SIGNATURE           # not the beginning of a header of an accepted version
    PROXY_BAD_PROTOCOL            # v1: none of TCP4, TCP6, UNKNOWN
    PROXY_BAD_ADDRESS             # v1
    PROXY_BAD_PORT                # v1
    PROXY_BAD_LINE_END            # v1: a CR or LF that is not part of the CRLF at the end
    PROXY_LINE_TOO_LONG           # v1: no CRLF in the first 107 bytes
    PROXY_BAD_VERSION             # v2 from here on
    PROXY_BAD_COMMAND
    PROXY_BAD_FAMILY
    PROXY_BAD_TRANSPORT
    PROXY_TOO_LARGE               # more than PROXY_HEADER_MAX_BYTES
    PROXY_TOO_SHORT               # the length has no room for the family's addresses
    PROXY_TLV_OVERRUN             # a TLV, or one within the SSL TLV, does not end where what encloses it does
    PROXY_BAD_TLV                 # a length that its type cannot have, or a second CRC32C
    PROXY_CRC_MISMATCH
    PROXY_TRUNCATED               # the stream or datagram ended within the header
    PROXY_RESULT_COUNT

# Why a client's header was refused, as listeners count it: the refusals from PROXY_BAD_SIGNATURE on, in their order,
# then these. l4lb.model.stats.PROXY_REFUSALS names them all; tests/unit/native/test_snapshots.py holds them together.
cdef enum proxy_refusal_t:
    PROXY_REFUSED_UNTRUSTED = PROXY_RESULT_COUNT - PROXY_BAD_SIGNATURE
    PROXY_REFUSED_TIMEOUT
    PROXY_REFUSAL_COUNT

# What a pool's PROXY headers carry besides the endpoints.
cdef enum proxy_send_tlv_t:
    PROXY_SEND_CRC32C = 1
    PROXY_SEND_UNIQUE_ID = 2
    PROXY_SEND_AUTHORITY = 4      # from here on: taken from the client's TLS, or from the header that came with it
    PROXY_SEND_ALPN = 8
    PROXY_SEND_RECEIVED = 16      # all TLVs of the header that came with the client

cdef enum:
    HISTOGRAM_BUCKETS = 28        # bucket i counts what took less than 64 us * 2**i; the last one all the rest
    TIME_BUCKETS = 24             # of a backend: bucket i counts what took less than 2**(i - 12) s; the last the rest

cdef enum:
    TIMER_LEVELS = 4
    TIMER_SLOTS = 64
    TIMER_TICK_MS = 8
    TIMER_IDLE = 0xFFFF
