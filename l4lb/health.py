"""For packages that add health checks: what their functions get and raise, and how they open connections.

A type is an entry point in the group ``l4lb.health_checks``, named like the type, that refers to an async function of a
`Target`. The function returns when the target is healthy and raises `CheckFailed` when it is not. It must not block,
and must release what it holds when it is cancelled, as happens at the time-out. `begin_step` names the step with which
a time-out is reported. The type's own options are in ``target.settings.options``, from the table
``[pools.NAME.health.options]``. The function's attribute `options` names the keys of ``[pools.NAME.health]`` that it
takes; the default is ``("options",)``.
"""

from l4lb.control.checks.checks import CheckFailed, Target, begin_step, shown
from l4lb.control.checks.datagram import open_datagrams
from l4lb.control.checks.stream import open_stream, open_tls

__all__ = ["CheckFailed", "Target", "begin_step", "open_datagrams", "open_stream", "open_tls", "shown"]
