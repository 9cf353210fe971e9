"""What is announced, as a function of what was seen and for how long. Pure: the clock is the caller's."""

from __future__ import annotations

from enum import IntEnum


class Level(IntEnum):
    """What routers should know of the addresses, from nothing to all."""

    WITHDRAWN = 0
    DRAINING = 1  # announced, but every other way there is better
    NORMAL = 2


class Hysteresis:
    """Between withdrawn and announced stands a time: addresses that come back have to be seen fit for `rise_s`, and
    unfit for `fall_s` before they go. Their first announcement waits for nothing, nor does a drain, which an operator
    begins and ends."""

    def __init__(self, rise_s: float, fall_s: float) -> None:
        self.level = Level.WITHDRAWN
        self._rise_s, self._fall_s = rise_s, fall_s
        self._since: float | None = None  # since when the other side of the border was seen
        self._announced_before = False

    def see(self, seen: Level, now: float, *, at_once: bool = False) -> Level:
        """`now` is in seconds of a clock that only goes forward; `at_once`: without `fall_s`."""
        if (seen is Level.WITHDRAWN) != (self.level is Level.WITHDRAWN):
            self._since = now if self._since is None else self._since
            if now - self._since < self._wait_s(seen, at_once):
                return self.level
        self._since = None
        self.level = seen
        self._announced_before |= seen is not Level.WITHDRAWN
        return seen

    def _wait_s(self, seen: Level, at_once: bool) -> float:
        if seen is Level.WITHDRAWN:
            return 0.0 if at_once else self._fall_s
        return self._rise_s if self._announced_before else 0.0
