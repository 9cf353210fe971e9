# Types: sessions, what outlives snapshots, and snapshots. Workers are in worker_types.pxd, UDP in
# udp_types.pxd, the PROXY protocol in proxy_protocol/types.pxd. No functions.
#
# Who may write what:
#   *_live_t    outlive snapshots. Shared counts are atomics that any worker changes; per-worker counters are written by
#               their worker alone and read by the control plane.
#   *_t of a snapshot (backend_t, pool_t, listener_t, snapshot_t) are immutable once published.
#   worker_t and all it owns (sessions, timers, pipes, chunks): its own thread, except the fields marked "control".

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from l4lb._dataplane.base.enums cimport (
    CLOSE_REASON_COUNT, DROP_REASON_COUNT, FAILURE_COUNT, HISTOGRAM_BUCKETS, HOOK_RESULT_COUNT, PATH_ERROR_COUNT,
    PROXY_REFUSAL_COUNT, TIER_CURSORS, TIME_BUCKETS, hash_key_t, selection_t,
)
from l4lb._dataplane.base.linux cimport sockaddr_storage, socklen_t
from l4lb._dataplane.base.parts cimport (
    access_t, chunk_t, pipe_t, proxy_accept_t, proxy_send_t, session_list_t, timer_t, tried_t,
)
from l4lb._dataplane.base.route_types cimport routes_t
from l4lb._dataplane.base.source_types cimport SOURCE_LIMIT_COUNT, source_limits_t, source_t
from l4lb._dataplane.base.udp_types cimport flow_list_t, flow_t, quic_ids_t

cdef struct half_t:
    uint64_t bytes                # handed to the sink's kernel
    int64_t taken                 # ... less what was unsent at the last check, see tcp/progress.pxd
    uint64_t paid_until_ns        # token bucket of this session and direction, see admission/limits.pxd
    chunk_t *chunk
    pipe_t *pipe
    uint32_t overhead_bytes       # bytes of our PROXY header still to be sent, at the start of the chunk
    uint8_t flags
    uint8_t full_reads

cdef struct source_address_t:     # the client, in network order; v4-mapped addresses are kept as v4
    uint8_t bytes[16]
    uint32_t scope_id             # of a link-local address: its interface; else 0
    uint16_t port
    uint8_t length                # 4, 16, or 0 for a unix client

cdef struct held_t:               # what a client, then its session, counts for: see admission/admission.pxd
    source_t *source              # NULL: none
    uint8_t places                # held_place_t

cdef struct preface_t:            # what is known before a session connects; only a session that needs it has one
    source_address_t destination  # where the client connected to, by its PROXY header or else here; length 0: not known
    uint16_t received_length      # TLVs of its header: the first bytes after this struct
    uint8_t authority_length      # the server name in its ClientHello: the next bytes
    uint8_t alpn_length           # ... and the protocol that it prefers: the last

cdef struct session_t:
    uint64_t id                   # see session/records.pxd:session_id_next; the same in every process that has it
    uint32_t generation           # changes when the slot is freed: a stale epoll tag does not match
    uint32_t index
    int client_fd
    int backend_fd
    half_t up
    half_t down
    timer_t timer
    uint32_t next_in_list         # in the ready list of its worker, or in a queue: never in both
    uint32_t previous_in_list
    uint32_t next_free
    uint32_t idle_ms
    uint32_t half_close_ms
    uint32_t active_ms            # worker clock of the last progress, see tcp/progress.pxd, or state change
    uint32_t state_deadline_ms    # for a state before RELAYING
    uint32_t expires_ms           # max_session_duration, 0: none
    uint64_t started_ns
    uint64_t attempt_started_ns   # ASKING: when its hook was asked
    uint64_t connected_ns
    uint64_t asked_ns             # in a MEASURED session: when its first bytes were sent up; 0: not yet
    uint64_t hash
    listener_live_t *listener
    pool_live_t *pool
    backend_live_t *backend
    tried_t *tried
    flow_t *flow                  # of a UDP session; NULL for TCP
    preface_t *preface
    source_address_t source       # the client, by its PROXY header if it sent one
    uint16_t attempts
    uint16_t flags
    uint16_t local_port           # that the client connected to, in network order
    uint8_t state
    uint8_t splice
    uint8_t close_reason          # for a RESETTING or CLOSING session
    uint8_t half_close            # 0: the first FIN ends both sides
    uint8_t unix_sides            # bits by side_t, see `session_reads_short`
    uint8_t shared                # its sockets are open in another process too, see tcp/precopy.pxd
    uint8_t awaited               # what must come before there is a backend, see tcp/preface.pxd
    uint8_t tagged                # its listener's hook gave it tags, which control keeps
    held_t held

