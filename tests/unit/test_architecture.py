"""ARCHITECTURE.md names functions that exist."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = Path("ARCHITECTURE.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(l4lb/[\w/.]+):(\w+)`", TEXT)))
PLACES = sorted(set(re.findall(r"`(l4lb/[\w/]+\.(?:py|pyx|pxd))`", TEXT)))


def test_every_named_function_exists() -> None:
    assert len(NAMED) >= 20
    for place, function in NAMED:
        pattern = rf"^\s*(?:async def|def|cdef inline [^\n]*?)\s*\*?{function}\("
        assert re.search(pattern, Path(place).read_text(encoding="utf-8"), re.MULTILINE), f"{place}:{function}"


def test_every_named_file_exists() -> None:
    for place in PLACES:
        assert Path(place).exists(), place
