# Sessions: the slab of session_t. Blocks are allocated as needed and never move, so a pointer stays valid for the
# session's whole life. Owned by one worker; called on its thread.

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free, realloc

from l4lb._dataplane.base.enums cimport (
    HALF_READ_ON, NO_INDEX, SESSIONS_PER_BLOCK, SESSION_ARRIVING, SESSION_FREE, TIMER_IDLE, side_t,
)
from l4lb._dataplane.base.linux cimport gauge_add
from l4lb._dataplane.base.parts cimport session_list_t
from l4lb._dataplane.base.types cimport half_t, session_t
from l4lb._dataplane.base.worker_types cimport sessions_t


cdef inline session_t *sessions_at(sessions_t *self, uint32_t index) noexcept nogil:
    """`index` must be below block_count * SESSIONS_PER_BLOCK: tags and timers hold only such indices."""
    return &self.blocks[index // SESSIONS_PER_BLOCK][index % SESSIONS_PER_BLOCK]


cdef inline bint sessions_reach(const sessions_t *self, uint32_t index) noexcept nogil:
    """Whether there is such a slot."""
    return index < self.block_count * <uint32_t>SESSIONS_PER_BLOCK


cdef inline void sessions_init(sessions_t *self) noexcept nogil:
    self.blocks = NULL
    self.block_count = self.block_capacity = self.active = 0
    self.free_head = NO_INDEX


cdef inline int sessions_grow(sessions_t *self) noexcept nogil:
    """Add a block to the free list. 0, or -1 when memory is short (calloc, realloc: ENOMEM)."""
    cdef session_t **blocks
    cdef session_t *block
    cdef uint32_t i, base, capacity
    if self.block_count == self.block_capacity:
        capacity = self.block_capacity * 2 if self.block_capacity else 16
        blocks = <session_t **>realloc(self.blocks, capacity * sizeof(session_t *))
        if blocks == NULL:
            return -1
        self.blocks = blocks
        self.block_capacity = capacity
    block = <session_t *>calloc(SESSIONS_PER_BLOCK, sizeof(session_t))
    if block == NULL:
        return -1
    base = self.block_count * SESSIONS_PER_BLOCK
    self.blocks[self.block_count] = block
    self.block_count += 1
    for i in range(SESSIONS_PER_BLOCK, 0, -1):
        block[i - 1].index = base + i - 1
        block[i - 1].generation = 1
        block[i - 1].timer.slot = TIMER_IDLE
        block[i - 1].next_free = self.free_head
        self.free_head = base + i - 1
    return 0


cdef inline session_t *sessions_take(sessions_t *self) noexcept nogil:
    """A free session; its fields, except index and generation, are as the last one left them. NULL when memory is
    short."""
    cdef session_t *s
    if self.free_head == NO_INDEX and sessions_grow(self) < 0:
        return NULL
    s = sessions_at(self, self.free_head)
    self.free_head = s.next_free
    gauge_add(&self.active, 1)
    return s


cdef inline void sessions_give(sessions_t *self, session_t *s) noexcept nogil:
    """Free the slot. The generation is incremented (0 is never used), which makes every tag of the old session
    stale."""
    s.state = SESSION_FREE
    s.generation += 1
    if s.generation == 0:
        s.generation = 1
    s.next_free = self.free_head
    self.free_head = s.index
    gauge_add(&self.active, -1)


cdef inline void sessions_free(sessions_t *self) noexcept nogil:
    cdef uint32_t i
    for i in range(self.block_count):
        free(self.blocks[i])
    free(self.blocks)
    sessions_init(self)


cdef inline bint session_is_here(const session_t *s) noexcept nogil:
    """Whether the slot has a session of this process."""
    return s.state != SESSION_FREE and s.state != SESSION_ARRIVING


# ---- lists: doubly linked through the sessions, so that one that ends is removed at once ----

cdef inline void list_init(session_list_t *list) noexcept nogil:
    list.head = list.tail = NO_INDEX


cdef inline void list_append(sessions_t *self, session_list_t *list, session_t *s) noexcept nogil:
    """A session is in one list at most."""
    s.next_in_list = NO_INDEX
    s.previous_in_list = list.tail
    if list.tail == NO_INDEX:
        list.head = s.index
    else:
        sessions_at(self, list.tail).next_in_list = s.index
    list.tail = s.index


cdef inline void list_remove(sessions_t *self, session_list_t *list, session_t *s) noexcept nogil:
    """From wherever it stands in `list`, which must be its own."""
    if s.previous_in_list == NO_INDEX:
        list.head = s.next_in_list
    else:
        sessions_at(self, s.previous_in_list).next_in_list = s.next_in_list
    if s.next_in_list == NO_INDEX:
        list.tail = s.previous_in_list
    else:
        sessions_at(self, s.next_in_list).previous_in_list = s.previous_in_list


cdef inline bint session_reads_short(session_t *s, side_t side, half_t *h) noexcept nogil:
    """Whether a short read of that side may leave bytes behind: before an urgent mark or a reset, and on a unix socket
    at a message that carries file descriptors (unix(7), SCM_RIGHTS; they are not passed on, as by any proxy)."""
    return h.flags & HALF_READ_ON or s.unix_sides >> <int>side & 1
