# Ranges: sets of IP addresses, such as those that a listener trusts. Sorted and disjoint, IPv4 addresses as v4-mapped
# ones (`l4lb.net.ranges` makes them from CIDRs), and immutable in a snapshot. Pure: any thread.

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcmp, memcpy, memset

from l4lb._dataplane.base.parts cimport ranges_t
from l4lb._dataplane.base.types cimport source_address_t

cdef enum:
    RANGE_ADDRESS_BYTES = 16


cdef inline bint ranges_hold(const ranges_t *ranges, const source_address_t *address) noexcept nogil:
    """Whether the IP address is in one of them. By bisection: among 100,000 ranges this takes 17 comparisons."""
    cdef uint8_t wanted[RANGE_ADDRESS_BYTES]
    cdef uint32_t low = 0, high = ranges.count, middle
    cdef const uint8_t *bounds
    if address.length == 4:
        memset(wanted, 0, 10)
        memset(wanted + 10, 0xFF, 2)
        memcpy(wanted + 12, &address.bytes[0], 4)
    else:
        memcpy(wanted, &address.bytes[0], RANGE_ADDRESS_BYTES)
    while low < high:
        middle = low + (high - low) // 2
        bounds = ranges.bounds + 2 * RANGE_ADDRESS_BYTES * middle
        if memcmp(wanted, bounds, RANGE_ADDRESS_BYTES) < 0:
            high = middle
        elif memcmp(wanted, bounds + RANGE_ADDRESS_BYTES, RANGE_ADDRESS_BYTES) > 0:
            low = middle + 1
        else:
            return True
    return False
