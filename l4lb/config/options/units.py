"""Values with units, as users write them: durations, sizes, rates. Pure.

Each kind is one table of units and one sentence that says what is expected; the pydantic types below carry both into
error messages and into the JSON Schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)
_DURATION_UNITS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

DURATION_EXPECTED = 'expected a duration such as "250ms", "5s", "10m", "1h" or a number of seconds'
SIZE_EXPECTED = 'expected a size such as "64KiB", "10MB" or a number of bytes'
BANDWIDTH_EXPECTED = 'expected a bandwidth such as "10MiB/s" or "off"'
RATE_EXPECTED = 'expected a rate such as "100/s" or "off"'
LARGEST = 2**50  # a pebibyte a second; beyond it the data plane's sums of nanoseconds end
MAX_DURATION_S = 24 * 86400.0  # what the data plane's clock can compare
MAX_LONG_DURATION_S = 10 * 365 * 86400.0


def _number(value: object, units: dict[str, float] | dict[str, int], expected: str) -> float:
    """`value` in the base unit; ValueError with `expected` for anything else, negative or not finite included."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(expected)
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.fullmatch(value)
        if match is None or match[2] not in units:
            raise ValueError(expected)
        number = float(match[1]) * units[match[2]]
        if number > LARGEST:
            raise ValueError(expected)
        return number
    if not 0 <= value <= LARGEST:  # also nan, and integers that no float has
        raise ValueError(expected)
    return float(value)


def parse_duration(value: object) -> float:
    """Seconds, above 0."""
    seconds = _number(value, _DURATION_UNITS, DURATION_EXPECTED)
    if not 0 < seconds <= MAX_DURATION_S:
        raise ValueError(f"{DURATION_EXPECTED}, above 0 and at most 24 days")
    return seconds


def parse_long_duration(value: object) -> float:
    """Seconds, above 0: for what no timer of a worker has to count."""
    seconds = _number(value, _DURATION_UNITS, DURATION_EXPECTED)
    if not 0 < seconds <= MAX_LONG_DURATION_S:
        raise ValueError(f"{DURATION_EXPECTED}, above 0 and at most ten years")
    return seconds


def parse_size(value: object) -> int:
    """Bytes."""
    return round(_number(value, _SIZE_UNITS, SIZE_EXPECTED))


def _per_second(value: object, expected: str) -> str:
    if not isinstance(value, str) or not value.rstrip().endswith("/s"):
        raise ValueError(expected)
    return value.rstrip().removesuffix("/s")


def parse_bandwidth(value: object) -> float:
    """Bytes a second, at least 1."""
    rate = _number(_per_second(value, BANDWIDTH_EXPECTED), _SIZE_UNITS, BANDWIDTH_EXPECTED)
    if rate < 1:
        raise ValueError(f"{BANDWIDTH_EXPECTED}, at least 1B/s")
    return rate


def parse_rate(value: object) -> float:
    """Events a second, at least 1."""
    rate = _number(_per_second(value, RATE_EXPECTED), {"": 1}, RATE_EXPECTED)
    if rate < 1:
        raise ValueError(f"{RATE_EXPECTED}, at least 1/s")
    return rate


def _or_off(parse: Callable[[object], float]) -> Callable[[object], float]:
    """Also accept "off", and 0 as what "off" means inside."""

    def parse_or_off(value: object) -> float:
        if value == "off" or (value == 0 and not isinstance(value, bool)):
            return 0.0
        try:
            return parse(value)
        except ValueError as error:
            message = str(error)
            raise ValueError(message if '"off"' in message else f'{message}, or "off"') from None

    return parse_or_off


def _or_zero(value: object) -> float:
    return 0.0 if value in (0, "0", "0s") and not isinstance(value, bool) else parse_duration(value)


def _schema(description: str, examples: list[Any]) -> WithJsonSchema:
    return WithJsonSchema({"type": ["string", "number"], "description": description, "examples": examples})


Duration = Annotated[float, BeforeValidator(parse_duration), _schema(DURATION_EXPECTED, ["250ms", "5s"])]
LongDuration = Annotated[float, BeforeValidator(parse_long_duration), _schema(DURATION_EXPECTED, ["1h", "720h"])]
DurationOrOff = Annotated[float, BeforeValidator(_or_off(parse_duration)), _schema(DURATION_EXPECTED, ["10m", "off"])]
DurationOrZero = Annotated[float, BeforeValidator(_or_zero), _schema(f"{DURATION_EXPECTED}; 0: at once", ["30s", 0])]
Bandwidth = Annotated[float, BeforeValidator(_or_off(parse_bandwidth)), _schema(BANDWIDTH_EXPECTED, ["10MiB/s", "off"])]
Rate = Annotated[float, BeforeValidator(_or_off(parse_rate)), _schema(RATE_EXPECTED, ["100/s", "off"])]
