"""Values with units, as users write them: durations, sizes, rates. Pure.

Each kind is one table of units and one sentence that says what is expected; the pydantic types below carry both into
error messages and into the JSON Schema.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, SerializationInfo, WithJsonSchema

from l4lb.model.durations import (
    DURATION_EXPECTED,
    DURATION_UNITS,
    number,
    parse_duration,
    parse_long_duration,
)

_SIZE_UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

SIZE_EXPECTED = 'expected a size such as "64KiB", "10MB" or a number of bytes'
BANDWIDTH_EXPECTED = 'expected a bandwidth such as "10MiB/s" or "off"'
RATE_EXPECTED = 'expected a rate such as "100/s" or "off"'


def parse_size(value: object) -> int:
    """Bytes."""
    return round(number(value, _SIZE_UNITS, SIZE_EXPECTED))


def _per_second(value: object, expected: str) -> str:
    if not isinstance(value, str) or not value.rstrip().endswith("/s"):
        raise ValueError(expected)
    return value.rstrip().removesuffix("/s")


def parse_bandwidth(value: object) -> float:
    """Bytes a second, at least 1."""
    rate = number(_per_second(value, BANDWIDTH_EXPECTED), _SIZE_UNITS, BANDWIDTH_EXPECTED)
    if rate < 1:
        raise ValueError(f"{BANDWIDTH_EXPECTED}, at least 1B/s")
    return rate


def parse_rate(value: object) -> float:
    """Events a second, at least 1."""
    rate = number(_per_second(value, RATE_EXPECTED), {"": 1}, RATE_EXPECTED)
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


# ---- the way back: the shortest text that is read as the same value ----

AS_WRITTEN = "as written"  # the context of `model_dump` with which values have their units


def duration_text(seconds: float) -> float | str:
    for unit in ("d", "h", "m", "s", "ms", "us"):
        number = round(seconds / DURATION_UNITS[unit])
        if number and _same(f"{number}{unit}", parse_long_duration, seconds):
            return f"{number}{unit}"
    return seconds or "off"


def bandwidth_text(bytes_a_second: float) -> str:
    for unit in ("GiB", "GB", "MiB", "MB", "KiB", "kB"):
        number = round(bytes_a_second / _SIZE_UNITS[unit])
        if number and _same(f"{number}{unit}/s", parse_bandwidth, bytes_a_second):
            return f"{number}{unit}/s"
    return f"{_number_text(bytes_a_second)}B/s" if bytes_a_second else "off"


def rate_text(per_second: float) -> str:
    return f"{_number_text(per_second)}/s" if per_second else "off"


def _number_text(number: float) -> str:
    return repr(number).removesuffix(".0")


def _same(text: str, parse: Callable[[object], float], value: float) -> bool:
    try:
        return parse(text) == value
    except ValueError:
        return False


def _written(text_of: Callable[[float], float | str]) -> PlainSerializer:
    def serialize(value: float, info: SerializationInfo) -> Any:
        return text_of(value) if info.context == AS_WRITTEN else value

    return PlainSerializer(serialize)


_DURATION_TEXT, _BANDWIDTH_TEXT, _RATE_TEXT = map(_written, (duration_text, bandwidth_text, rate_text))
_ZERO_TEXT = _written(lambda seconds: duration_text(seconds) if seconds else 0)


def _schema(description: str, examples: list[Any]) -> WithJsonSchema:
    return WithJsonSchema({"type": ["string", "number"], "description": description, "examples": examples})


Duration = Annotated[
    float, BeforeValidator(parse_duration), _schema(DURATION_EXPECTED, ["250ms", "5s"]), _DURATION_TEXT
]
LongDuration = Annotated[
    float, BeforeValidator(parse_long_duration), _schema(DURATION_EXPECTED, ["1h", "720h"]), _DURATION_TEXT
]
DurationOrOff = Annotated[
    float, BeforeValidator(_or_off(parse_duration)), _schema(DURATION_EXPECTED, ["10m", "off"]), _DURATION_TEXT
]
DurationOrZero = Annotated[
    float, BeforeValidator(_or_zero), _schema(f"{DURATION_EXPECTED}; 0: at once", ["30s", 0]), _ZERO_TEXT
]
Bandwidth = Annotated[
    float, BeforeValidator(_or_off(parse_bandwidth)), _schema(BANDWIDTH_EXPECTED, ["10MiB/s", "off"]), _BANDWIDTH_TEXT
]
Rate = Annotated[float, BeforeValidator(_or_off(parse_rate)), _schema(RATE_EXPECTED, ["100/s", "off"]), _RATE_TEXT]
