# States: what happens to a session in each of its states. A new state is a function for each thing that can happen to
# it, and one entry here. Filled in once for each worker, when it is made; called through `worker_t.states`.

from libc.stdint cimport uint32_t

from l4lb._dataplane.balancing.queue cimport queue_leave
from l4lb._dataplane.base.enums cimport (
    SESSION_ARRIVING, SESSION_ASKING, SESSION_CLOSING, SESSION_CONNECTING, SESSION_FLOW, SESSION_FREE,
    SESSION_NEGOTIATING, SESSION_PAUSING, SESSION_QUEUED, SESSION_READING, SESSION_RELAYING, SESSION_RESETTING,
    close_reason_t, side_t,
)
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.worker_types cimport session_cleanup_f, session_edge_f, session_step_f, state_t, worker_t
from l4lb._dataplane.tcp.ending cimport session_close_progress, session_reset_progress, session_timeout_ending
from l4lb._dataplane.tcp.events cimport (
    edge_connecting, edge_ending, edge_negotiating, edge_reading, edge_relaying, edge_waiting, timeout_asking,
    timeout_connecting, timeout_pausing, timeout_queued, timeout_reading, timeout_relaying,
)
from l4lb._dataplane.tcp.precopy cimport edge_arriving
from l4lb._dataplane.tcp.transitions cimport session_pump
from l4lb._dataplane.udp.events cimport flow_timeout, flow_turn
from l4lb._dataplane.udp.flows cimport flow_cleanup


cdef inline void no_edge(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil:
    """None of its sockets is in epoll by its own tag."""


cdef inline void no_step(worker_t *w, session_t *s) noexcept nogil:
    """It has no timer, or is in no ready list."""


cdef inline void no_cleanup(worker_t *w, session_t *s, close_reason_t reason) noexcept nogil:
    pass


cdef inline void cleanup_queued(worker_t *w, session_t *s, close_reason_t reason) noexcept nogil:
    queue_leave(w, s)


cdef inline void state_fill(
    state_t *state, session_edge_f edge, session_step_f timeout, session_step_f turn, session_cleanup_f cleanup
) noexcept nogil:
    state.edge = edge
    state.timeout = timeout
    state.turn = turn
    state.cleanup = cleanup


cdef inline void states_fill(state_t *states) noexcept nogil:
    """A FREE session has no timer, no turn and no socket."""
    state_fill(&states[<int>SESSION_FREE], no_edge, no_step, no_step, no_cleanup)
    state_fill(&states[<int>SESSION_READING], edge_reading, timeout_reading, no_step, no_cleanup)
    state_fill(&states[<int>SESSION_ASKING], edge_waiting, timeout_asking, no_step, no_cleanup)
    state_fill(&states[<int>SESSION_QUEUED], edge_waiting, timeout_queued, no_step, cleanup_queued)
    state_fill(&states[<int>SESSION_CONNECTING], edge_connecting, timeout_connecting, no_step, no_cleanup)
    state_fill(&states[<int>SESSION_NEGOTIATING], edge_negotiating, timeout_connecting, no_step, no_cleanup)
    state_fill(&states[<int>SESSION_PAUSING], edge_waiting, timeout_pausing, no_step, no_cleanup)
    state_fill(&states[<int>SESSION_RELAYING], edge_relaying, timeout_relaying, session_pump, no_cleanup)
    state_fill(
        &states[<int>SESSION_RESETTING], edge_ending, session_timeout_ending, session_reset_progress, no_cleanup
    )
    state_fill(
        &states[<int>SESSION_CLOSING], edge_ending, session_timeout_ending, session_close_progress, no_cleanup
    )
    state_fill(&states[<int>SESSION_FLOW], no_edge, flow_timeout, flow_turn, flow_cleanup)
    state_fill(&states[<int>SESSION_ARRIVING], edge_arriving, no_step, no_step, no_cleanup)
