# Routes: to which pool of its listener a client goes, by the server name and protocols of its ClientHello, its first
# bytes and its address. The first route whose conditions all hold; none: the listener's own pool. `l4lb.routing.routes`
# decides the same. Pure: called by workers with an immutable snapshot.

from libc.math cimport log
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy

from l4lb._dataplane.base.hashing cimport xxh64
from l4lb._dataplane.base.ranges cimport ranges_hold
from l4lb._dataplane.base.route_types cimport route_name_t, route_names_t, route_t, route_target_t, routes_t
from l4lb._dataplane.base.types cimport source_address_t
from l4lb._dataplane.tls.client_hello cimport HELLO_FOUND, HELLO_NEED_MORE, client_hello_t, hello_result_t

cdef enum:
    ROUTE_NONE = -1               # no route takes the client
    ROUTE_LATER = -2              # it depends on bytes that have not come
    ROUTE_SOURCE_BYTES = 8        # of an IPv6 address: a client may use any address of its network

cdef enum route_verdict_t:
    ROUTE_NO = 0
    ROUTE_YES
    ROUTE_UNKNOWN

cdef struct route_facts_t:        # what is known of a client
    const source_address_t *source
    const uint8_t *first          # its first bytes
    uint32_t first_length
    bint complete                 # no more of them will be waited for
    hello_result_t hello          # HELLO_NEED_MORE: not known yet
    const client_hello_t *said


# ---- names ----

cdef inline uint64_t route_name_hash(const uint8_t *name, uint32_t length) noexcept nogil:
    return xxh64(name, length, 0)


cdef inline bint names_have(const route_names_t *names, const uint8_t *name, uint32_t length) noexcept nogil:
    cdef uint64_t hash = route_name_hash(name, length)
    cdef uint32_t low = 0, high = names.count, middle
    cdef const route_name_t *entry
    while low < high:
        middle = low + (high - low) // 2
        if names.entries[middle].hash < hash:
            low = middle + 1
        else:
            high = middle
    while low < names.count and names.entries[low].hash == hash:
        entry = &names.entries[low]
        if entry.length == length and memcmp(entry.bytes, name, length) == 0:
            return True
        low += 1
    return False


cdef inline uint32_t name_fold(const client_hello_t *said, uint8_t *name) noexcept nogil:
    """The server name in lower case, without a dot at its end (RFC 6066 3 forbids one, and some send it). Returns its
    length."""
    cdef uint32_t length = said.server_name_length
    cdef uint32_t i
    for i in range(length):
        name[i] = said.server_name[i] | 0x20 if 0x41 <= said.server_name[i] <= 0x5A else said.server_name[i]
    return length - 1 if length and name[length - 1] == 0x2E else length


cdef inline bint route_has_name(const route_t *route, const client_hello_t *said) noexcept nogil:
    cdef uint8_t name[256]
    cdef uint32_t length = name_fold(said, name)
    cdef uint32_t at
    if length == 0:
        return False
    if route.names.count and names_have(&route.names, name, length):
        return True
    if route.suffixes.count:
        for at in range(1, length):
            if name[at] == 0x2E and names_have(&route.suffixes, name + at, length - at):
                return True
    return False


# ---- lists of strings, each after its length ----

cdef inline bint list_has(const uint8_t *list, uint32_t size, const uint8_t *wanted, uint32_t length) noexcept nogil:
    cdef uint32_t at = 0
    while at < size:
        if list[at] == length and memcmp(list + at + 1, wanted, length) == 0:
            return True
        at += 1 + list[at]
    return False


cdef inline bint route_has_protocol(const route_t *route, const client_hello_t *said) noexcept nogil:
    cdef uint32_t at = 0
    while at < said.offered_length:
        if list_has(route.alpn, route.alpn_length, said.offered + at + 1, said.offered[at]):
            return True
        at += 1 + said.offered[at]
    return False


