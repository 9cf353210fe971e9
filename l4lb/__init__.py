"""l4lb: a layer-4 load balancer for Linux.

>>> from l4lb import Config, LoadBalancer
>>> with LoadBalancer(Config.load("lb.toml")) as lb:
...     print(lb.listeners["web"].addresses, lb.stats().sessions_total)
"""

import sys
from importlib import import_module

TYPE_CHECKING = False  # typing's own, without the time that importing it takes
if sys.platform != "linux":
    raise ImportError("l4lb runs on Linux only: it is built on epoll, splice and SO_REUSEPORT.")

if TYPE_CHECKING:
    from l4lb.balancer import LoadBalancer
    from l4lb.client import Client
    from l4lb.config import Backend, Config, Listener, Pool, Route
    from l4lb.control.state.events import Event
    from l4lb.control.state.feed import AsyncEventIterator, EventIterator
    from l4lb.errors import (
        AdminError,
        ChangeError,
        ConfigError,
        EngineError,
        L4lbError,
        Problem,
        UnknownNameError,
        UpgradeError,
        UsageError,
    )
    from l4lb.model.changes import Changes
    from l4lb.model.states import AdminState, Health, Protocol
    from l4lb.model.stats import Stats
    from l4lb.version import __version__

__all__ = [
    "AdminError",
    "AdminState",
    "AsyncEventIterator",
    "Backend",
    "ChangeError",
    "Changes",
    "Client",
    "Config",
    "ConfigError",
    "EngineError",
    "Event",
    "EventIterator",
    "Health",
    "L4lbError",
    "Listener",
    "LoadBalancer",
    "Pool",
    "Problem",
    "Protocol",
    "Route",
    "Stats",
    "UnknownNameError",
    "UpgradeError",
    "UsageError",
    "__version__",
]

# Imported when they are first asked for: commands and scripts that need little start in little time.
_PLACES = {
    "AdminError": "errors",
    "AdminState": "model.states",
    "AsyncEventIterator": "control.state.feed",
    "Backend": "config",
    "ChangeError": "errors",
    "Changes": "model.changes",
    "Client": "client",
    "Config": "config",
    "ConfigError": "errors",
    "EngineError": "errors",
    "Event": "control.state.events",
    "EventIterator": "control.state.feed",
    "Health": "model.states",
    "L4lbError": "errors",
    "Listener": "config",
    "LoadBalancer": "balancer",
    "Pool": "config",
    "Problem": "errors",
    "Protocol": "model.states",
    "Route": "config",
    "Stats": "model.stats",
    "UnknownNameError": "errors",
    "UpgradeError": "errors",
    "UsageError": "errors",
    "__version__": "version",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
