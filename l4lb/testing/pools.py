"""A pool of backends and the balancer in front of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar, overload

from l4lb.balancer import LoadBalancer
from l4lb.config import AdminConfig, Config, GlobalConfig, Listener, Pool
from l4lb.errors import UsageError
from l4lb.model.stats import PoolStats
from l4lb.testing import services
from l4lb.testing.services import Service
from l4lb.testing.tcp import TcpBackend
from l4lb.testing.udp import UdpBackend

AnyBackend = TypeVar("AnyBackend", TcpBackend, UdpBackend)
NAME = "pool"  # of the listener and of the pool
# What could get between a fault and the client that is tested is off, unless the test asks for it.
_DEFAULTS: dict[str, Any] = {"health": {"type": "none"}, "passive": {"failures": 0}}


class BackendPool(Generic[AnyBackend]):
    """`backends` behind `balancer`, which accepts clients at `address`."""

    backends: list[AnyBackend]

    def __init__(self, balancer: LoadBalancer, backends: list[AnyBackend]) -> None:
        self.balancer = balancer
        self.backends = backends
        self.address = balancer.listeners[NAME].addresses[0]
        host, _, port = self.address.rpartition(":")
        self.host, self.port = host, int(port)

    def __repr__(self) -> str:
        return f"<BackendPool {self.address}: {', '.join(backend.name for backend in self.backends)}>"

    @property
    def stats(self) -> PoolStats:
        """The balancer's counters of the pool, read now."""
        return self.balancer.stats().pools[NAME]

    def heal(self) -> None:
        """End all faults of all backends."""
        for backend in self.backends:
            backend.heal()


@overload
def make_pool(
    kind: Literal["tcp", "http"] = "tcp",
    backends: int = 3,
    *,
    service: Service | None = None,
    listener: Mapping[str, Any] | None = None,
    **settings: Any,
) -> contextlib.AbstractContextManager[BackendPool[TcpBackend]]: ...


@overload
def make_pool(
    kind: Literal["udp"],
    backends: int = 3,
    *,
    service: Service | None = None,
    listener: Mapping[str, Any] | None = None,
    **settings: Any,
) -> contextlib.AbstractContextManager[BackendPool[UdpBackend]]: ...


def make_pool(
    kind: str = "tcp",
    backends: int = 3,
    *,
    service: Service | None = None,
    listener: Mapping[str, Any] | None = None,
    **settings: Any,
) -> contextlib.AbstractContextManager[BackendPool[Any]]:
    """A context manager of a pool with that many backends.

    `kind` is ``tcp`` (they echo), ``http`` (they answer with their names) or ``udp`` (they echo). `service` lets them
    answer something else: it gets a backend's name and returns, for each connection, a function from the bytes that
    came to those to send. `listener` and `settings` are options as in the configuration, such as ``policy="maglev"``,
    ``connect_timeout="1s"`` or ``health={"interval": "50ms"}``; health checks and passive ejection are off by default.
    Raises `l4lb.errors.UsageError` for another kind, and ConfigError.
    """
    known = {"tcp": services.echo, "http": services.http, "udp": services.echo}
    if kind not in known:
        raise UsageError(f'make_pool: "{kind}": expected {", ".join(known)}')
    if backends < 1:
        raise UsageError("make_pool: expected at least one backend")
    return _running(kind, backends, service or known[kind], dict(listener or {}), settings)


@contextlib.contextmanager
def _running(
    kind: str, count: int, service: Service, listener: dict[str, Any], settings: dict[str, Any]
) -> Iterator[BackendPool[Any]]:
    made = UdpBackend if kind == "udp" else TcpBackend
    with contextlib.ExitStack() as stack:
        servers: list[Any] = []
        for number in range(count):
            servers.append(made(f"backend-{number + 1}", service))
            stack.callback(servers[-1].stop)
        protocol = "udp" if kind == "udp" else "tcp"
        config = Config(
            global_=GlobalConfig(workers=1),
            admin=AdminConfig(bind="off"),
            listeners={NAME: Listener(**{"bind": "127.0.0.1:0", "pool": NAME, "protocol": protocol, **listener})},
            pools={NAME: Pool(**{**_DEFAULTS, "backends": [one.address for one in servers], **settings})},
        )
        yield BackendPool(stack.enter_context(LoadBalancer(config)), servers)
