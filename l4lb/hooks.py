"""For code that decides about sessions: what a hook gets, and what it may answer.

A hook is a function of a `SessionInfo`, plain or async, that `LoadBalancer.on_session` is given, or that is called
`on_session` in the module that ``[hooks] module`` names. It is asked about each new session of a TCP listener, and
answers

- None, True or `Accept`: the session goes on;
- False or `Reject`: the client is refused;
- `ToPool`, `ToBackend`: the session goes there.

A plain function runs on a thread, an async one on an event loop of its own; neither stalls a session but its own. A
session whose hook has not answered by the deadline, raised, or answered anything else goes on, or is refused, as
`on_error` says.
"""

from l4lb.model.hooks import Accept, Decision, Reject, SessionInfo, ToBackend, ToPool

__all__ = ["Accept", "Decision", "Reject", "SessionInfo", "ToBackend", "ToPool"]
