from __future__ import annotations

import pytest

from l4lb.config.options import units


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("5s", 5), ("10m", 600), ("1h", 3600), (2, 2), (0.5, 0.5), ("1.5s", 1.5)]
)
def test_durations(text: object, seconds: float) -> None:
    assert units.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "wrong", ["5 parsecs", "", "-1s", -1, 0, "0s", True, None, "s", float("nan"), float("inf"), "99d"]
)
def test_wrong_durations_say_what_was_expected(wrong: object) -> None:
    with pytest.raises(ValueError, match='expected a duration such as "250ms"'):
        units.parse_duration(wrong)


@pytest.mark.parametrize(("text", "count"), [("64KiB", 65536), ("10MB", 10_000_000), (7, 7), ("1GiB", 2**30)])
def test_sizes(text: object, count: int) -> None:
    assert units.parse_size(text) == count


@pytest.mark.parametrize(("text", "rate"), [("10MiB/s", 10 * 2**20), ("1B/s", 1), ("500/s", 500)])
def test_bandwidths(text: str, rate: float) -> None:
    assert units.parse_bandwidth(text) == rate


@pytest.mark.parametrize("wrong", ["10MiB", "0B/s", 10, "10MiB/m"])
def test_wrong_bandwidths(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected a bandwidth"):
        units.parse_bandwidth(wrong)


def test_rates() -> None:
    assert units.parse_rate("100/s") == 100
    for wrong in ("100", "0/s", "1k/s", 5):
        with pytest.raises(ValueError, match="expected a rate"):
            units.parse_rate(wrong)
