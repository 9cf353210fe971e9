"""Where a value stands in a configuration: the keys and indices that lead to it. Pure."""

from __future__ import annotations

from typing import Protocol

Path = tuple[str | int, ...]


def path_text(path: Path) -> str:
    """``("pools", "web", "backends", 0)`` as ``pools.web.backends[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


class Lines(Protocol):
    """On which line of its file each value stands."""

    def line_of(self, path: Path) -> int:
        """1 for the first line; 0 for a value that is not in the file."""
