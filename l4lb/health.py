"""For packages that add health checks: what their functions get and raise, and how they open connections.

A type is an entry point of the group ``l4lb.health_checks`` with the type's name, which leads to an async function of a
`Target`. It returns when the target is healthy and raises `CheckFailed` when it is not; it must not block, and must
release what it holds when it is cancelled, which is what happens at the time-out. `begin_step` names the step that a
time-out is reported with. Options of its own come in ``target.settings.options``, the table
``[pools.NAME.health.options]``; an attribute `options` of the function names the keys of ``[pools.NAME.health]`` that
it takes, ``("options",)`` when there is none.
"""

from l4lb.control.checks.checks import CheckFailed, Target, begin_step, shown
from l4lb.control.checks.datagram import open_datagrams
from l4lb.control.checks.stream import open_stream, open_tls

__all__ = ["CheckFailed", "Target", "begin_step", "open_datagrams", "open_stream", "open_tls", "shown"]
