"""Lines of the access log, read back as other programs read them."""

from __future__ import annotations

import json
import re
from pathlib import Path

KEYS = [
    "time", "listener", "pool", "backend", "client", "client_port", "local", "session_id", "bytes_up", "bytes_down",
    "connect_ms", "duration_ms", "attempts", "close_reason", "spliced", "sni",
]  # fmt: skip
_PAIR = re.compile(r'([\w.]+)=("(?:[^"\\]|\\.)*"|[^ "]*)(?: |$)')


def parse_text(line: str) -> dict[str, str]:
    """``key=value`` pairs; AssertionError for what is none."""
    pairs, end = {}, 0
    for match in _PAIR.finditer(line):
        assert match.start() == end, line
        end = match.end()
        pairs[match[1]] = json.loads(match[2]) if match[2].startswith('"') else match[2]
    assert end == len(line), line
    return pairs


def read_text(path: Path) -> list[dict[str, str]]:
    """All lines of a file, each of which is whole."""
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [parse_text(line) for line in text.splitlines()]