cdef inline route_verdict_t route_starts(const route_t *route, const route_facts_t *facts) noexcept nogil:
    cdef route_verdict_t verdict = ROUTE_NO
    cdef uint32_t at = 0, length
    while at < route.starts_length:
        length = route.starts[at]
        if length > facts.first_length:
            if not facts.complete and memcmp(route.starts + at + 1, facts.first, facts.first_length) == 0:
                verdict = ROUTE_UNKNOWN
        elif memcmp(route.starts + at + 1, facts.first, length) == 0:
            return ROUTE_YES
        at += 1 + length
    return verdict


# ---- routes ----

cdef inline route_verdict_t route_hello(const route_t *route, const route_facts_t *facts) noexcept nogil:
    """By what stands in its ClientHello."""
    cdef bint by_name = route.names.count or route.suffixes.count
    if not by_name and not route.alpn_length:
        return ROUTE_YES
    if facts.hello == HELLO_NEED_MORE and not facts.complete:
        return ROUTE_UNKNOWN
    if facts.hello != HELLO_FOUND:
        return ROUTE_NO
    if by_name and not route_has_name(route, facts.said):
        return ROUTE_NO
    return ROUTE_YES if not route.alpn_length or route_has_protocol(route, facts.said) else ROUTE_NO


cdef inline route_verdict_t route_takes(const route_t *route, const route_facts_t *facts) noexcept nogil:
    """What is known to fail decides, whatever is not known yet."""
    cdef route_verdict_t starts = ROUTE_YES
    cdef route_verdict_t hello
    if route.by_source and (facts.source.length == 0 or not ranges_hold(&route.sources, facts.source)):
        return ROUTE_NO
    if route.starts_length:
        starts = route_starts(route, facts)
    hello = route_hello(route, facts)
    if starts == ROUTE_NO or hello == ROUTE_NO:
        return ROUTE_NO
    return ROUTE_UNKNOWN if starts == ROUTE_UNKNOWN or hello == ROUTE_UNKNOWN else ROUTE_YES


cdef inline int routes_find(const routes_t *routes, const route_facts_t *facts) noexcept nogil:
    """The index of the client's route, or ROUTE_NONE, or ROUTE_LATER."""
    cdef route_verdict_t verdict
    cdef uint32_t i
    for i in range(routes.count):
        verdict = route_takes(&routes.entries[i], facts)
        if verdict == ROUTE_YES:
            return <int>i
        if verdict == ROUTE_UNKNOWN:
            return ROUTE_LATER
    return ROUTE_NONE


# ---- pools by weight ----

cdef inline double target_score(const route_target_t *target, const uint8_t *key, uint32_t length) noexcept nogil:
    """The pool with the lowest score has the client: each pool gets clients by its weight, and those move that a
    changed weight takes from it or gives it (weighted rendezvous hashing)."""
    cdef uint64_t hash = xxh64(key, length, target.seed)
    return -log((<double>(hash >> 11) + 0.5) * (1.0 / 9007199254740992.0)) / target.weight


cdef inline uint32_t route_target(
    const route_t *route, const source_address_t *source, uint64_t drawn
) noexcept nogil:
    """The slot of its pool: of several always the same for one client, by its IPv4 address or IPv6 network; a unix
    client's is drawn."""
    cdef uint8_t key[16]
    cdef uint32_t length = source.length
    cdef uint32_t i, best = 0
    cdef double score, lowest = 0
    if route.target_count == 1:
        return route.targets[0].slot
    if length == 0:
        memcpy(key, &drawn, 8)
        length = 8
    else:
        length = length if length == 4 else <uint32_t>ROUTE_SOURCE_BYTES
        memcpy(key, source.bytes, length)
    for i in range(route.target_count):
        score = target_score(&route.targets[i], key, length)
        if i == 0 or score < lowest:
            lowest = score
            best = i
    return route.targets[best].slot
