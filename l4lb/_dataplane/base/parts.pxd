# Parts: structs that are embedded in others and refer to nothing but themselves. No functions.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

from l4lb._dataplane.base.enums cimport CHUNK_CLASSES, TIMER_LEVELS, TIMER_SLOTS
from l4lb._dataplane.base.linux cimport uint128_t

cdef struct candidate_t:          # a backend while a table is built; in the order that all nodes agree on
    const uint8_t *id
    uint64_t id_length
    double weight                 # above 0; for a ring: its number of points

cdef struct chunk_t:              # bytes that a sink did not take yet; owned by one half
    chunk_t *next
    uint32_t start
    uint32_t length
    uint8_t size_class

cdef struct pipe_t:               # owned by one half, or empty in its worker's cache
    pipe_t *next
    int read_fd
    int write_fd
    uint32_t capacity_bytes
    uint32_t held_bytes

cdef struct timer_t:              # a node of the wheel, inside its session
    uint32_t next
    uint32_t previous
    uint32_t due_tick
    uint16_t slot                 # level * 64 + slot, TIMER_IDLE when not armed

cdef struct tried_t:              # backends that refused this session; only a session with a failed attempt has one
    uint32_t count
    uint32_t capacity
    uint32_t *backend_ids
    bint was_short                # an attempt failed because this host was short of something: none is tried twice then

cdef struct session_list_t:       # of one worker; session indices, see resources/sessions.pxd
    uint32_t head
    uint32_t tail

cdef struct timers_t:
    uint32_t tick                                      # the last one that was run
    uint64_t occupied[TIMER_LEVELS]  # one bit per slot, by level
    uint32_t heads[TIMER_LEVELS * TIMER_SLOTS]  # session index, or NO_INDEX

cdef struct pipes_t:
    pipe_t *idle
    uint32_t idle_count
    uint32_t out_count

cdef struct chunks_t:
    chunk_t *idle[CHUNK_CLASSES]
    uint32_t idle_count[CHUNK_CLASSES]
    uint32_t out_count

cdef struct ranges_t:             # address ranges, see base/ranges.pxd; owned by control
    uint32_t v4_count
    uint32_t v6_count
    uint32_t *v4                  # a search tree
    uint128_t *v6

cdef struct access_t:             # a listener's: which clients it refuses
    ranges_t refused              # by its lists
    ranges_t banned               # at runtime
    bint closes                   # TCP: with a FIN; otherwise with a reset

cdef struct proxy_accept_t:       # a listener's: which PROXY header precedes a client's bytes
    ranges_t trusted              # whose headers are believed; unix clients always are
    uint32_t timeout_ms           # TCP: from accept to the end of the header
    uint8_t mode                  # proxy_mode_t

cdef struct proxy_send_t:         # a pool's: which PROXY header precedes the bytes to a backend
    const uint8_t *custom         # TLVs as they are sent, netns among them; owned by control
    uint32_t custom_length
    uint8_t version               # 0: none
    uint8_t tlvs                  # proxy_send_tlv_t bits: those that differ from session to session
