"""Combinations of health check options that cannot work, and options that name code which does not exist."""

from __future__ import annotations

from collections.abc import Iterator

from l4lb.config.options.base import given
from l4lb.config.options.callables import load_callable, load_health_check
from l4lb.config.options.health import OPTIONS, HealthConfig

_SPECIFIC = frozenset(option for options in OPTIONS.values() for option in options)


def health_conflicts(settings: HealthConfig) -> Iterator[tuple[str, str]]:
    """(key, message) for all that no single option shows. Imports the code that the settings name."""
    key = "callable" if settings.type == "python" else "type"
    try:
        has = _options_of(settings.type)
        if settings.type == "python":
            load_callable(settings.callable)
    except ValueError as error:
        yield key, f'"{getattr(settings, key)}": {error}'
        return
    for option in (one for one in sorted(_SPECIFIC - set(has)) if given(settings, one)):
        yield option, f'has no effect with type "{settings.type}"'
    if settings.type in ("http", "https") and settings.method == "HEAD" and settings.expect_body:
        yield "expect_body", "has no effect with method HEAD, whose answers have no body"


def _options_of(type_: str) -> tuple[str, ...]:
    if type_ in OPTIONS:
        return OPTIONS[type_]
    return tuple(getattr(load_health_check(type_), "options", ("options",)))
