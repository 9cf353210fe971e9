"""A `LoadBalancer` in the test's own process, with no admin API and listeners on free ports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from l4lb import Config, Listener, LoadBalancer, Pool
from l4lb.config import AdminConfig, GlobalConfig, HealthConfig
from l4lb.control.state.events import Event
from l4lb.errors import EngineError
from l4lb.model.states import CloseReason
from tests.support.waiting import wait_until

NO_CHECKS = HealthConfig(type="none")


def make_config(
    backends: list[Any], *, workers: int = 2, listener: dict[str, Any] | None = None, **pool: Any
) -> Config:
    """One listener on 127.0.0.1:0 and one pool, both called web. Health checks are off unless asked for."""
    return Config(
        global_=GlobalConfig(workers=workers),
        admin=AdminConfig(bind="off"),
        listeners={"web": Listener(**{"bind": "127.0.0.1:0", "pool": "web", **(listener or {})})},
        pools={"web": Pool(**{"backends": backends, "health": NO_CHECKS, **pool})},
    )


@contextlib.contextmanager
def balancing(backends: list[Any], **options: Any) -> Iterator[LoadBalancer]:
    with LoadBalancer(make_config(backends, **options)) as balancer:
        yield balancer


def fields_of(balancer: LoadBalancer, heard: list[Event], kind: str) -> list[dict[str, object]]:
    """Of those events of that kind that belong to what can be seen by now. The control loop may be in the middle of a
    step, whose result is there and whose event is not yet: the step is ended first."""
    with contextlib.suppress(EngineError):  # closed
        balancer.run(asyncio.sleep(0))
    return [event.fields for event in heard if event.kind == kind]


def address_of(balancer: LoadBalancer) -> str:
    return balancer.listeners["web"].addresses[0]


def closed(balancer: LoadBalancer) -> dict[CloseReason, int]:
    return balancer.stats().listeners["web"].closed


def wait_closed(balancer: LoadBalancer, reason: CloseReason, count: int = 1) -> None:
    """Wait until that many sessions have ended for `reason`."""
    assert wait_until(lambda: closed(balancer).get(reason, 0) >= count), closed(balancer)


def wait_idle(balancer: LoadBalancer) -> None:
    assert wait_until(lambda: balancer.stats().sessions_left == 0), balancer.stats()