# ---- what outlives snapshots ----

cdef struct backend_counters_t:
    uint64_t sessions_total
    uint64_t bytes_up
    uint64_t bytes_down
    uint64_t connect_failures[FAILURE_COUNT]  # by connect_failure_t
    uint64_t source_misfits       # attempts from a client's address of another family
    uint64_t early_resets         # sessions that it reset before its first byte
    uint64_t datagrams_up
    uint64_t datagrams_down
    uint64_t path_errors[PATH_ERROR_COUNT]  # by path_error_t

cdef struct times_t:
    uint64_t buckets[TIME_BUCKETS]
    uint64_t sum_us

cdef struct backend_times_t:      # what is measured, see session/latency.pxd
    times_t connect
    times_t first_byte
    times_t session

cdef struct backend_live_t:
    int64_t sessions_active       # shared: reserved before the connect
    int64_t connect_latency       # shared, see ewma.pxd; for pools that measure
    int64_t answer_latency        # ... from the client's first bytes to the backend's
    int64_t failures              # shared; failed connects, and resets before the first byte, in a row
    uint64_t evict_version        # control: its sessions end in the pass of that version, see passes/evict.pxd
    uint32_t evict_reason         # control
    uint32_t id                   # unique within the data plane
    backend_counters_t **counters  # by worker, each in cache lines of its own
    backend_times_t **times       # likewise

cdef struct pool_live_t:
    int64_t cursors[TIER_CURSORS]  # shared; by tier, see balancing/pick.pxd:tier_cursor
    int64_t sessions_active       # shared; from when its pool is known to its end, with or without a backend
    int64_t waiting               # shared; queued on all workers together
    session_list_t *queues        # by worker, each its own; sessions that wait for a place, oldest first
    uint32_t slot                 # its place in every snapshot's pools_by_slot
    quic_ids_t quic_ids           # with hash_key quic_cid; kept from then on

cdef struct histogram_t:
    uint64_t buckets[HISTOGRAM_BUCKETS]
    uint64_t sum_us

cdef struct listener_counters_t:
    uint64_t sessions_total
    uint64_t closed[CLOSE_REASON_COUNT]  # by close_reason_t
    uint64_t dropped[DROP_REASON_COUNT]  # datagrams, by drop_reason_t
    histogram_t session_time
    uint64_t proxy_refused[PROXY_REFUSAL_COUNT]  # headers, by proxy_refusal_t
    uint64_t source_limited[SOURCE_LIMIT_COUNT]  # by source_limit_t: how often, in a dry run too
    uint64_t hooked[HOOK_RESULT_COUNT]  # sessions that its hook was to be asked about, by hook_result_t
    uint64_t client_first         # 0 to 3: do clients here speak first? Two-bit prediction; of use to its worker alone

cdef struct limits_t:             # of one listener, for all workers. Control writes the rates, also while sessions run
    uint64_t bandwidth[2]         # bytes per second for each session, by direction (up, down); 0: no limit
    uint64_t total_bandwidth[2]   # ... for all sessions together
    uint64_t session_rate         # new sessions per second
    uint64_t session_burst_ns     # how far ahead of the rate new sessions may get
    int64_t total_paid_until_ns[2]  # shared token buckets
    int64_t sessions_paid_until_ns
    source_limits_t source

cdef struct backend_options_t:    # of every backend socket; clients' sockets inherit them. Immutable once published
    bint keepalive
    int keepalive_idle_s
    int keepalive_interval_s
    int keepalive_count
    int user_timeout_ms           # 0: the kernel's own

