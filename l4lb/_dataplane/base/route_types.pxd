# Route types: by what a listener chooses among pools. No functions.

from libc.stdint cimport uint32_t, uint64_t, uint8_t

from l4lb._dataplane.base.parts cimport ranges_t

cdef struct route_name_t:         # in lower case
    uint64_t hash
    const uint8_t *bytes
    uint32_t length

cdef struct route_names_t:        # sorted by hash
    uint32_t count
    route_name_t *entries

cdef struct route_target_t:       # a pool
    uint32_t slot
    uint64_t seed                 # of its name: see balancing/routes.pxd:route_target
    double weight                 # above 0

cdef struct route_t:              # every condition that is set must hold; strings belong to control
    route_names_t names           # of the server that a TLS client asks for
    route_names_t suffixes        # ... or how they end: of "*.example.com", ".example.com"
    const uint8_t *alpn           # protocols, each after its length: the client offers one of them
    uint32_t alpn_length
    const uint8_t *starts         # the client's first bytes are one of these, each after its length
    uint32_t starts_length
    bint by_source
    ranges_t sources
    route_target_t *targets       # one, or several by weight
    uint32_t target_count

cdef struct routes_t:             # of a listener; immutable, and kept by each snapshot that has them
    uint32_t count
    route_t *entries
    bint reads_bytes              # some depend on what the client sends
    bint reads_hello              # ... and on its ClientHello
