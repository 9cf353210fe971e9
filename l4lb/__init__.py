"""l4lb: a layer-4 load balancer for Linux.

>>> from l4lb import Config, LoadBalancer
>>> with LoadBalancer(Config.load("lb.toml")) as lb:
...     print(lb.listeners["web"].addresses, lb.stats().sessions_total)
"""

import sys

if sys.platform != "linux":
    raise ImportError("l4lb runs on Linux only: it is built on epoll, splice and SO_REUSEPORT.")

from l4lb.balancer import LoadBalancer
from l4lb.client import Client
from l4lb.config import Backend, Config, Listener, Pool
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
    "__version__",
]