cdef struct listener_live_t:
    int64_t sessions_active       # shared
    uint32_t id                   # unique within the data plane
    uint32_t hook                 # control: how long its hook has to answer, in ms, and HOOK_REJECTS; 0: it has none
    listener_counters_t **counters
    flow_list_t *flows            # by worker, each touched by its worker alone
    limits_t limits
    backend_options_t *options    # control publishes one after the other; all stay as long as the listener

# ---- a snapshot ----

cdef struct backend_t:
    backend_live_t *live
    sockaddr_storage address
    socklen_t address_length
    bint same_port                # port 0: connect to the port that the client came in on
    bint resumes                  # usable or not, a client that it knows already may go on there, see pool_resume
    double weight                 # above 0 when it is usable
    int64_t max_sessions          # 0: none

cdef struct tier_t:               # backends of one priority, or of a part of it by zone
    uint32_t usable_count
    uint32_t *usable              # indices into the pool's backends
    uint32_t slot_count
    const uint32_t *slots         # indices into usable; belongs to the control side, which keeps it for the snapshot
    double usable_weight          # of all usable backends together
    int64_t *cursor               # shared; outlives the snapshot

cdef struct pool_t:
    pool_live_t *live
    selection_t selection
    uint32_t backend_count
    backend_t *backends
    tier_t first                  # in place, since most pools have no other. Empty: no backend is usable
    uint32_t further_count
    tier_t *further               # asked in this order when those before can take no session; none is empty
    double bounded_load           # for SELECT_HASH; 0: off
    uint32_t connect_timeout_ms
    uint32_t connect_attempts
    uint32_t retry_pause_ms       # before an attempt when no other backend is left to try; 0: none
    uint32_t passive_failures     # so many in a row are reported to control; 0: none
    int64_t queue_size
    uint32_t queue_timeout_ms
    sockaddr_storage source       # bound before the connect, when source_length is not 0
    socklen_t source_length
    bint transparent              # the client's own address is bound instead
    uint64_t hash_seed
    hash_key_t hash_key
    uint8_t hash_prefix_v4
    uint8_t hash_prefix_v6
    proxy_send_t send

cdef struct pick_t:               # one choice, see balancing/pick.pxd:pool_pick
    pool_t *pool
    tried_t *tried                # may be NULL
    uint64_t hash                 # see balancing/pick.pxd:client_hash
    uint32_t now_ms
    double bound                  # set by pool_pick, as is the tier
    tier_t *tier

cdef struct terms_t:              # what a new session takes from its listener
    uint32_t idle_ms
    uint32_t half_close_ms
    uint32_t duration_ms
    bint half_close
    bint nodelay
    bint deferred                 # accepted once its client has sent something: TCP_DEFER_ACCEPT
    uint8_t splice

cdef struct listener_t:
    listener_live_t *live
    pool_t *pool
    int64_t max_sessions          # 0: none of its own
    terms_t terms
    uint32_t requests             # UDP: udp_requests, udp_responses; 0: no limit
    uint32_t responses
    bint one_way                  # UDP: udp_responses is "none"
    bint trains                   # UDP: many datagrams as one, see udp/datagrams.pxd
    bint draining                 # UDP: no new sessions
    const routes_t *routes        # NULL: all clients go to the pool
    access_t access
    proxy_accept_t accept

cdef struct listening_t:          # a socket that one worker accepts from; control opens and closes it
    int fd                        # open while a worker may read a snapshot that names it: its number is not reused
    uint16_t port                 # in network order; 0 for unix
    bint shared                   # another worker has it too
    bint first                    # the first of the sockets with its address
    bint datagrams                # a UDP socket
    bint wide                     # an IPv6 socket
    source_address_t local        # its address; length 0: clients may connect to several
    listener_t *listener

cdef struct listening_list_t:
    uint32_t count
    listening_t *entries

cdef struct snapshot_t:
    uint64_t version
    uint32_t pool_slots
    pool_t **pools_by_slot        # NULL where a pool is gone
    uint32_t pool_count
    pool_t **pools                # shared by the snapshots in which a pool is the same
    uint32_t listener_count
    listener_t *listeners
    listening_list_t *listening   # by worker
    bint mixed                    # both TCP and UDP sockets are among them
    bint refuses                  # a listener refuses somebody by address
