"""For code that decides about sessions, or hears of their end: what a hook gets, and what it may answer.

``on_session`` is a function of a `SessionInfo`, plain or async, that `LoadBalancer.on_session` is given, or that is
called so in the module that ``[hooks] module`` names. It is asked about each new session of a TCP listener, and answers

- None, True or `Accept`: the session goes on;
- False or `Reject`: the client is refused;
- `ToPool`, `ToBackend`: the session goes there.

All four take `tags`, a dict of str by str, which access log, records and lists of sessions show: at most 16, whose
names are like identifiers of up to 64 characters, and whose values have up to 256.

A plain function runs on a thread, an async one on an event loop of its own; neither stalls a session but its own. A
session whose hook has not answered by the deadline, raised, or answered anything else goes on, or is refused, as
`on_error` says.

``on_close`` is a function of a record, plain or async, that `LoadBalancer.on_close` is given, or that is called so in
that module. It is called for each session that has ended, of TCP or UDP, with a dict that has the keys of the access
log, see `l4lb.records`. Nobody waits for it.
"""

from l4lb.model.hooks import Accept, Decision, Reject, SessionInfo, ToBackend, ToPool

__all__ = ["Accept", "Decision", "Reject", "SessionInfo", "ToBackend", "ToPool"]
