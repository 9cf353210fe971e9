"""``GET /metrics``: Prometheus' text format, or OpenMetrics when the request asks for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from l4lb.control.reporting.families import families
from l4lb.control.reporting.gathered import Gathered, Sources


class _Moment(Collector):
    """What was gathered at one moment."""

    def __init__(self, gathered: Gathered) -> None:
        self._gathered = gathered

    def collect(self) -> Iterable[Metric]:
        yield from families(self._gathered)
        yield from _descriptors()


def _descriptors() -> Iterable[Metric]:
    """Counted here and not while gathering: counting a hundred thousand takes tens of milliseconds. Left out when they
    cannot be read: a process that gave up root may not look."""
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process()
        yield GaugeMetricFamily("process_max_fds", "Most descriptors", process.rlimit(psutil.RLIMIT_NOFILE)[0])
        yield GaugeMetricFamily("process_open_fds", "Descriptors in use", process.num_fds())


def exposition(gathered: Gathered, accept: str) -> tuple[bytes, str]:
    """The text, in the format that the header `accept` prefers, and its content type. Any thread; keeps nothing."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Moment(gathered))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class Metrics:
    """Answers scrapes. The text is made on another thread: with thousands of backends it takes long."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    async def render(self, accept: str) -> tuple[bytes, str]:
        return await asyncio.to_thread(exposition, self.sources.gather(), accept)
