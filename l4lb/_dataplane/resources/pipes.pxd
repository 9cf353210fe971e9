# Pipes: what a bulk half splices through. Lent empty, given back empty; one that still holds bytes is closed, because
# the next session must never see them. Owned by one worker; called on its thread.

from libc.stdlib cimport free, malloc

from l4lb._dataplane.base.enums cimport PIPE_BYTES, PIPE_CACHE_MAX
from l4lb._dataplane.base.linux cimport F_SETPIPE_SZ, O_CLOEXEC, O_NONBLOCK, close, fcntl, gauge_add, pipe2
from l4lb._dataplane.base.parts cimport pipe_t, pipes_t


cdef inline pipe_t *pipe_open() noexcept nogil:
    """A new pipe, or NULL (pipe2: EMFILE, ENFILE; malloc: ENOMEM): the caller goes on copying."""
    cdef int fds[2]
    cdef int capacity
    cdef pipe_t *pipe = <pipe_t *>malloc(sizeof(pipe_t))
    if pipe == NULL:
        return NULL
    if pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0:
        free(pipe)
        return NULL
    # EPERM: above pipe-max-size, or the user's soft limit of pipe pages is used up. Half as large, down to the default.
    capacity = PIPE_BYTES
    while capacity > 65536 and fcntl(fds[0], F_SETPIPE_SZ, capacity) < 0:
        capacity //= 2
    pipe.read_fd = fds[0]
    pipe.write_fd = fds[1]
    pipe.capacity_bytes = capacity
    pipe.held_bytes = 0
    pipe.next = NULL
    return pipe


cdef inline void pipe_close(pipe_t *pipe) noexcept nogil:
    close(pipe.read_fd)
    close(pipe.write_fd)
    free(pipe)


cdef inline pipe_t *pipe_take(pipes_t *self) noexcept nogil:
    """An empty pipe, from the cache or new; NULL when none can be had."""
    cdef pipe_t *pipe = self.idle
    if pipe != NULL:
        self.idle = pipe.next
        self.idle_count -= 1
    else:
        pipe = pipe_open()
        if pipe == NULL:
            return NULL
    gauge_add(&self.out_count, 1)
    return pipe


cdef inline void pipe_give(pipes_t *self, pipe_t *pipe) noexcept nogil:
    gauge_add(&self.out_count, -1)
    if pipe.held_bytes or self.idle_count >= PIPE_CACHE_MAX:
        pipe_close(pipe)
        return
    pipe.next = self.idle
    self.idle = pipe
    self.idle_count += 1


cdef inline void pipes_free(pipes_t *self) noexcept nogil:
    cdef pipe_t *pipe
    while self.idle != NULL:
        pipe = self.idle
        self.idle = pipe.next
        pipe_close(pipe)
    self.idle_count = 0
