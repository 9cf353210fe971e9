"""Names as people are told them: what a mistyped one may have meant, and lists that fit a line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import TypeVar

from l4lb.errors import UnknownNameError

T = TypeVar("T")
_SHOWN_MAX = 10  # names of those that are known
_SHOWN_IN_REPR = 5


def did_you_mean(word: str, known: list[str]) -> str:
    """`` (did you mean "maglev"?)``, or nothing when no known word is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""


def unknown_name(kind: str, name: object, known: Iterable[str], where: str = "") -> UnknownNameError:
    """The error for a `kind` that is not there; `where` is such as ``in pool "web"``."""
    names = list(known)
    shown = ", ".join(names[:_SHOWN_MAX]) + (", ..." if len(names) > _SHOWN_MAX else "") or "none"
    hint = did_you_mean(name, names) if isinstance(name, str) else ""
    place = f" {where}" if where else ""
    return UnknownNameError(kind, name, f'no {kind} "{name}"{place}{hint or f" (known: {shown})"}')


def shown_names(what: str, names: Collection[str]) -> str:
    """``pools web, api, ...`` for a repr."""
    shown = ", ".join(list(names)[:_SHOWN_IN_REPR]) or "none"
    return f"{what} {shown}{', ...' if len(names) > _SHOWN_IN_REPR else ''}"


class Named(dict[str, T]):
    """A dict by name whose ``[]`` raises `UnknownNameError` for a name that is not in it."""

    def __init__(self, kind: str, items: Iterable[tuple[str, T]]) -> None:
        super().__init__(items)
        self._kind = kind

    def __missing__(self, name: str) -> T:
        raise unknown_name(self._kind, name, self)
