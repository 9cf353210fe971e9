"""Which backends are called slow: those far above the pool's median, and nobody by chance."""

from __future__ import annotations

import pytest

from l4lb.control.process.of_latency import SLOW_SAMPLES, Latencies, slow
from l4lb.model.stats import BackendLatency, Latency


def taking(first_byte_s: float, connect_s: float = 0.001, count: int = SLOW_SAMPLES) -> BackendLatency:
    first_byte = Latency(count, first_byte_s, first_byte_s, first_byte_s, first_byte_s)
    return BackendLatency(Latency(count, connect_s, connect_s, connect_s, connect_s), first_byte, Latency())


def test_the_slow_one_is_named_with_what_is_slow() -> None:
    known = {"a": taking(0.03), "b": taking(0.24), "c": taking(0.028), "d": taking(0.03, 1.5)}
    assert slow(known) == {
        "b": "first byte p50 is 240 ms, 8 times its pool's",
        "d": "connect p50 is 1.5 s, 1500 times its pool's",
    }


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({"a": taking(0.3)}, "there is nobody to compare it with"),
        ({"a": taking(0.3), "b": taking(0.3)}, "all are alike"),
        ({"a": taking(0.3), "b": taking(0.3), "c": taking(0.01)}, "one that is fast makes no other slow"),
        ({"a": taking(0.03), "b": taking(0.14)}, "less than five times"),
        ({"a": taking(0.0002), "b": taking(0.019)}, "nobody minds 20 ms"),
        ({"a": taking(0.03), "b": taking(0.3, count=SLOW_SAMPLES - 1)}, "too few samples"),
        ({"a": taking(0.03, count=SLOW_SAMPLES - 1), "b": taking(0.3)}, "too few to compare with"),
        ({"a": BackendLatency(), "b": BackendLatency()}, "nothing was measured"),
        ({}, "there are none"),
    ],
)
def test_nobody_is_slow(known: dict[str, BackendLatency], why: str) -> None:
    assert slow(known) == {}, why


def test_of_two_the_slower_one_is_slow() -> None:
    assert set(slow({"a": taking(0.01), "b": taking(0.05)})) == {"b"}


def test_what_is_not_measured_is_null_and_not_zero() -> None:
    latencies = Latencies({"a": BackendLatency(connect=Latency(2, 0.1, 0.2, 0.3, 0.4))})
    assert latencies.of("of the kernel") is None
    nothing = {"count": 0, "mean_s": None, "p50_s": None, "p90_s": None, "p99_s": None}
    assert latencies.of("a") == {
        "connect": {"count": 2, "mean_s": 0.1, "p50_s": 0.2, "p90_s": 0.3, "p99_s": 0.4},
        "first_byte": nothing,
        "session": nothing,
    }
