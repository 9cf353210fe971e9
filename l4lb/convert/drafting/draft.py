"""A configuration that is being built: listeners, pools and options, each with the line that it came from and, where a
decision was taken, the reason. Pure data; `writing.py` makes text of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Of a directive; the line counts from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Option:
    """A value as TOML has it. `why` is what a comment says above it."""

    value: Any
    place: Place
    why: str = ""


Options = dict[str, Option]


@dataclass(slots=True)
class Route:
    place: Place
    options: Options = field(default_factory=dict)


@dataclass(slots=True)
class Listener:
    """`options` has bind and pool too."""

    name: str
    place: Place
    options: Options = field(default_factory=dict)
    routes: list[Route] = field(default_factory=list)

    def set(self, key: str, value: Any, place: Place, why: str = "") -> None:
        self.options[key] = Option(value, place, why)


@dataclass(slots=True)
class Pool:
    """Each of `backends` is a table on one line; `tables` are health, passive, agent and discovery."""

    name: str
    place: Place
    why: str = ""
    options: Options = field(default_factory=dict)
    backends: list[Option] = field(default_factory=list)
    tables: dict[str, Options] = field(default_factory=dict)

    def set(self, key: str, value: Any, place: Place, why: str = "") -> None:
        """`key` may be one of a table, such as ``health.type``."""
        table, dot, inner = key.rpartition(".")
        options = self.tables.setdefault(table, {}) if dot else self.options
        options[inner if dot else key] = Option(value, place, why)


@dataclass(slots=True)
class Draft:
    source: str
    globals: Options = field(default_factory=dict)
    listeners: dict[str, Listener] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)

    def free_listener_name(self, wanted: str) -> str:
        return free_name(wanted, self.listeners)

    def free_pool_name(self, wanted: str) -> str:
        return free_name(wanted, self.pools)


NAME_CHARS_MAX = 200


def free_name(wanted: str, taken: dict[str, Any]) -> str:
    """`wanted`, or with a number behind it when that is taken."""
    short = "".join(char for char in wanted if char.isprintable())[:NAME_CHARS_MAX] or "unnamed"
    name, number = short, 1
    while name in taken:
        number += 1
        name = f"{short}-{number}"
    return name
