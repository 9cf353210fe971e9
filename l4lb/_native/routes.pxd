# Routes and address ranges, as other native modules see them: see `_native/routes.pyx`.

from libc.stdint cimport uint8_t

from l4lb._dataplane.base.parts cimport ranges_t
from l4lb._dataplane.base.route_types cimport route_names_t, route_t, routes_t


cdef class AddressRanges:
    cdef object __weakref__
    cdef ranges_t ranges
    cdef readonly bytes bounds


cdef class Routes:
    cdef routes_t routes
    cdef list kept

    cdef int fill_route(self, route_t *route, object spec) except -1
    cdef int fill_names(self, route_names_t *names, tuple wanted) except -1
    cdef int fill_targets(self, route_t *route, tuple targets) except -1
    cdef const uint8_t *keep(self, bytes text)
