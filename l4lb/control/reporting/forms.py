"""Metrics as prometheus_client has them, of plain values. Pure: any thread."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from l4lb.model.stats import Histogram

Rows = Iterable[tuple[tuple[str, ...], float]]


def counter(name: str, meaning: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    """`name` without its ``_total``."""
    family = CounterMetricFamily(name, meaning, labels=labels)
    for values, count in rows:
        family.add_metric(values, count)
    return family


def gauge(name: str, meaning: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative, as the format wants them."""
    bounds = [*map(floatToGoString, histogram.bounds_s), "+Inf"]
    below, buckets = 0, []
    for bound, count in zip(bounds, histogram.counts, strict=True):
        below += count
        buckets.append((bound, float(below)))
    return buckets


def histogram(
    name: str, meaning: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for values, counted in rows:
        family.add_metric(values, _buckets(counted), counted.sum_s)
    return family


def total(histograms: list[Histogram]) -> Histogram:
    if not histograms:
        return Histogram()
    counts = tuple(map(sum, zip(*(one.counts for one in histograms), strict=True)))
    return Histogram(histograms[0].bounds_s, counts, sum(one.sum_s for one in histograms))
