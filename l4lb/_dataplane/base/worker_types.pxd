# Worker types: what one worker owns, what workers and control pass to each other, and what all workers share. No
# functions.
#
# Who may write what: a worker's fields are its own thread's, except those marked "control"; those marked "shared" are
# atomics that any worker changes.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from l4lb._dataplane.base.enums cimport (
    CACHE_LINE_BYTES, NOTICE_SLOTS, SESSION_STATE_COUNT, SHORTAGE_COUNT, SNI_MAX_BYTES, close_reason_t, side_t,
)
from l4lb._dataplane.base.linux cimport epoll_event, sockaddr_storage
from l4lb._dataplane.base.migration_types cimport arrivals_t, exports_t, imported_sessions_t
from l4lb._dataplane.base.parts cimport chunks_t, pipes_t, session_list_t, timers_t
from l4lb._dataplane.base.source_types cimport sources_t
from l4lb._dataplane.base.types cimport (
    backend_live_t, held_t, histogram_t, listener_live_t, listener_t, pool_live_t, session_t, snapshot_t,
    source_address_t, terms_t,
)
from l4lb._dataplane.base.udp_types cimport exported_flow_t, udp_t

cdef struct worker_t

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
    uint64_t transferred
    uint64_t records_dropped
    uint64_t late_answers         # datagrams for UDP sessions that had ended
    uint64_t shortages[SHORTAGE_COUNT]         # by shortage_t
    histogram_t connect_time
    histogram_t hook_time         # until a hook has answered

cdef struct accepting_t:          # one listening socket of this worker
    int fd
    uint16_t port
    bint paused
    bint shared
    bint first
    bint datagrams
    bint wide
    bint watched                  # in epoll: see resources/poller.pxd:listeners_update
    source_address_t local
    uint32_t batch                # how many accepts the next event is likely to yield
    listener_t *listener          # in the worker's current snapshot

cdef struct accepted_client_t:    # a client that was accepted, until it has a session
    int fd
    uint16_t local_port
    listener_live_t *listener
    pool_live_t *pool
    terms_t terms
    source_address_t local        # where it connected to; length 0: ask getsockname(2)
    uint32_t proxy_timeout_ms
    uint8_t proxy_mode            # the listener's: proxy_mode_t
    bint routed                   # the listener has routes
    held_t held
    sockaddr_storage address

cdef struct imported_flow_t:      # a session from another process, see udp/migration.pxd
    exported_flow_t exported
    accepted_client_t client
    backend_live_t *backend
    bint measured                 # see SESSION_MEASURED

cdef struct import_batch_t:       # control makes it, the worker frees it
    uint32_t count
    imported_flow_t *entries

cdef struct inbox_t:              # from one worker to another: one writes `written`, the other `read`
    uint64_t written
    uint64_t read
    accepted_client_t *clients    # INBOX_SIZE of them

cdef struct record_t:             # an ended session, for access log and hooks
    uint64_t started_ns
    uint64_t connect_ns           # of the attempt that succeeded; 0: none did
    uint64_t duration_ns
    uint64_t bytes_up
    uint64_t bytes_down
    uint64_t session_id
    uint32_t listener_id
    uint32_t pool_slot
    uint32_t backend_id           # the last one that was tried; 0: none
    source_address_t source
    source_address_t local        # where the client connected to
    uint16_t attempts
    uint8_t close_reason
    uint8_t spliced
    uint8_t tagged                # control has tags of it
    uint8_t sni_length
    uint8_t sni[SNI_MAX_BYTES]    # what the client's TLS asked for, if it was read

cdef struct records_t:            # ring: its worker writes, control reads. Full: dropped and counted
    uint64_t written
    uint64_t read
    record_t *slots               # RECORD_SLOTS of them, once records were wanted
    uint32_t wanted               # control

