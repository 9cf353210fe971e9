"""Entry points of other packages. Loaded when a configuration names one, never before."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

POLICIES = "l4lb.policies"
HEALTH_CHECKS = "l4lb.health_checks"
DISCOVERY = "l4lb.discovery"
RECORD_SINKS = "l4lb.record_sinks"


@cache
def names(group: str) -> tuple[str, ...]:
    """The entry points installed in `group`, sorted."""
    return tuple(sorted({point.name for point in metadata.entry_points(group=group)}))


@cache
def load(group: str, name: str) -> Any:
    """The object that the entry point `name` of `group` refers to. Raises LookupError when there is none, and whatever
    its import raises."""
    for point in metadata.entry_points(group=group):
        if point.name == name:
            return point.load()
    raise LookupError(f"no entry point {name} in {group}")
