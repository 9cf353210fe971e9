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
    from l4lb.errors import AdminError, ChangeError, ConfigError, EngineError, L4lbError
    from l4lb.version import __version__

__all__ = [
    "AdminError",
    "Backend",
    "ChangeError",
    "Client",
    "Config",
    "ConfigError",
    "EngineError",
    "L4lbError",
    "Listener",
    "LoadBalancer",
    "Pool",
    "Route",
    "__version__",
]

# Imported when they are first asked for: commands and scripts that need little start in little time.
_PLACES = {
    "AdminError": "errors",
    "Backend": "config",
    "ChangeError": "errors",
    "Client": "client",
    "Config": "config",
    "ConfigError": "errors",
    "EngineError": "errors",
    "L4lbError": "errors",
    "Listener": "config",
    "LoadBalancer": "balancer",
    "Pool": "config",
    "Route": "config",
    "__version__": "version",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