cdef struct ask_t:                # a session about which control is to ask its listener's hook
    uint64_t session_id
    uint32_t index
    uint32_t generation
    uint32_t listener_id
    uint32_t pool_slot            # where it goes unless the hook sends it elsewhere
    source_address_t source
    source_address_t local        # where the client connected to
    uint8_t sni_length
    uint8_t sni[SNI_MAX_BYTES]

cdef struct asks_t:               # ring: its worker writes, control reads. Full: on_error holds at once
    uint64_t written
    uint64_t read
    ask_t *slots                  # ASK_SLOTS of them, once a listener had a hook

cdef struct answer_t:
    uint64_t session_id
    uint32_t index
    uint32_t generation
    uint32_t target               # HOOK_POOL: a pool's slot; HOOK_BACKEND: a backend's id
    uint8_t result                # hook_result_t
    uint8_t tagged                # control has tags for the session

cdef struct answers_t:            # ring: control writes, its worker reads. Full: the session waits for its deadline
    uint64_t written
    uint64_t read
    uint64_t dropped              # the worker's: their sessions had gone on, or were gone
    answer_t *slots               # ANSWER_SLOTS of them

cdef struct notices_t:            # ring of backends that fail: its worker writes, control reads
    uint64_t written
    uint64_t read
    uint32_t backend_ids[NOTICE_SLOTS]

cdef struct filter_t:             # which sessions a sweep selects; every condition that is set must hold
    uint64_t session_id           # 0: any; see session/records.pxd:session_id_next
    uint32_t listener_id          # 0: any
    uint32_t pool_slot            # NO_INDEX: any
    uint32_t backend_count        # 0: any
    uint32_t *backend_ids
    uint8_t source[16]            # the first source_bits of the client's address, in network order
    uint8_t source_length         # 4, 16, or 0: any client
    uint8_t source_bits
    uint16_t source_port          # in network order; 0: any
    uint32_t source_scope         # the interface of a link-local one; 0: any
    uint8_t tagged                # 1: only those with tags

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
    source_address_t local        # where the client connected to
    uint8_t state
    uint8_t tagged                # control has tags of it

cdef struct sweep_part_t:         # what one worker found; its own until `done`
    uint64_t matched
    uint32_t found_count
    found_t *found                # room for `limit` of them; allocated by control
    uint32_t done                 # published by the worker, which touches nothing of the sweep from then on

cdef struct sweep_t:              # a pass over all sessions, see passes/sweep.pxd. Control's; only its parts change
    filter_t wanted
    uint32_t limit                # how many sessions each worker lists at most
    bint ends                     # the selected sessions are ended, for `reason`
    uint8_t reason
    sweep_part_t *parts           # by worker

cdef struct sweeping_t:           # a worker's progress in a sweep
    uint64_t version
    sweep_t *sweep                # NULL: no pass is under way
    uint32_t at                   # the next session to look at
    uint32_t end

cdef struct eviction_t:           # a worker's progress in an eviction
    uint64_t version              # what the pass is for
    uint64_t done                 # the last pass that is over
    uint32_t at                   # the next session to look at
    bint running

