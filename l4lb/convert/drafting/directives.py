"""What becomes of a directive: the tables of both formats are made of these, and the documentation says the same."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Fate(StrEnum):
    """`NEEDLESS` has nothing to convert, and `HTTP` no effect in layer 4: neither is reported."""

    CONVERTED = "converted"
    NEEDLESS = "needless"
    HTTP = "HTTP only"
    LOST = "not converted"


class Directive(NamedTuple):
    """`says` is what it becomes, or why it is not converted and what to do instead. `arguments` follow it, where
    several directives are on one line."""

    fate: Fate
    says: str
    arguments: int = 0


Table = Mapping[str, Directive]


def converted(says: str, arguments: int = 0) -> Directive:
    return Directive(Fate.CONVERTED, says, arguments)


def needless(says: str, arguments: int = 0) -> Directive:
    return Directive(Fate.NEEDLESS, says, arguments)


def http(arguments: int = 0) -> Directive:
    return Directive(Fate.HTTP, "of HTTP, without effect in layer 4", arguments)


def lost(says: str, arguments: int = 0) -> Directive:
    return Directive(Fate.LOST, says, arguments)


UNKNOWN = lost("not known to this version of l4lb convert")


def find(table: Table, *names: str) -> Directive | None:
    """The entry of the first of `names` that has one. An entry such as ``tune.*`` is for all that begin so."""
    for name in names:
        if name in table:
            return table[name]
    for pattern, directive in table.items():
        if pattern.endswith("*") and any(name.startswith(pattern[:-1]) for name in names):
            return directive
    return None
