"""From the text of a file or a program to entries of `backends`. Pure.

| format | is |
|---|---|
| lines | on each line an address, and options of the backend: ``10.0.0.1:80 weight=2``; ``#`` begins a comment |
| json | a list as in `backends`, or an object with that list as "backends" |
| toml | ``backends = [...]``, as it would stand in lb.toml |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from l4lb.config import Backend, build_backend
from l4lb.config.options.paths import Path, path_text
from l4lb.config.reading.loader import parse
from l4lb.control.discovery.sources import Answer, Entry
from l4lb.errors import ConfigError

_PATH: Path = ("pools", "", "backends", 0)  # as of a configuration, for the known keys
_COMMENT = re.compile(r"(^|\s)#.*")


def parse_entries(text: str, format_: str) -> Answer:
    """ValueError, with the place, for a text that is not in this format."""
    if format_ == "lines":
        return _lines(text)
    said = _json(text) if format_ == "json" else _toml(text)
    for index, one in enumerate(said):
        if not isinstance(one, str | dict):
            raise ValueError(f"backends[{index}]: expected an address or a table, not {json.dumps(one, default=str)}")
    return Answer(said)


def _lines(text: str) -> Answer:
    entries, places = [], []
    for number, line in enumerate(text.splitlines(), 1):
        words = (_COMMENT.sub("", line) if "#" in line else line).replace(",", " ").split()
        if words:
            entries.append(_table(words, f"line {number}"))
            places.append(f"line {number}")
    return Answer(entries, places)


def _table(words: list[str], place: str) -> dict[str, Any] | str:
    address, *options = words
    table: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f'{place}: "{option}": expected an address, and options such as weight=2')
        table[key] = int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else value
    return {"address": address, **table} if table else address


def _json(text: str) -> list[Any]:
    try:
        said = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError("not JSON of backends: too many levels within each other") from None
    return _list_in(said)


def _toml(text: str) -> list[Any]:
    try:
        return _list_in(parse(text, ""))
    except ConfigError as error:
        first = error.problems[0]
        raise ValueError(f"line {first.line}: {first.message}" if first.line else first.message) from None


def _list_in(said: object) -> list[Any]:
    if isinstance(said, dict):
        if unknown := said.keys() - {"backends"}:
            raise ValueError(f'"{min(unknown)}": unknown key, expected backends')
        said = said.get("backends")
    if not isinstance(said, list):
        raise ValueError("expected a list of backends")
    return said


def backend_of(entry: Entry, place: str) -> Backend:
    """ValueError, at that place."""
    settings: Mapping[str, Any] = {"address": entry} if isinstance(entry, str) else entry
    try:
        return build_backend(settings, _PATH)
    except ConfigError as error:
        first = error.problems[0]
        key = first.path.removeprefix(path_text(_PATH)).lstrip(".")
        raise ValueError(": ".join(filter(None, [place, key, first.message]))) from None
    except (TypeError, ValueError):
        raise ValueError(f"{place}: expected an address or a table, not {entry!r}") from None
