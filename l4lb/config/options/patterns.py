"""Bytes to send and patterns to expect, as users write them in health checks. Pure.

``"text"``; ``"hex:0d0a"``, where blanks may stand between the bytes; ``"regex:..."`` (Python's syntax, on bytes) where
something is expected. Expected text is found anywhere in an answer; a regex can anchor it.
"""

from __future__ import annotations

import functools
import re
import warnings

HEX, REGEX = "hex:", "regex:"
HEX_EXPECTED = 'expected pairs of hexadecimal digits after "hex:"'


@functools.lru_cache(maxsize=1024)
def parse_bytes(text: str) -> bytes:
    """What `text` stands for; ValueError when it is no bytes."""
    if text.startswith(REGEX):
        raise ValueError('"regex:" is for what is expected, not for what is sent')
    if not text.startswith(HEX):
        return text.encode()
    try:
        return bytes.fromhex(text.removeprefix(HEX))
    except ValueError:
        raise ValueError(HEX_EXPECTED) from None


@functools.lru_cache(maxsize=1024)
def parse_pattern(text: str) -> re.Pattern[bytes]:
    """The pattern to search an answer for; ValueError when `text` is none."""
    if not text.startswith(REGEX):
        return re.compile(re.escape(parse_bytes(text)))
    try:
        with warnings.catch_warnings(action="ignore"):  # about syntax that may change in Python
            return re.compile(text.removeprefix(REGEX).encode())
    except (re.error, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    except (RecursionError, MemoryError):
        raise ValueError("not a regular expression: too much within each other") from None
