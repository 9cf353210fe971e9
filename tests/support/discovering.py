"""Pools whose backends come from a source."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from l4lb import LoadBalancer
from l4lb.control.state.events import Event
from tests.support.balancing import fields_of, make_config
from tests.support.waiting import wait_until


@dataclass
class Discovering:
    balancer: LoadBalancer
    heard: list[Event] = field(default_factory=list)

    @property
    def pool(self) -> Any:
        return self.balancer.status()["pools"][0]

    @property
    def said(self) -> Any:
        """Of the source."""
        return self.pool["discovery"]

    @property
    def backends(self) -> list[str]:
        return sorted(self.balancer.pools["web"])

    @property
    def version(self) -> int:
        return self.balancer.plane.reconciler.version

    def of(self, kind: str) -> list[dict[str, object]]:
        return fields_of(self.balancer, self.heard, kind)

    def settle(self) -> None:
        """Until workers go by what the pool has."""
        assert wait_until(lambda: self.balancer.plane.reconciler.settled and not self.applying.locked())

    @property
    def applying(self) -> asyncio.Lock:
        return self.balancer.plane.applying.one_at_a_time

    def wait_for(self, *backends: str) -> None:
        """Until the pool has these and no others, and workers go by that."""
        assert wait_until(lambda: self.backends == sorted(backends)), (self.backends, self.said)
        self.settle()


@contextlib.contextmanager
def discovering(source: dict[str, Any], backends: tuple[Any, ...] = (), **options: Any) -> Iterator[Discovering]:
    config = make_config(list(backends), discovery=source, **options)
    with LoadBalancer(config) as balancer:
        found = Discovering(balancer)
        balancer.plane.events.subscribe(found.heard.append)
        yield found
