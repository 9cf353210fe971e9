# Migration types: a TCP session on its way to another process. No functions.
#
# `exported_session_t` and `exported_half_t` are the message itself: whoever changes them, or what a field of them or an
# enum in them means, raises EXPORT_FORMAT, so that a process of another version leaves these sessions where they are.
# Clocks are the host's (CLOCK_MONOTONIC), so that times mean the same in both processes.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from l4lb._dataplane.base.types cimport backend_live_t, held_t, listener_live_t, pool_live_t, source_address_t

cdef enum:
    EXPORT_FORMAT = 3
    EXPORT_FDS_MAX = 6            # client, backend, two pipes

cdef enum exported_bits_t:
    EXPORTED_TIMED = 1            # its timer is armed
    EXPORTED_COUNTED = 2          # its source counts it
    EXPORTED_SHORT = 4            # tried_t.was_short
    EXPORTED_TRIED = 8            # it has a tried_t
    EXPORTED_PREFACE = 16
    EXPORTED_AHEAD = 32           # its sockets have gone ahead: see tcp/precopy.pxd

cdef enum settled_t:              # what becomes of sessions that stood still; as l4lb.model.forwarder.Fate
    SETTLED_STAY = 0
    SETTLED_MOVED = 1             # another process has them
    SETTLED_LOST = 2              # it had them, and is gone

cdef struct exported_half_t:
    uint64_t bytes
    int64_t taken
    uint64_t paid_until_ns
    uint32_t overhead_bytes
    uint32_t chunk_bytes          # pending; they follow the record
    uint32_t pipe_bytes           # ... in a pipe, whose descriptors come too; 0: there is none
    uint32_t pipe_capacity
    uint8_t flags
    uint8_t full_reads
    uint8_t reserved[6]

cdef struct exported_session_t:   # the record; behind it: preface, tried backends, bytes up, bytes down, padding
    uint32_t size                 # with all that, a multiple of 8
    uint32_t listener_id          # these three are numbers of the old process
    uint32_t pool_slot
    uint32_t backend_id           # 0: none
    uint64_t id
    uint64_t started_ns
    uint64_t attempt_started_ns
    uint64_t connected_ns
    uint64_t asked_ns
    uint64_t hash
    exported_half_t up
    exported_half_t down
    source_address_t source
    uint32_t idle_ms
    uint32_t half_close_ms
    uint32_t active_ms
    uint32_t state_deadline_ms
    uint32_t expires_ms
    uint32_t due_tick             # of its timer
    uint32_t preface_bytes
    uint32_t tried_count
    uint16_t attempts
    uint16_t flags
    uint16_t local_port
    uint8_t bits                  # exported_bits_t
    uint8_t state
    uint8_t splice
    uint8_t close_reason
    uint8_t half_close
    uint8_t unix_sides
    uint8_t awaited
    uint8_t has_client            # whether these descriptors come with it, in this order, before those of the pipes
    uint8_t has_backend
    uint8_t tagged

cdef struct arrival_t:            # the sockets of a session that went ahead
    uint64_t id
    int fds[2]                    # client, backend
    uint32_t worker
    uint32_t index                # of the ARRIVING session; set by the worker
    bint lost                     # there is none

cdef struct arrivals_t:           # of one worker; control's
    uint32_t count
    arrival_t *entries

cdef struct exports_t:            # of one worker, for control
    uint8_t *bytes                # records, one behind the other
    size_t length
    size_t capacity
    int *fds                      # their descriptors in order: still open in this process
    uint32_t fd_count
    uint32_t fd_capacity
    uint32_t count
    bint short_of_memory          # then none of them may go

cdef struct imported_session_t:   # one for a worker, with what it belongs to here
    const exported_session_t *said
    int fds[EXPORT_FDS_MAX]       # in the record's order
    listener_live_t *listener
    pool_live_t *pool
    backend_live_t *backend
    bint ahead                    # it is here, ARRIVING, as:
    uint32_t index
    held_t held

cdef struct imported_sessions_t:  # control makes it, the worker frees it
    uint32_t count
    imported_session_t *entries
    uint8_t *bytes                # what `said` points to
