"""``GET /metrics``: Prometheus' text format, or OpenMetrics for who asks for that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from l4lb.control.metrics.families import families
from l4lb.control.metrics.gathered import Gathered, Sources


class _Moment(Collector):
    """What was gathered at one moment."""

    def __init__(self, gathered: Gathered) -> None:
        self._gathered = gathered

    def collect(self) -> Iterable[Metric]:
        return families(self._gathered)


def exposition(gathered: Gathered, accept: str) -> tuple[bytes, str]:
    """The text, in the format that the header `accept` prefers, and its content type. Any thread; keeps nothing."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Moment(gathered))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class Metrics:
    """Answers scrapes. The text is made on another thread: with thousands of backends it takes long."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    async def render(self, accept: str) -> tuple[bytes, str]:
        return await asyncio.to_thread(exposition, self.sources.gather(), accept)
