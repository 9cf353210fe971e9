# PROXY terms: what listeners and pools of a snapshot say of PROXY headers, and sets of addresses. No functions.

from libc.stdint cimport uint32_t, uint8_t

cdef struct ranges_t:             # of addresses, see ranges.pxd; owned by control, kept as long as the snapshot
    uint32_t count
    const uint8_t *bounds         # 32 bytes each: the first and the last address, as 16 bytes

cdef struct proxy_accept_t:       # of a listener: which PROXY header comes before the bytes of a client
    ranges_t trusted              # from whom; unix clients are trusted as they are
    uint32_t timeout_ms           # of TCP: from accept to the end of the header
    uint8_t mode                  # proxy_mode_t

cdef struct proxy_send_t:         # of a pool: which PROXY header goes before the bytes to a backend
    const uint8_t *custom         # TLVs as they go out, netns among them; owned as above
    uint32_t custom_length
    uint8_t version               # 0: none
    uint8_t tlvs                  # of proxy_send_tlv_t: those that differ from session to session
