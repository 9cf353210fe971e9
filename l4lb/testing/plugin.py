"""pytest's plug-in, by the entry point ``pytest11``: fixtures for tests of clients. It imports l4lb when one is used.

Each test gets pools of its own, which end with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from l4lb.testing.pools import BackendPool
    from l4lb.testing.tcp import TcpBackend
    from l4lb.testing.udp import UdpBackend


@pytest.fixture
def l4lb_make_pool() -> Iterator[Callable[..., BackendPool[Any]]]:
    """`l4lb.testing.make_pool`, for any number of pools: ``l4lb_make_pool("udp", backends=2, policy="maglev")``."""
    from l4lb.testing.pools import make_pool

    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(make_pool(*args, **options))


@pytest.fixture
def l4lb_pool(l4lb_make_pool: Callable[..., BackendPool[Any]]) -> BackendPool[TcpBackend]:
    """Three TCP backends that echo, behind a balancer."""
    return l4lb_make_pool("tcp")


@pytest.fixture
def l4lb_http_pool(l4lb_make_pool: Callable[..., BackendPool[Any]]) -> BackendPool[TcpBackend]:
    """Three HTTP/1.1 backends that answer each request with their name, behind a balancer."""
    return l4lb_make_pool("http")


@pytest.fixture
def l4lb_udp_pool(l4lb_make_pool: Callable[..., BackendPool[Any]]) -> BackendPool[UdpBackend]:
    """Three UDP backends that echo, behind a balancer."""
    return l4lb_make_pool("udp")
