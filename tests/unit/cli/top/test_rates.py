"""Rates from counters, and bars of them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from l4lb.cli.top.state.rates import BARS, Rates, spark


def status(total: int, pid: int = 1, backend: str = "b") -> dict[str, Any]:
    counters = {"sessions_total": total, "bytes_up": 10 * total, "bytes_down": 0}
    pool = {"name": "web", **counters, "backends": [{"id": backend, **counters}]}
    listener = {"name": "l", "sessions_total": total, "in_kernel": None}
    worker = {"worker": 0, "busy_s": total / 10, "spliced_bytes": 0}
    return {"pid": pid, "pools": [pool], "listeners": [listener], "workers": [worker]}


def test_rates_are_differences_by_time() -> None:
    rates = Rates()
    for at, total in ((0, 5), (2, 15), (3, 15)):
        rates.feed(status(total), at)
    for key in (("total",), ("pool", "web"), ("backend", "web", "b"), ("listener", "l")):
        assert list(rates.history(key, "sessions_total")) == [5, 0]
    assert list(rates.history(("total",), "bytes_up")) == [50, 0]
    assert list(rates.history(("worker", "0"), "busy_s")) == [0.5, 0]
    assert rates.now(("backend", "web", "other"), "bytes_up") == 0


def test_packets_of_a_listener_that_the_kernel_forwards() -> None:
    """Down there are none to be seen."""
    rates = Rates()
    for at, packets in ((0, 7), (1, 10)):
        read = status(5)
        traffic = {"packets_up": packets, "packets_down": None}
        read["listeners"][0]["in_kernel"] = {"mode": "dsr", "devices": [], "traffic": traffic}
        rates.feed(read, at)
    assert rates.now(("listener", "l"), "packets_up") == 3
    assert rates.knows(("listener", "l"), "packets_up")
    assert not rates.knows(("listener", "l"), "packets_down")
    assert not rates.knows(("listener", "other"), "packets_up")


def test_another_process_and_what_is_new_begin_anew() -> None:
    rates = Rates()
    rates.feed(status(100), 0)
    rates.feed(status(200), 1)
    rates.feed(status(3, pid=2), 2)
    assert list(rates.history(("total",), "sessions_total")) == []
    rates.feed(status(4, pid=2, backend="new"), 3)
    assert rates.now(("total",), "sessions_total") == 1
    assert list(rates.history(("backend", "web", "new"), "sessions_total")) == []
    rates.feed(status(2, pid=2, backend="new"), 4)
    assert rates.now(("backend", "web", "new"), "sessions_total") == 0, "never below 0"


@given(st.lists(st.floats(0, 1e12), max_size=50), st.integers(1, 30))
def test_bars(values: list[float], width: int) -> None:
    bars = spark(values, width)
    shown = values[-width:]
    assert len(bars) == width
    assert len(bars.strip()) == len(shown)
    if shown and max(shown) > 0:
        assert bars.strip()[shown.index(max(shown))] == BARS[-1]
        assert all(bar == BARS[0] for bar, value in zip(bars.strip(), shown, strict=True) if value == 0)
