# UDP plane: what a worker needs to serve UDP (`worker_t.udp`), made with its first UDP socket and freed after the
# worker has stopped.

from libc.stdlib cimport calloc, free

from l4lb._dataplane.base.hashing cimport random_next
from l4lb._dataplane.base.udp_types cimport udp_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.udp.datagrams cimport intake_free, intake_init
from l4lb._dataplane.udp.flows cimport flows_free, flows_init
from l4lb._dataplane.udp.links cimport links_free, links_init
from l4lb._dataplane.udp.waiting cimport waitings_close


cdef inline int udp_open(worker_t *w) noexcept nogil:
    """For the first UDP socket of a worker, on its thread. 0, or -1 when memory is short."""
    cdef udp_t *udp
    if w.udp != NULL:
        return 0
    udp = <udp_t *>calloc(1, sizeof(udp_t))
    if udp == NULL:
        return -1
    links_init(&udp.links)
    if intake_init(&udp.up) < 0 or intake_init(&udp.down) < 0 or flows_init(&udp.flows, random_next(&w.random)) < 0:
        intake_free(&udp.up)
        intake_free(&udp.down)
        free(udp)
        return -1
    w.udp = udp
    return 0


cdef inline void udp_close(worker_t *w) noexcept nogil:
    if w.udp == NULL:
        return
    waitings_close(w)
    links_free(&w.udp.links)
    flows_free(&w.udp.flows)
    intake_free(&w.udp.up)
    intake_free(&w.udp.down)
    free(w.udp)
    w.udp = NULL
