# Types: every struct of the data plane, in one place, but those of the PROXY protocol (proxy_types.pxd) and of UDP
# (udp_types.pxd). No functions.
#
# Who may write what:
#   *_live_t    outlive snapshots. Shared counts are atomics that any worker changes; per-worker counters are written by
#               their worker alone and read by the control plane.
#   *_t of a snapshot (backend_t, pool_t, listener_t, snapshot_t) are immutable once published.
#   worker_t and all it owns (sessions, timers, pipes, chunks): its own thread, except the fields marked "control".

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from l4lb._dataplane.enums cimport SESSION_STATE_COUNT, close_reason_t, hash_key_t, selection_t, side_t
from l4lb._dataplane.linux cimport epoll_event, sockaddr_storage, socklen_t
from l4lb._dataplane.parts cimport (
    chunk_t, chunks_t, pipe_t, pipes_t, proxy_accept_t, proxy_send_t, timer_t, timers_t, tried_t,
)
from l4lb._dataplane.udp_types cimport flow_list_t, flow_t, moved_t, quic_ids_t, udp_t

cdef struct session_t
cdef struct worker_t

cdef struct half_t:
    uint64_t bytes                # handed to the sink's kernel
    int64_t taken                 # ... less what was unsent at the last look, see progress.pxd
    uint64_t paid_until_ns        # token bucket of this session and direction, see limits.pxd
    chunk_t *chunk
    pipe_t *pipe
    uint32_t overhead_bytes       # of our PROXY header, still to be sent: they are in front of the chunk's bytes
    uint8_t flags
    uint8_t full_reads

cdef struct source_address_t:     # the client, in network order; v4-mapped addresses are kept as v4
    uint8_t bytes[16]
    uint32_t scope_id             # of a link-local one: the interface that it means something on; else 0
    uint16_t port
    uint8_t length                # 4, 16, or 0 for a unix client

cdef struct preface_t:            # what is known before a session connects; only a session that needs it has one
    source_address_t destination  # where the client came to, by its PROXY header or else here; length 0: not known
    uint16_t received_length      # TLVs of its header, the first of the bytes behind this struct
    uint8_t authority_length      # of its ClientHello, the next
    uint8_t alpn_length           # ... the last

cdef struct session_t:
    uint32_t generation           # changes when the slot is freed: a stale epoll tag does not match
    uint32_t index
    int client_fd
    int backend_fd
    half_t up
    half_t down
    timer_t timer
    uint32_t next_ready
    uint32_t previous_ready
    uint32_t next_free
    uint32_t idle_ms
    uint32_t half_close_ms
    uint32_t active_ms            # worker clock of the last progress, see progress.pxd, or state change
    uint32_t state_deadline_ms    # of a state before RELAYING
    uint32_t expires_ms           # max_session_duration, 0: none
    uint64_t started_ns
    uint64_t attempt_started_ns
    uint64_t connected_ns
    uint64_t asked_ns             # of a MEASURED session: when its first bytes went up; 0: not yet
    uint64_t hash
    listener_live_t *listener
    pool_live_t *pool
    backend_live_t *backend
    tried_t *tried
    flow_t *flow                  # of a UDP session; NULL for TCP
    preface_t *preface
    source_address_t source       # of the client, by its PROXY header if it sent one
    uint16_t attempts
    uint16_t flags
    uint16_t local_port           # where the client came in, in network order
    uint8_t state
    uint8_t splice
    uint8_t close_reason          # of a RESETTING or CLOSING session that is ended
    uint8_t half_close            # 0: the first FIN ends both sides
    uint8_t unix_sides            # bits by side_t, see `session_reads_short`
    uint8_t awaited               # of a READING one: what has to come first, see preface.pxd

# ---- what outlives snapshots ----

cdef struct backend_counters_t:
    uint64_t sessions_total
    uint64_t bytes_up
    uint64_t bytes_down
    uint64_t connect_failures[6]  # by connect_failure_t
    uint64_t source_misfits       # attempts from a client's address that is of another family
    uint64_t early_resets         # sessions that it reset before its first byte
    uint64_t datagrams_up
    uint64_t datagrams_down
    uint64_t path_errors[6]       # by path_error_t

