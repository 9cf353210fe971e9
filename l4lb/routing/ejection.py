"""Whether a backend that fails real traffic may be ejected, and for how long. Pure."""

from __future__ import annotations

MAX_EJECTIONS = 10  # more do not make the next one longer


def refusal(wanted: int, ejected: int, usable: int, max_ejected_percent: int) -> str:
    """Why one more of `wanted` backends (all ready ones of the pool) may not be ejected; "" when it may.

    `ejected` are out already; `usable` would be left besides the one in question.
    """
    if usable == 0:
        return "it is the last one that is usable"
    if 100 * (ejected + 1) > max_ejected_percent * wanted:
        return f"max_ejected_percent is {max_ejected_percent}, and {ejected} of {wanted} are ejected"
    return ""


def ejections_left(ejections: int, served_s: float, eject_for_s: float) -> int:
    """How many of its former ejections still count: one is forgotten for each eject_for that it served since."""
    return max(0, ejections - int(served_s // eject_for_s)) if eject_for_s else 0


def duration_s(ejections: int, eject_for_s: float) -> float:
    """The duration of the ejection with that number, from 1."""
    return eject_for_s * min(ejections, MAX_EJECTIONS)
