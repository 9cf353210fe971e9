"""Combinations of discovery options that cannot work, and types whose code does not exist."""

from __future__ import annotations

from collections.abc import Iterator

from l4lb.config.options.base import given
from l4lb.config.options.callables import load_discovery
from l4lb.config.options.discovery import NAME_EXPECTED, OPTIONS, REQUIRED, DiscoveryConfig, is_label, known_types

_SPECIFIC = frozenset(option for options in OPTIONS.values() for option in options) | {"options"}


def discovery_conflicts(settings: DiscoveryConfig) -> Iterator[tuple[str, str]]:
    """(key, message) for all that no single option shows. Imports the code that the type names."""
    if not settings.type:
        yield "type", f"missing: expected one of {', '.join(known_types())}"
        return
    try:
        has = _options_of(settings.type)
    except ValueError as error:
        yield "type", f'"{settings.type}": {error}'
        return
    for option in REQUIRED.get(settings.type, ()):
        if not getattr(settings, option):
            yield option, f'missing: type "{settings.type}" needs it'
    yield from _wrong_names(settings)
    if bool(settings.user) != bool(settings.password_file):
        yield "user" if settings.user else "password_file", "user and password_file belong together"
    if settings.key_file and not settings.cert_file:
        yield "key_file", "has no effect without cert_file"
    for option in (one for one in sorted(_SPECIFIC - set(has)) if given(settings, one)):
        yield option, f'has no effect with type "{settings.type}"'


def _wrong_names(settings: DiscoveryConfig) -> Iterator[tuple[str, str]]:
    if settings.type == "dns" and isinstance(settings.port, str):
        yield "port", f'"{settings.port}": expected a number from 1 to 65535'
    if settings.type == "kubernetes":
        for option in ("service", "namespace"):
            name = getattr(settings, option)
            if name and not is_label(name):
                yield option, f'"{name}": {NAME_EXPECTED}'


def _options_of(type_: str) -> tuple[str, ...]:
    if type_ in OPTIONS:
        return OPTIONS[type_]
    return tuple(getattr(load_discovery(type_), "options", ("options",)))
