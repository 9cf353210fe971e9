"""`l4lb serve` without a file, and flags over a file: the same checks, with the flag as the place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from l4lb.errors import ConfigError, Problem

NAME = "default"  # of the listener and pool that flags make


@dataclass(frozen=True, slots=True)
class Flags:
    """What was given on the command line; None or empty where nothing was."""

    listen: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    policy: str | None = None
    protocol: str | None = None
    workers: str | None = None
    admin: str | None = None
    log_level: str | None = None

    @property
    def any_routing(self) -> bool:
        return bool(self.listen or self.backends or self.policy or self.protocol)


@dataclass(slots=True)
class _Overlay:
    """Raw data under construction, with the flag that each path came from."""

    data: dict[str, Any]
    flags: dict[tuple[str | int, ...], str] = field(default_factory=dict)

    def set(self, path: tuple[str, ...], value: Any, flag: str) -> None:
        table = self.data
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = value
        self.flags[path] = flag


def _number(text: str) -> int | str:
    """As TOML would have it; what is none stays text, for the message."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _backend(text: str) -> dict[str, Any]:
    """``ADDR[,weight=N][,KEY=VALUE...]`` as the table that a file would have."""
    address, *options = text.split(",")
    table: dict[str, Any] = {"address": address}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError([Problem("--backend", f'"{text}": expected ADDR[,weight=N]')])
        table[key] = _number(value)
    return table


def _routing(overlay: _Overlay, flags: Flags) -> None:
    if flags.listen:
        overlay.set(("listeners", NAME, "bind"), list(flags.listen), "--listen")
        overlay.data["listeners"][NAME].setdefault("pool", NAME)
    if flags.protocol:
        overlay.set(("listeners", NAME, "protocol"), flags.protocol, "--protocol")
    if flags.backends:
        overlay.set(("pools", NAME, "backends"), [_backend(text) for text in flags.backends], "--backend")
    if flags.policy:
        overlay.set(("pools", NAME, "policy"), flags.policy, "--policy")


def apply_flags(flags: Flags, data: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[Any, str]]:
    """`data` (of a file, or nothing) with the flags over it, and which flag each changed path came from."""
    overlay = _Overlay(data if data is not None else {})
    _routing(overlay, flags)
    if flags.workers is not None:
        overlay.set(("global", "workers"), _number(flags.workers), "--workers")
    if flags.admin is not None:
        overlay.set(("admin", "bind"), flags.admin, "--admin")
    if flags.log_level is not None:
        overlay.set(("global", "log_level"), flags.log_level, "--log-level")
    return overlay.data, overlay.flags
