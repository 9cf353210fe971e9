"""The result of a reload or change. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Changes:
    """How many were added, removed and changed, by kind.

    `needs_restart`: keys of the file that a running process cannot change and that differ from those at its start.
    """

    pools: tuple[int, int, int] = (0, 0, 0)
    backends: tuple[int, int, int] = (0, 0, 0)
    listeners: tuple[int, int, int] = (0, 0, 0)
    needs_restart: tuple[str, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """By kind, then by what became of them."""
        words = ("added", "removed", "changed")
        kinds = {"pools": self.pools, "backends": self.backends, "listeners": self.listeners}
        return {kind: dict(zip(words, numbers, strict=True)) for kind, numbers in kinds.items()}
