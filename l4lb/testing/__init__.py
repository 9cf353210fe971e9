"""For those who test their own clients: real backends behind a real balancer on a free port, with faults to switch.

With pytest there are fixtures (`l4lb.testing.plugin`); elsewhere:

>>> from l4lb.testing import make_pool
>>> with make_pool("tcp", backends=3) as pool:
...     pool.backends[0].refuse()
...     my_client.connect(pool.host, pool.port)
"""

from importlib import import_module

TYPE_CHECKING = False  # typing's own, without the time that importing it takes
if TYPE_CHECKING:
    from l4lb.testing.faults import Fault
    from l4lb.testing.pools import BackendPool, make_pool
    from l4lb.testing.tcp import TcpBackend
    from l4lb.testing.udp import UdpBackend

__all__ = ["BackendPool", "Fault", "TcpBackend", "UdpBackend", "make_pool"]

# pytest imports this package in every run, with its plug-in: the rest waits until it is used.
_PLACES = {"BackendPool": "pools", "Fault": "faults", "TcpBackend": "tcp", "UdpBackend": "udp", "make_pool": "pools"}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