cdef struct backend_live_t:
    int64_t sessions_active       # shared: reserved before the connect
    int64_t connect_latency       # shared, see ewma.pxd; of pools that measure
    int64_t answer_latency        # ... from the client's first bytes to the backend's
    int64_t failures              # shared; in a row: connects, and resets before the first byte
    uint64_t evict_version        # control: its sessions end in the pass of that version, see evict.pxd
    uint32_t evict_reason         # control
    uint32_t id                   # unique within the data plane
    backend_counters_t **counters  # by worker, each in cache lines of its own

cdef struct queue_t:              # sessions of one worker that wait for a place in one pool, oldest first
    uint32_t head                 # linked through next_ready and previous_ready: a queued session is in no ready list
    uint32_t tail

cdef struct pool_live_t:
    int64_t cursors[8]            # shared; by tier, see lookup.pxd:tier_cursor
    int64_t sessions_active       # shared; from accept to end, with or without a backend
    int64_t waiting               # shared; queued on all workers together
    queue_t *queues               # by worker, each touched by its worker alone
    uint32_t slot                 # its place in every snapshot's pools_by_slot
    quic_ids_t quic_ids           # with hash_key quic_cid; kept from then on

cdef struct histogram_t:
    uint64_t buckets[28]
    uint64_t sum_us

cdef struct listener_counters_t:
    uint64_t sessions_total
    uint64_t closed[20]           # by close_reason_t
    uint64_t dropped[12]          # datagrams, by drop_reason_t
    histogram_t session_time
    uint64_t proxy_refused[18]    # headers by reason, see proxy_types.pxd:proxy_refusal_t
    uint64_t client_first         # 0 to 3: do clients here speak first? Two-bit prediction; of use to its worker alone

cdef struct limits_t:             # of one listener, for all workers. Control writes the rates, also while sessions run
    uint64_t bandwidth[2]         # bytes a second for each session, by direction (up, down); 0: no limit
    uint64_t total_bandwidth[2]   # ... for all sessions together
    uint64_t session_rate         # new sessions a second
    uint64_t session_burst_ns     # how far ahead of the rate new sessions may get
    int64_t total_paid_until_ns[2]  # shared token buckets
    int64_t sessions_paid_until_ns

cdef struct backend_options_t:    # of every backend socket; the client's inherit them. Immutable once published
    bint keepalive
    int keepalive_idle_s
    int keepalive_interval_s
    int keepalive_count
    int user_timeout_ms           # 0: the kernel's own

cdef struct listener_live_t:
    int64_t sessions_active       # shared
    uint32_t id                   # unique within the data plane
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
    bint resumes                  # usable or not: what it knows already may go on there, see pool_resume
    double weight                 # above 0 when it is usable
    int64_t max_sessions          # 0: none

cdef struct tier_t:               # backends of one priority, or of a part of it by zone
    uint32_t usable_count
    uint32_t *usable              # indices into the pool's backends
    uint32_t slot_count
    const uint32_t *slots         # indices into usable; belongs to the control side, which keeps it for the snapshot
    double usable_weight          # of all usable ones together
    int64_t *cursor               # shared; outlives the snapshot

cdef struct pool_t:
    pool_live_t *live
    selection_t selection
    uint32_t backend_count
    backend_t *backends
    tier_t first                  # of its own memory, since most pools have no other. Empty: no backend is usable
    uint32_t further_count
    tier_t *further               # asked in this order when those before can take no session; none is empty
    double bounded_load           # of SELECT_HASH; 0: off
    uint32_t connect_timeout_ms
    uint32_t connect_attempts
    uint32_t retry_pause_ms       # before an attempt when no other backend is left to try; 0: none
    uint32_t passive_failures     # so many in a row are told to control; 0: none are
    int64_t queue_size
    uint32_t queue_timeout_ms
    sockaddr_storage source       # bound before the connect, when source_length is not 0
    socklen_t source_length
    bint transparent              # the client's own address is, instead
    uint64_t hash_seed
    hash_key_t hash_key
    uint8_t hash_prefix_v4
    uint8_t hash_prefix_v6
    proxy_send_t send

cdef struct pick_t:               # one choice, see lookup.pxd:pool_pick
    pool_t *pool
    tried_t *tried                # may be NULL
    uint64_t hash                 # see lookup.pxd:client_hash
    uint32_t now_ms
    double bound                  # set by pool_pick, as is the tier
    tier_t *tier

cdef struct terms_t:              # what a new session takes along from its listener
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
    uint32_t requests             # of UDP: udp_requests, udp_responses; 0: no limit
    uint32_t responses
    bint one_way                  # of UDP: udp_responses is "none"
    bint trains                   # of UDP: many datagrams as one, see datagrams.pxd
    bint draining                 # of UDP: no new sessions
    proxy_accept_t accept

