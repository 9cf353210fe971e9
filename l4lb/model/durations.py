"""Durations as users write them, and the numbers with units that other options share. Pure, and quick to import: `l4lb
health` is started each second."""

from __future__ import annotations

import re

DURATION_UNITS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION_EXPECTED = 'expected a duration such as "250ms", "5s", "10m", "1h" or a number of seconds'
LARGEST = 2**50  # a pebibyte a second; beyond it the data plane's sums of nanoseconds end
MAX_DURATION_S = 24 * 86400.0  # what the data plane's clock can compare
MAX_LONG_DURATION_S = 10 * 365 * 86400.0
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def number(value: object, units: dict[str, float] | dict[str, int], expected: str) -> float:
    """`value` in the base unit; ValueError with `expected` for anything else, negative or not finite included."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(expected)
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.fullmatch(value)
        if match is None or match[2] not in units:
            raise ValueError(expected)
        found = float(match[1]) * units[match[2]]
        if found > LARGEST:
            raise ValueError(expected)
        return found
    if not 0 <= value <= LARGEST:  # also nan, and integers that no float has
        raise ValueError(expected)
    return float(value)


def parse_duration(value: object) -> float:
    """Seconds, above 0."""
    seconds = number(value, DURATION_UNITS, DURATION_EXPECTED)
    if not 0 < seconds <= MAX_DURATION_S:
        raise ValueError(f"{DURATION_EXPECTED}, above 0 and at most 24 days")
    return seconds


def parse_long_duration(value: object) -> float:
    """Seconds, above 0: for what no timer of a worker has to count."""
    seconds = number(value, DURATION_UNITS, DURATION_EXPECTED)
    if not 0 < seconds <= MAX_LONG_DURATION_S:
        raise ValueError(f"{DURATION_EXPECTED}, above 0 and at most ten years")
    return seconds
