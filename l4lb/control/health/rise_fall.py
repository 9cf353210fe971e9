"""Rise and fall: when the results of a check change a target's health. Pure.

Results count in a row: one pass resets the count of failures, and the reverse. The first result decides the health of
an unknown target.
"""

from __future__ import annotations

from dataclasses import dataclass

from l4lb.model.states import Health


@dataclass(slots=True)
class Streak:
    """`count` is the number of results against `health` in a row."""

    rise: int
    fall: int
    health: Health = Health.UNKNOWN
    count: int = 0

    def add(self, ok: bool) -> bool:
        """Count one result; True when it changed `health`."""
        if self.health is Health.UNKNOWN:
            self.health = Health.UP if ok else Health.DOWN
            return True
        if ok == (self.health is Health.UP):
            self.count = 0
            return False
        self.count += 1
        if self.count < (self.rise if ok else self.fall):
            return False
        self.health = Health.UP if ok else Health.DOWN
        self.count = 0
        return True

    def needed(self, health: Health) -> int:
        """How many results in a row change it to `health`."""
        return self.rise if health is Health.UP else self.fall

    @property
    def changing(self) -> bool:
        return self.count > 0