cdef struct listening_t:          # a socket that one worker accepts from; control opens and closes it
    int fd                        # open as long as a worker may read a snapshot that names it: no other has its number
    uint16_t port                 # in network order; 0 for unix
    bint shared                   # another worker has it too
    bint first                    # of those of its address
    bint datagrams                # it is of UDP
    bint wide                     # it is of IPv6
    source_address_t local        # its address; length 0: clients may come to several
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
    bint mixed                    # sockets of TCP and of UDP are among them

# ---- a worker ----

cdef struct sessions_t:
    session_t **blocks
    uint32_t block_count
    uint32_t block_capacity
    uint32_t free_head
    uint32_t active

cdef struct worker_counters_t:
    uint64_t busy_ns
    uint64_t turns
    uint64_t spliced_bytes
    uint64_t accept_pauses
    uint64_t handed_over
    uint64_t records_dropped
    uint64_t late_answers         # datagrams for UDP sessions that had ended
    uint64_t shortages[7]         # by shortage_t
    histogram_t connect_time

cdef struct accepting_t:          # one listening socket of this worker
    int fd
    uint16_t port
    bint paused
    bint shared
    bint first
    bint datagrams
    bint wide
    bint deaf                     # not in epoll although it should be: see `poller_watch_listener`
    source_address_t local
    uint32_t batch                # how many accepts the next event is likely to yield
    listener_t *listener          # in the worker's current snapshot

cdef struct arrival_t:            # a client that another worker accepted for this one
    int fd
    uint16_t local_port
    listener_live_t *listener
    pool_live_t *pool
    terms_t terms
    source_address_t local        # where it came to; length 0: getsockname(2) knows
    uint32_t proxy_timeout_ms
    uint8_t proxy_mode            # of the listener: proxy_mode_t
    bint placeless                # it has no place in the process yet, see room.pxd
    sockaddr_storage address

cdef struct arriving_t:           # a session from another process, see moving.pxd
    moved_t moved
    arrival_t arrival
    backend_live_t *backend
    bint measured                 # see SESSION_MEASURED

cdef struct arrivals_t:           # control makes it, the worker frees it
    uint32_t count
    arriving_t *entries

cdef struct inbox_t:              # from one worker to another: one writes `written`, the other `read`
    uint64_t written
    uint64_t read
    arrival_t *arrivals           # INBOX_SIZE of them

cdef struct record_t:             # an ended session, for access log and hooks
    uint64_t started_ns
    uint64_t connect_ns           # of the attempt that succeeded; 0: none did
    uint64_t duration_ns
    uint64_t bytes_up
    uint64_t bytes_down
    uint64_t session_id
    uint32_t listener_id
    uint32_t pool_slot
    uint32_t backend_id           # the last one that was tried; 0: none was
    source_address_t source
    source_address_t local        # where the client came in
    uint16_t attempts
    uint8_t close_reason
    uint8_t spliced
    uint8_t sni_length
    uint8_t sni[255]              # what the client's TLS asked for, if it was read

cdef struct records_t:            # ring: its worker writes, control reads. Full: dropped and counted
    uint64_t written
    uint64_t read
    record_t *slots               # RECORD_SLOTS of them, once somebody has wanted records
    uint32_t wanted               # control

cdef struct notices_t:            # ring of backends that fail: its worker writes, control reads
    uint64_t written
    uint64_t read
    uint32_t backend_ids[64]

cdef struct filter_t:             # which sessions a sweep takes; all that is given must hold
    uint64_t session_id           # 0: any; see records.pxd:session_id
    uint32_t listener_id          # 0: any
    uint32_t pool_slot            # NO_INDEX: any
    uint32_t backend_count        # 0: any
    uint32_t *backend_ids
    uint8_t source[16]            # the first source_bits of the client's address, in network order
    uint8_t source_length         # 4, 16, or 0: any client
    uint8_t source_bits
    uint16_t source_port          # in network order; 0: any
    uint32_t source_scope         # the interface of a link-local one; 0: any

cdef struct found_t:              # a session at one moment
    uint64_t session_id
    uint64_t started_ns
    uint64_t bytes_up
    uint64_t bytes_down
    uint32_t listener_id
    uint32_t pool_slot
    uint32_t backend_id           # 0: it has none
    uint32_t idle_ms
    source_address_t source
    source_address_t local        # where the client came in
    uint8_t state

