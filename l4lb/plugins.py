"""What other packages add, by entry point. Loaded when a configuration names it, never before."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

POLICIES = "l4lb.policies"
HEALTH_CHECKS = "l4lb.health_checks"


@cache
def names(group: str) -> tuple[str, ...]:
    """What is installed for `group`, sorted."""
    return tuple(sorted({point.name for point in metadata.entry_points(group=group)}))


@cache
def load(group: str, name: str) -> Any:
    """The object that the entry point `name` of `group` refers to. LookupError when there is none; whatever importing
    it raises."""
    for point in metadata.entry_points(group=group):
        if point.name == name:
            return point.load()
    raise LookupError(f"no entry point {name} in {group}")
