# Ranges: sets of IP addresses, such as those that a listener trusts or refuses. Immutable, and made once for all the
# snapshots that name them. Pure: any thread.
#
# Between two lookups a busy host has put other things into its CPU's caches, so that the price of a lookup is the
# number of cache lines that it touches: a bisection touches one a step. The first addresses of the ranges stand in a
# tree with nodes of RANGE_NODE keys: 5 levels for 100,000 ranges. A node of IPv4 addresses is one line.

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.linux cimport be64toh, ntohl, posix_memalign, uint128_t, unlikely
from l4lb._dataplane.base.parts cimport ranges_t
from l4lb._dataplane.base.types cimport source_address_t

cdef enum:
    RANGE_ADDRESS_BYTES = 16      # in what a set is made of: an address in network order, IPv4 as v4-mapped
    RANGE_NODE_BITS = 4
    RANGE_NODE = 1 << RANGE_NODE_BITS
    RANGE_V4_PREFIX = 0xFFFF      # of a v4-mapped address, above its 32 bits

ctypedef fused range_key_t:
    uint32_t                      # IPv4
    uint128_t                     # IPv6


cdef inline uint128_t range_address(const uint8_t *packed) noexcept nogil:
    cdef uint64_t halves[2]
    memcpy(halves, packed, RANGE_ADDRESS_BYTES)
    return <uint128_t>be64toh(halves[0]) << 64 | be64toh(halves[1])


cdef inline bint range_is_v4(uint128_t address) noexcept nogil:
    return address >> 32 == RANGE_V4_PREFIX


cdef inline uint64_t range_level_keys(uint32_t count, uint32_t level) noexcept nogil:
    """How many keys the level has: each is the first one of a node of the level below, and level 0 has them all."""
    cdef uint32_t bits = level * RANGE_NODE_BITS
    return (count + (<uint64_t>1 << bits) - 1) >> bits


cdef inline uint32_t range_levels(uint32_t count) noexcept nogil:
    cdef uint32_t levels = 1
    while range_level_keys(count, levels - 1) > RANGE_NODE:
        levels += 1
    return levels


cdef inline uint64_t range_level_places(uint32_t count, uint32_t level) noexcept nogil:
    """Its keys, up to the end of the last node: so each node begins a line."""
    return (range_level_keys(count, level) + RANGE_NODE - 1) & ~<uint64_t>(RANGE_NODE - 1)


cdef inline bint range_tree_holds(const range_key_t *tree, uint32_t count, range_key_t wanted) noexcept nogil:
    """The levels follow each other from the top one, which is one node; behind them are the last addresses."""
    cdef uint32_t level, i, found
    cdef uint64_t keys, at = 0
    if not count:
        return False
    level = range_levels(count)
    while level:
        level -= 1
        keys = range_level_keys(count, level)
        found = 0
        for i in range(min(<uint64_t>RANGE_NODE, keys - at)):
            found += tree[at + i] <= wanted
        if not found:
            return False                                                # below all ranges: the top node says so
        at = (at + found - 1) << (RANGE_NODE_BITS if level else 0)
        tree += range_level_places(count, level)
    return wanted <= tree[at]


cdef inline bint ranges_any(const ranges_t *ranges) noexcept nogil:
    return ranges.v4_count or ranges.v6_count


cdef inline bint ranges_hold(const ranges_t *ranges, const source_address_t *address) noexcept nogil:
    """Whether the IP address is in one of them."""
    cdef uint32_t plain
    cdef uint128_t wide
    if address.length == 4:
        memcpy(&plain, &address.bytes[0], sizeof(plain))
        return range_tree_holds[uint32_t](ranges.v4, ranges.v4_count, ntohl(plain))
    wide = range_address(&address.bytes[0])
    if unlikely(range_is_v4(wide)):
        return range_tree_holds[uint32_t](ranges.v4, ranges.v4_count, <uint32_t>wide)
    return range_tree_holds[uint128_t](ranges.v6, ranges.v6_count, wide)


cdef inline range_key_t *range_tree_new(
    const range_key_t *firsts, const range_key_t *lasts, uint32_t count
) noexcept nogil:
    """NULL without memory, or without ranges."""
    cdef uint32_t level = range_levels(count)
    cdef uint64_t i, places = count
    cdef void *memory = NULL
    cdef range_key_t *tree
    for i in range(level):
        places += range_level_places(count, <uint32_t>i)
    if not count or posix_memalign(&memory, RANGE_NODE * sizeof(uint32_t), places * sizeof(range_key_t)):
        return NULL                                                     # ENOMEM
    tree = <range_key_t *>memory
    memset(tree, 0, places * sizeof(range_key_t))
    while level:
        level -= 1
        for i in range(range_level_keys(count, level)):
            tree[i] = firsts[i << (level * RANGE_NODE_BITS)]
        tree += range_level_places(count, level)
    memcpy(tree, lasts, count * sizeof(range_key_t))
    return <range_key_t *>memory


cdef inline bint ranges_init(ranges_t *ranges, const uint8_t *bounds, uint32_t count) noexcept nogil:
    """Of `count` pairs of a first and a last address, sorted and disjoint. False without memory."""
    cdef uint128_t first, last, v4_first = <uint128_t>RANGE_V4_PREFIX << 32, v4_last = v4_first | <uint32_t>0xFFFFFFFF
    cdef uint32_t *v4 = <uint32_t *>calloc(2 * <size_t>count + 1, sizeof(uint32_t))
    cdef uint128_t *v6 = <uint128_t *>calloc(2 * <size_t>count + 1, sizeof(uint128_t))
    cdef uint32_t i
    memset(ranges, 0, sizeof(ranges_t))
    if v4 != NULL and v6 != NULL:
        for i in range(count):
            first = range_address(bounds + 2 * RANGE_ADDRESS_BYTES * i)
            last = range_address(bounds + 2 * RANGE_ADDRESS_BYTES * i + RANGE_ADDRESS_BYTES)
            if first <= v4_last and last >= v4_first:
                v4[ranges.v4_count] = <uint32_t>max(first, v4_first)
                v4[count + ranges.v4_count] = <uint32_t>min(last, v4_last)
                ranges.v4_count += 1
            if first < v4_first or last > v4_last:
                v6[ranges.v6_count] = first
                v6[count + ranges.v6_count] = last
                ranges.v6_count += 1
        ranges.v4 = range_tree_new[uint32_t](v4, v4 + count, ranges.v4_count)
        ranges.v6 = range_tree_new[uint128_t](v6, v6 + count, ranges.v6_count)
    free(v4)
    free(v6)
    return (ranges.v4 != NULL or not ranges.v4_count) and (ranges.v6 != NULL or not ranges.v6_count)


cdef inline void ranges_free(ranges_t *ranges) noexcept nogil:
    free(ranges.v4)
    free(ranges.v6)