ctypedef void (*session_edge_f)(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil
ctypedef void (*session_step_f)(worker_t *w, session_t *s) noexcept nogil
ctypedef void (*session_cleanup_f)(worker_t *w, session_t *s, close_reason_t reason) noexcept nogil

cdef struct state_t:              # what happens to a session in one of its states, see worker/states.pxd
    session_edge_f edge           # epoll reports one of its sockets
    session_step_f timeout        # its timer fires
    session_step_f turn           # its turn in the ready list has come
    session_cleanup_f cleanup     # it ends: free what belongs to this state alone

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
    uint32_t handled_ms           # all that had come by then is handled, see worker/loop.pxd:worker_handled
    bint backlogged               # the last epoll_wait may not have returned all events
    uint64_t random               # state of hashing.pxd:random_next
    uint64_t busy_poll_ns
    session_list_t ready          # sessions that used up their turn, see resources/ready.pxd
    uint32_t ready_count
    uint32_t paused_until_ms
    bint accept_paused
    bint listening_short          # some listening socket is not served; try again at:
    uint32_t retry_at_ms
    bint resources_short          # no socket for a backend could be made: accept no more for a while
    accepting_t *accepting
    uint32_t accepting_count
    uint32_t accepting_capacity
    int64_t assigned              # shared; its sessions, and the clients in its inboxes
    uint64_t flow_count           # the UDP sessions among them; other workers read it
    uint64_t wake_mask            # workers that were sent clients in this turn, by index
    bint queue_poked              # there may be a place for a session in a queue of this worker
    uint8_t *scratch
    inbox_t *inboxes              # by sending worker
    records_t records
    uint64_t ids                  # that it has given to sessions and refused clients
    notices_t notices
    asks_t asks
    answers_t answers
    eviction_t eviction
    sweeping_t sweeping
    state_t states[SESSION_STATE_COUNT]
    sessions_t sessions
    timers_t timers
    pipes_t pipes
    chunks_t chunks
    udp_t *udp                    # NULL until it serves a UDP listener
    bint udp_held                 # it reads no UDP listening socket
    uint64_t exported_version     # published: the export that `exported` belongs to; control then takes it
    exported_flow_t *exported
    uint32_t exported_count
    import_batch_t *importing     # control publishes it, the worker takes it
    bint tcp_held                 # it accepts no TCP clients
    uint64_t held_version         # published: the request to hold them, or not to, that it goes by
    uint64_t frozen_version       # published: the freeze that `exports` belongs to
    uint64_t settled_version      # published: this freeze is over here too
    exports_t exports             # control reads it until it has settled the freeze
    imported_sessions_t *imports  # control publishes it, the worker takes it
    uint64_t imported_ns          # published: when it had taken the last ones
    uint64_t precopy_version      # of its pass
    uint64_t precopied_version    # published: the last pass that is over
    bint precopying
    uint32_t precopy_at           # the next session to look at
    arrivals_t *arriving          # control publishes it, the worker takes it
    uint64_t arrived_version      # published
    worker_counters_t counters
    epoll_event *events

cdef struct plane_t:
    uint64_t instance             # random: distinguishes this process from others in unique ids
    uint64_t epoch                # how many processes took over from each other before this one; 16 bits
    void *snapshot                # snapshot_t *, published by control
    int notice_fd                 # eventfd: workers write, control reads
    int hook_fd                   # eventfd of the reader of asks, see session/asking.pxd; set before there are hooks
    int records_fd                # eventfd of the reader of records, see session/records.pxd; set before any are wanted
    uint64_t evict_version        # control
    uint64_t sweep_version        # control
    sweep_t *sweep                # of that version; read by workers that have just seen it
    uint64_t export_version       # control: UDP sessions are to be exported, see udp/migration.pxd
    uint32_t udp_held             # control: UDP listening sockets are not read
    uint32_t tcp_held             # control: no TCP clients are accepted
    uint64_t held_version         # control: of that request
    uint64_t precopy_version      # control: sockets of TCP sessions are to go ahead, see tcp/precopy.pxd
    int precopy_fd                # control, before that: where to
    uint64_t arrived_version      # control: what is still ARRIVING does not come
    uint32_t arrivals_reset       # control, before that: the other process is gone
    uint64_t freeze_version       # control: TCP sessions are to be exported, see tcp/exporting.pxd
    uint64_t settled_version      # control: this freeze is over
    uint32_t settled_as           # control, before that: a settled_t
    bint balance_workers          # new clients go to the least loaded worker
    int64_t max_sessions          # control, at any time; 0: none
    uint8_t apart[CACHE_LINE_BYTES]  # what is above is read at every event, what comes is written with every session
    int64_t sessions_active       # shared
    int64_t sessions_of[2]        # shared; of TCP, of UDP, see admission/admission.pxd
    uint8_t apart_too[CACHE_LINE_BYTES]
    sources_t sources
    worker_counters_t before      # control: what the workers of the process before this one had counted
    uint32_t worker_count
    worker_t **workers
