# Half: one direction of a TCP session, as far as all states need it. tcp/relay.pxd moves its bytes. Called on the
# worker's thread.

from l4lb._dataplane.base.enums cimport HALF_DEAD
from l4lb._dataplane.base.types cimport half_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.chunks cimport chunk_give
from l4lb._dataplane.resources.pipes cimport pipe_give


cdef inline bint half_pending(half_t *h) noexcept nogil:
    return h.chunk != NULL or (h.pipe != NULL and h.pipe.held_bytes != 0)


cdef inline void half_drop(worker_t *w, half_t *h) noexcept nogil:
    """Give up what is pending and read no more."""
    h.flags |= HALF_DEAD
    if h.chunk != NULL:
        chunk_give(&w.chunks, h.chunk)
        h.chunk = NULL
    if h.pipe != NULL:
        pipe_give(&w.pipes, h.pipe)
        h.pipe = NULL
