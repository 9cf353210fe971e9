"""Times, sizes and switches of nginx. Pure."""

from __future__ import annotations

import re

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "M": 2592000.0, "y": 31536000.0}
_PART = re.compile(r"([0-9]{1,12})(ms|[smhdwMy])?[ ]*", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,12})([kKmMgG]?)", re.ASCII)
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
PARTS_MAX = 8


def seconds_of(text: str) -> float | None:
    """Of a time such as 10s, 1h30m or 90; None for what is none."""
    at, total = 0, 0.0
    for _ in range(PARTS_MAX):
        match = _PART.match(text, at)
        if match is None:
            return None
        total += int(match[1]) * _UNITS[match[2] or "s"]
        at = match.end()
        if at == len(text):
            return total
    return None


def bytes_of(text: str) -> int | None:
    """Of a size such as 512k."""
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _FACTORS[match[2].lower()] if match else None
