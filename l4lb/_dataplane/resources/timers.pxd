# Timers: a hierarchical wheel, four levels of 64 slots (Varghese and Lauck, 1987, scheme 7). Arming, disarming and the
# passing of a tick cost the same however many timers there are. Owned by one worker; called on its thread.
#
# A tick is TIMER_TICK_MS; the levels reach 0.5 s, 32 s, 35 min and 37 h, and a timer due later than that fires early.
# Its owner then checks the real deadline and arms again, which also makes it cheap to move a deadline out.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from l4lb._dataplane.base.enums cimport NO_INDEX, TIMER_IDLE, TIMER_LEVELS, TIMER_SLOTS, TIMER_TICK_MS
from l4lb._dataplane.base.linux cimport count_trailing_zeros
from l4lb._dataplane.base.parts cimport timers_t
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.worker_types cimport sessions_t
from l4lb._dataplane.resources.sessions cimport sessions_at


cdef inline void timers_init(timers_t *self, uint64_t now_ms) noexcept nogil:
    cdef uint32_t i
    self.tick = <uint32_t>(now_ms // TIMER_TICK_MS)
    for i in range(TIMER_LEVELS):
        self.occupied[i] = 0
    for i in range(TIMER_LEVELS * TIMER_SLOTS):
        self.heads[i] = NO_INDEX


cdef inline void timers_disarm(timers_t *self, sessions_t *sessions, session_t *s) noexcept nogil:
    cdef uint32_t slot = s.timer.slot
    if slot == TIMER_IDLE:
        return
    if s.timer.previous == NO_INDEX:
        self.heads[slot] = s.timer.next
        if s.timer.next == NO_INDEX:
            self.occupied[slot // TIMER_SLOTS] &= ~(<uint64_t>1 << (slot % TIMER_SLOTS))
    else:
        sessions_at(sessions, s.timer.previous).timer.next = s.timer.next
    if s.timer.next != NO_INDEX:
        sessions_at(sessions, s.timer.next).timer.previous = s.timer.previous
    s.timer.slot = TIMER_IDLE


cdef inline uint32_t timers_slot_of(timers_t *self, uint32_t due_tick) noexcept nogil:
    """Where a timer that is due at `due_tick`, after the current tick, belongs: level * 64 + slot."""
    cdef uint32_t delta = due_tick - self.tick
    cdef uint32_t level = 0
    while level < TIMER_LEVELS - 1 and delta >= <uint32_t>1 << (6 * (level + 1)):
        level += 1
    return level * TIMER_SLOTS + ((due_tick >> (6 * level)) % TIMER_SLOTS)


cdef inline void timers_link(timers_t *self, sessions_t *sessions, session_t *s) noexcept nogil:
    cdef uint32_t slot = timers_slot_of(self, s.timer.due_tick)
    cdef uint32_t head = self.heads[slot]
    s.timer.slot = slot
    s.timer.previous = NO_INDEX
    s.timer.next = head
    if head != NO_INDEX:
        sessions_at(sessions, head).timer.previous = s.index
    self.heads[slot] = s.index
    self.occupied[slot // TIMER_SLOTS] |= <uint64_t>1 << (slot % TIMER_SLOTS)


cdef inline void timers_arm(timers_t *self, sessions_t *sessions, session_t *s, uint64_t due_ms) noexcept nogil:
    """Fire at `due_ms` of the worker's clock, or up to one tick later. Replaces what was armed."""
    cdef uint32_t due = <uint32_t>((due_ms + TIMER_TICK_MS - 1) // TIMER_TICK_MS)
    cdef uint32_t furthest = (<uint32_t>1 << (6 * TIMER_LEVELS)) - 1
    cdef int32_t delta = <int32_t>(due - self.tick)
    timers_disarm(self, sessions, s)
    if delta < 1:
        due = self.tick + 1
    elif <uint32_t>delta > furthest:
        due = self.tick + furthest
    s.timer.due_tick = due
    timers_link(self, sessions, s)


cdef inline void timers_cascade(timers_t *self, sessions_t *sessions, uint32_t level) noexcept nogil:
    """Move the slot that has come near from `level` to the levels below."""
    cdef uint32_t slot = level * TIMER_SLOTS + ((self.tick >> (6 * level)) % TIMER_SLOTS)
    cdef uint32_t index = self.heads[slot]
    cdef session_t *s
    self.heads[slot] = NO_INDEX
    self.occupied[level] &= ~(<uint64_t>1 << (slot % TIMER_SLOTS))
    while index != NO_INDEX:
        s = sessions_at(sessions, index)
        index = s.timer.next
        timers_link(self, sessions, s)


cdef inline void timers_step(timers_t *self, sessions_t *sessions, uint32_t now_tick) noexcept nogil:
    """Advance one tick, or past ticks in which nothing can be due."""
    cdef uint32_t level
    cdef uint32_t to_boundary = TIMER_SLOTS - (self.tick % TIMER_SLOTS)
    if self.occupied[0] == 0:
        if self.occupied[1] == 0 and self.occupied[2] == 0 and self.occupied[3] == 0:
            self.tick = now_tick
            return
        self.tick += to_boundary if <int32_t>(now_tick - self.tick) >= <int32_t>to_boundary else now_tick - self.tick
    else:
        self.tick += 1
    level = 1
    while level < TIMER_LEVELS and self.tick % (<uint32_t>1 << (6 * level)) == 0:
        level += 1
    while level > 1:                       # the highest first: it may refill the ones below
        level -= 1
        timers_cascade(self, sessions, level)


cdef inline uint32_t timers_pop(timers_t *self, sessions_t *sessions, uint64_t now_ms) noexcept nogil:
    """The index of one session whose timer is due, disarmed; NO_INDEX when there is none left by `now_ms`."""
    cdef uint32_t now_tick = <uint32_t>(now_ms // TIMER_TICK_MS)
    cdef uint32_t index
    while True:
        index = self.heads[self.tick % TIMER_SLOTS]
        if index != NO_INDEX and sessions_at(sessions, index).timer.due_tick == self.tick:
            timers_disarm(self, sessions, sessions_at(sessions, index))
            return index
        if <int32_t>(now_tick - self.tick) <= 0:
            return NO_INDEX
        timers_step(self, sessions, now_tick)


cdef inline int64_t timers_next_ms(timers_t *self, uint64_t now_ms) noexcept nogil:
    """For how many ms nothing can be due; -1 when no timer is armed."""
    cdef uint32_t level, position, ahead
    cdef uint64_t occupied
    cdef int64_t best = -1
    cdef int64_t due
    for level in range(TIMER_LEVELS):
        if self.occupied[level] == 0:
            continue
        position = ((self.tick >> (6 * level)) + 1) % TIMER_SLOTS
        occupied = self.occupied[level]
        if position:
            occupied = (occupied >> position) | (occupied << (TIMER_SLOTS - position))
        ahead = 1 + count_trailing_zeros(occupied)
        due = <int64_t>((((self.tick >> (6 * level)) + ahead) << (6 * level)) - self.tick) * TIMER_TICK_MS
        if best < 0 or due < best:
            best = due
    if best > 0:
        best -= <int64_t>(now_ms % TIMER_TICK_MS)
    return best
