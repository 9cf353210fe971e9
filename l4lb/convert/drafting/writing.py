"""A draft as the text of an lb.toml, and which option each of its lines is from. Pure."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from l4lb.convert.drafting.draft import Draft, Listener, Option, Options, Place, Pool

_WIDTH = 116
_FIRST = ["bind", "protocol", "pool"]
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Written(NamedTuple):
    """A line of the result: where it comes from, and what takes it out of the draft again. `option` is the one that it
    has the value of."""

    text: str
    place: Place | None = None
    what: str = ""
    remove: Callable[[], object] | None = None
    option: Option | None = None


def written(draft: Draft) -> list[Written]:
    """The lines of the file."""
    lines = [*_comment(f"Converted from {draft.source} by l4lb convert. Comments say where a decision was taken.")]
    if draft.globals:
        lines += [Written(""), Written("[global]"), *_options(draft.globals)]
    for listener in draft.listeners.values():
        lines += [Written(""), *_listener(draft, listener)]
    for pool in draft.pools.values():
        lines += [Written(""), *_pool(draft, pool)]
    return lines


def text_of(lines: list[Written]) -> str:
    return "".join(f"{line.text}\n" for line in lines)


def _listener(draft: Draft, listener: Listener) -> Iterator[Written]:
    header = f"listeners.{_key(listener.name)}"
    remove = partial(draft.listeners.pop, listener.name, None)
    yield Written(f"[{header}]  # {_shown(str(listener.place))}", listener.place, f"listener {listener.name}", remove)
    first: Options = {key: one for key, one in listener.options.items() if key in _FIRST}
    yield from _options(dict(sorted(first.items(), key=lambda item: _FIRST.index(item[0]))), listener.options)
    yield from _options({key: one for key, one in listener.options.items() if key not in first}, listener.options)
    for route in listener.routes:
        gone = partial(_discard, listener.routes, route)
        yield Written("")
        yield Written(f"[[{header}.routes]]", route.place, "route", gone)
        for line in _options(route.options):
            yield line._replace(remove=gone)


def _pool(draft: Draft, pool: Pool) -> Iterator[Written]:
    header = f"pools.{_key(pool.name)}"
    remove = partial(draft.pools.pop, pool.name, None)
    yield from _comment(pool.why)
    yield Written(f"[{header}]  # {_shown(str(pool.place))}", pool.place, f"pool {pool.name}", remove)
    yield from _options(pool.options)
    if pool.backends:
        yield Written("backends = [", pool.place, f"pool {pool.name}", remove)
        for backend in pool.backends:
            yield from _comment(backend.why, "  ")
            gone = partial(_discard, pool.backends, backend)
            yield Written(f"  {_value(backend.value)},", backend.place, "server", gone)
        yield Written("]")
    for name, options in pool.tables.items():
        if options:
            yield Written("")
            yield Written(f"[{header}.{name}]", pool.place, name, partial(pool.tables.pop, name, None))
            yield from _options(options)


def _discard(items: list[Any], item: Any) -> None:
    items[:] = [one for one in items if one is not item]


def _options(options: Options, owner: Options | None = None) -> Iterator[Written]:
    """`owner` is the table that an option is removed from, where `options` is a part of it."""
    for key, option in options.items():
        gone = partial((options if owner is None else owner).pop, key, None)
        yield from _comment(option.why)
        yield Written(f"{key} = {_value(option.value)}", option.place, key, gone, option)


def _comment(text: str, indent: str = "") -> Iterator[Written]:
    for line in textwrap.wrap(_shown(text), _WIDTH - len(indent)):
        yield Written(f"{indent}# {line}")


def _shown(text: str) -> str:
    """Without what would end a comment, or is not allowed in one."""
    return "".join(char if char.isprintable() else " " for char in text)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _string(text: str) -> str:
    """A basic string of TOML: that of JSON, but for DEL and halves of surrogate pairs."""
    plain = text.encode("utf-8", "replace").decode()
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, Option):
        return _value(value.value)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _string(str(value))
