"""For packages that add sources of backends: what their functions get and yield.

A type is an entry point in the group ``l4lb.discovery``, named like the type, that refers to an async generator
function of an `Asked`. It yields all backends that there are now, each time that it has looked: a list of entries as
in `backends`, or an `Answer` with more to say, or an exception as the reason why there is no answer now. One that
raises is begun again after a pause; the last answer stays meanwhile. It must not block, and must release what it
holds in a ``finally``, since it is closed where it waits. The type's own options are in ``asked.settings.options``,
from the table ``[pools.NAME.discovery.options]``. The function's attribute `options` names the keys of
``[pools.NAME.discovery]`` that it takes; the default is ``("options",)``.
"""

from l4lb.control.discovery.sources import Answer, Asked, NoAnswer

__all__ = ["Answer", "Asked", "NoAnswer"]
