# Access: whom a listener refuses by address: by its lists (allow, deny), or banned at the moment. Checked before
# limits, so that nobody takes a place from those who may come in. Behind a PROXY header the client that the header
# names is refused. Established sessions go on when the lists change; control ends the sessions of banned clients.
# Called by workers; the ranges belong to a snapshot and do not change.

from l4lb._dataplane.base.parts cimport access_t
from l4lb._dataplane.base.ranges cimport ranges_any, ranges_hold
from l4lb._dataplane.base.types cimport source_address_t


cdef inline bint access_limited(const access_t *access) noexcept nogil:
    """Whether anybody is refused."""
    return ranges_any(&access.refused) or ranges_any(&access.banned)


cdef inline bint access_refused(const access_t *access, const source_address_t *source) noexcept nogil:
    """A unix client has no address: its socket's file decides who may connect."""
    if not source.length:
        return False
    return ranges_hold(&access.banned, source) or ranges_hold(&access.refused, source)