cdef struct sweep_part_t:         # what one worker found; its own until `done`
    uint64_t matched
    uint32_t found_count
    found_t *found                # room for `limit` of them; allocated by control
    uint32_t done                 # published by the worker, which touches nothing of the sweep from then on

cdef struct sweep_t:              # one pass over all sessions, see sweep.pxd. Control's, immutable but for its parts
    filter_t wanted
    uint32_t limit                # so many are told of by each worker
    bint ends                     # those that are taken end, for `reason`
    uint8_t reason
    sweep_part_t *parts           # by worker

cdef struct sweeping_t:           # of its worker
    uint64_t version
    sweep_t *sweep                # NULL: no pass is under way
    uint32_t at                   # the next session to look at
    uint32_t end

cdef struct eviction_t:           # of its worker
    uint64_t version              # what the pass is for
    uint64_t done                 # passes that are over
    uint32_t at                   # the next session to look at
    bint running

ctypedef void (*session_edge_f)(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil
ctypedef void (*session_step_f)(worker_t *w, session_t *s) noexcept nogil
ctypedef void (*session_leave_f)(worker_t *w, session_t *s, close_reason_t reason) noexcept nogil

cdef struct state_t:              # what happens to a session in one of its states, see states.pxd
    session_edge_f edge           # epoll reports one of its sockets
    session_step_f timeout        # its timer fires
    session_step_f turn           # its turn in the ready list has come
    session_leave_f leave         # it ends: what is this state's alone is given back

cdef struct worker_t:
    uint32_t index
    int epoll_fd
    int event_fd                  # control writes, the worker reads
    uint32_t stopping             # control
    uint64_t seen_version         # published by the worker at each turn's start
    plane_t *plane
    snapshot_t *snapshot
    uint64_t now_ns
    uint32_t now_ms
    uint32_t poll_began_ms        # when the last epoll_wait was called
    uint32_t handled_ms           # what had come by then is handled, see worker.pxd:worker_handled
    bint backlogged               # the last epoll_wait may not have told all
    uint64_t random               # state of hashing.pxd:random_next
    uint64_t busy_poll_ns
    uint32_t ready_head
    uint32_t ready_tail
    uint32_t ready_count
    uint32_t paused_until_ms
    bint accept_paused
    bint deaf                     # it does not serve all that it should; tried again then
    uint32_t deaf_until_ms
    bint resources_short          # a backend's socket could not be had: accept no more for a while
    accepting_t *accepting
    uint32_t accepting_count
    uint32_t accepting_capacity
    int64_t assigned              # shared; sessions it has and clients that wait in its inboxes
    uint64_t flow_count           # of these, sessions of UDP; others read it
    uint64_t wake_mask            # workers that were handed something in this turn, by index
    bint queue_poked              # a place may be free for who waits in a queue of this worker
    uint8_t *scratch
    inbox_t *inboxes              # by sending worker
    records_t records
    uint32_t refused              # clients that it recorded without a session
    notices_t notices
    eviction_t eviction
    sweeping_t sweeping
    state_t states[SESSION_STATE_COUNT]
    sessions_t sessions
    timers_t timers
    pipes_t pipes
    chunks_t chunks
    udp_t *udp                    # NULL until it serves a UDP listener
    bint udp_held                 # it reads no listening socket of UDP
    uint64_t moved_version        # published: the move that `moved` is of, which control then takes
    moved_t *moved
    uint32_t moved_count
    arrivals_t *arriving          # control publishes it, the worker takes it
    worker_counters_t counters
    epoll_event *events

cdef struct plane_t:
    uint64_t instance             # drawn at random: tells this process from others in unique ids
    void *snapshot                # snapshot_t *, published by control
    int notice_fd                 # eventfd: workers write, control reads
    int records_fd                # eventfd of who reads records, see records.pxd; set before they are wanted
    uint64_t evict_version        # control
    uint64_t sweep_version        # control
    sweep_t *sweep                # of that version; read by workers that have just seen it
    uint64_t move_version         # control: sessions of UDP are to be let go of, see moving.pxd
    uint32_t udp_held             # control: listening sockets of UDP are not read
    bint balance_workers          # new clients go to the least loaded worker
    int64_t sessions_active       # shared
    int64_t sessions_of[2]        # shared; of TCP, of UDP, see places.pxd
    int64_t max_sessions          # control, at any time; 0: none
    uint32_t worker_count
    worker_t **workers
