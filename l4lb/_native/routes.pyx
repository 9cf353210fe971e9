# What workers go by to tell clients apart, as native memory: the routes of a listener and sets of addresses. Made once
# and shared by all the snapshots in which they are the same. What they decide is in
# `_dataplane/balancing/routes.pxd` and `_dataplane/base/ranges.pxd`.
#
# Used by `l4lb.engine` alone, on the control thread.
"""Native routes and address ranges; see `l4lb.engine.fields` for what they are made of."""

from cython cimport final
from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcpy

from l4lb._dataplane.balancing.routes cimport ROUTE_NONE, route_facts_t, route_name_hash, route_target, routes_find
from l4lb._dataplane.base.ranges cimport RANGE_ADDRESS_BYTES, ranges_free, ranges_init
from l4lb._dataplane.base.route_types cimport route_name_t, route_names_t, route_t, route_target_t
from l4lb._dataplane.base.types cimport source_address_t
from l4lb._dataplane.tls.client_hello cimport client_hello_parse, client_hello_t
from l4lb._native.convert cimport zeroed


cdef int compare_names(const void *a, const void *b) noexcept nogil:
    cdef const route_name_t *one = <const route_name_t *>a
    cdef const route_name_t *other = <const route_name_t *>b
    return (one.hash > other.hash) - (one.hash < other.hash)


@final
cdef class AddressRanges:
    """An immutable `ranges_t`, made of sorted and disjoint ranges of 32 bytes: see `l4lb.net.access`."""

    def __cinit__(self, bytes bounds):
        cdef uint32_t count = len(bounds) // (2 * RANGE_ADDRESS_BYTES)
        self.bounds = bounds
        if not ranges_init(&self.ranges, <const uint8_t *><const char *>bounds, count):
            raise MemoryError()

    def __dealloc__(self):
        ranges_free(&self.ranges)


@final
cdef class Routes:
    """An immutable `routes_t`, made of `specs.Route`s. Holds on to what it points to."""

    def __cinit__(self, list routes):
        self.kept = []
        self.routes.entries = <route_t *>zeroed(len(routes), sizeof(route_t))
        for spec in routes:
            self.routes.count += 1
            self.fill_route(&self.routes.entries[self.routes.count - 1], spec)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.routes.count):
            free(self.routes.entries[i].names.entries)
            free(self.routes.entries[i].suffixes.entries)
            free(self.routes.entries[i].targets)
        free(self.routes.entries)

    cdef const uint8_t *keep(self, bytes text):
        self.kept.append(text)
        return <const uint8_t *><const char *>text

    cdef int fill_route(self, route_t *route, object spec) except -1:
        cdef bytes alpn = spec.alpn, starts = spec.starts
        cdef AddressRanges sources = spec.sources
        self.fill_names(&route.names, spec.names)
        self.fill_names(&route.suffixes, spec.suffixes)
        route.alpn = self.keep(alpn)
        route.alpn_length = len(alpn)
        route.starts = self.keep(starts)
        route.starts_length = len(starts)
        route.by_source = spec.by_source
        route.sources = sources.ranges
        self.kept.append(sources)
        self.fill_targets(route, spec.targets)
        if route.names.count or route.suffixes.count or route.alpn_length:
            self.routes.reads_hello = True
        if route.starts_length or self.routes.reads_hello:
            self.routes.reads_bytes = True
        return 0

    cdef int fill_names(self, route_names_t *names, tuple wanted) except -1:
        cdef route_name_t *entry
        cdef bytes name
        names.entries = <route_name_t *>zeroed(len(wanted), sizeof(route_name_t))
        for name in wanted:
            entry = &names.entries[names.count]
            entry.bytes = self.keep(name)
            entry.length = len(name)
            entry.hash = route_name_hash(entry.bytes, entry.length)
            names.count += 1
        qsort(names.entries, names.count, sizeof(route_name_t), compare_names)
        return 0

    cdef int fill_targets(self, route_t *route, tuple targets) except -1:
        cdef route_target_t *target
        route.targets = <route_target_t *>zeroed(len(targets), sizeof(route_target_t))
        for slot, seed, weight in targets:
            target = &route.targets[route.target_count]
            target.slot = slot
            target.seed = seed
            target.weight = weight
            route.target_count += 1
        return 0

    def find(self, bytes source, bytes first, bint complete):
        """What workers find for a client at that packed address that has sent those bytes: (the index of its route, the
        slot of its pool), (ROUTE_NONE, 0) or (ROUTE_LATER, 0)."""
        cdef source_address_t address
        cdef client_hello_t hello
        cdef route_facts_t facts
        cdef int found
        address.length = len(source)
        memcpy(address.bytes, <const char *>source, len(source))
        facts.source = &address
        facts.first = <const uint8_t *><const char *>first
        facts.first_length = len(first)
        facts.complete = complete
        facts.hello = client_hello_parse(&hello, facts.first, facts.first_length)
        facts.said = &hello
        found = routes_find(&self.routes, &facts)
        if found <= <int>ROUTE_NONE:
            return found, 0
        return found, route_target(&self.routes.entries[found], &address, 0)
