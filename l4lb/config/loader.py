"""From a TOML file, or command-line flags, to a `Config`; or to every problem at once.

A value that pydantic refuses is cut out and the rest looked at again: one typo does not hide what else is wrong.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from l4lb.config.bounds import check_text, read_text
from l4lb.config.checks import find_conflicts
from l4lb.config.flags import Flags, apply_flags
from l4lb.config.health import HealthConfig
from l4lb.config.hints import did_you_mean
from l4lb.config.models import AdminConfig, Backend, Config, GlobalConfig, Listener, Pool
from l4lb.config.positions import Path as KeyPath
from l4lb.config.positions import Positions, path_text
from l4lb.config.proxy import OwnTlv
from l4lb.config.supported import is_later_key
from l4lb.errors import ConfigError, Problem

PROBLEMS_MAX = 1000  # that are told at once
_EXPECTED = {
    "int_type": "expected an integer",
    "int_parsing": "expected an integer",
    "int_from_float": "expected an integer",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected a string",
    "dict_type": "expected a table",
    "model_type": "expected a table",
    "list_type": "expected a list",
}


def _known_keys(path: KeyPath) -> list[str]:
    """The keys that the table above `path` may have."""
    above = [part for part in path[:-1] if not isinstance(part, int)]
    model: type[BaseModel] = Config
    if above[:1] == ["global"]:
        model = GlobalConfig
    elif above[:1] == ["admin"]:
        model = AdminConfig
    elif above[:1] == ["listeners"]:
        model = Listener
    elif above[:1] == ["pools"]:
        within: dict[str, type[BaseModel]] = {"health": HealthConfig, "backends": Backend, "send_proxy_tlvs": OwnTlv}
        model = next((within[part] for part in above[2:] if part in within), Pool)
    return [field.alias or name for name, field in model.model_fields.items()]


def _shown(value: object) -> str:
    """The offending value, as TOML shows it, not too long."""
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else _repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _repr(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number that is too large"


def _message(error: ErrorDetails, path: KeyPath) -> str:
    """One line: the value, and what was expected."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    key = str(path[-1]) if path else ""
    if kind == "extra_forbidden":
        if is_later_key(path):
            return "not supported by this version"
        return f"unknown key{did_you_mean(key, _known_keys(path))}"
    if kind == "missing":
        return "missing: expected a value"
    if kind in ("literal_error", "enum"):
        return f"{_shown(value)}: expected {context['expected']}{did_you_mean(str(value), _choices(context))}"
    if kind == "value_error":
        return f"{_shown(value)}: {context['error']}" if not isinstance(value, dict) else str(context["error"])
    if kind == "too_short":
        return "empty: expected at least one"
    expected = _EXPECTED.get(kind) or error["msg"].replace("Input should be", "expected")
    return f"{_shown(value)}: {expected}"


def _choices(context: dict[str, Any]) -> list[str]:
    return [word.strip(" '") for word in str(context["expected"]).replace(" or ", ",").split(",")]


def _error_path(error: ErrorDetails, data: dict[str, Any]) -> KeyPath:
    """The key path of an error: pydantic's, without the names of union members that it appends."""
    path: list[str | int] = []
    at: Any = data
    for part in error["loc"]:
        if isinstance(part, str) and part.startswith("("):
            continue  # the tag of a union's member
        if isinstance(at, dict) and (part in at or error["type"] == "missing"):
            at = at.get(part)
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
        elif isinstance(part, int) and isinstance(at, str):
            continue  # a single string where a list was expected: it was made a list of one
        else:
            break
        path.append(part)
    return tuple(path)


def _cut(data: dict[str, Any], path: KeyPath) -> None:
    """Remove the value at `path`, as far as it is there. An address, which may not be missing, becomes one that fits
    anywhere, so that the rest of its table is still looked at, and the others of its list keep their indices."""
    placeholder = f"unix:@broken-{path_text(path)}"[:100]
    at: Any = data
    for part in path[:-1]:
        try:
            at = at[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(at, dict) and path[-1] in ("bind", "address"):
        at[path[-1]] = placeholder
    elif isinstance(at, dict):
        at.pop(path[-1], None)
    elif isinstance(at, list) and isinstance(path[-1], int) and path[-1] < len(at):
        at[path[-1]] = placeholder


def _dedupe(found: list[tuple[KeyPath, str]]) -> list[tuple[KeyPath, str]]:
    """One problem a path: a value that fits no member of a union is reported for each of them."""
    first: dict[KeyPath, str] = {}
    for path, message in found:
        first.setdefault(path, message)
    return list(first.items())


def _validate(data: dict[str, Any]) -> tuple[Config | None, list[tuple[KeyPath, str]]]:
    """The config of what is sound in `data`, if that is one, and everything that is not."""
    found: list[tuple[KeyPath, str]] = []
    rest = copy.deepcopy(data)
    for _ in range(8):
        try:
            return Config.model_validate(rest), _dedupe(found)
        except ValidationError as error:
            paths = [(_error_path(details, rest), details) for details in error.errors()]
        new = [(path, _message(details, path)) for path, details in paths[:PROBLEMS_MAX]]
        if len(paths) > PROBLEMS_MAX:
            return None, [*_dedupe(found + new), ((), f"{len(paths) - PROBLEMS_MAX} more problems")]
        found += [item for item in new if not any(item[0] == path[: len(item[0])] for path, _ in found)]
        for path, details in sorted(paths, key=lambda item: [str(part) for part in item[0]], reverse=True):
            _cut(rest, path[:-1] if details["type"] == "missing" else path)
    return None, _dedupe(found)


def build_backend(settings: Mapping[str, Any], path: KeyPath) -> Backend:
    """A backend by itself, for changes at runtime; ConfigError with everything that is wrong, below `path`."""
    try:
        return Backend.model_validate(dict(settings))
    except ValidationError as error:
        data = dict(settings)
        found = [((*path, *_error_path(details, data)), details) for details in error.errors()]
    raise ConfigError([Problem(path_text(at), _message(details, at)) for at, details in found])


def build(
    data: dict[str, Any], *, lines: Positions | None = None, file: str = "", places: dict[KeyPath, str] | None = None
) -> Config:
    """Check `data` and make it a `Config`. `places` name what is not from the file: paths and their flags."""
    config, found = _validate(data)
    if config is not None:
        broken = {path[:end] for path, _ in found for end in range(1, len(path) + 1)}
        names = [*config.pools, *(str(path[1]) for path in broken if path[0] == "pools" and len(path) == 2)]
        found += [item for item in find_conflicts(config, names) if item[0] not in broken]
    if found or config is None:
        problems = [_problem(path, text, lines, file, places or {}) for path, text in found]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
    config._lines = lines
    config._file = file
    config._flags = places or {}
    return config


def _problem(path: KeyPath, text: str, lines: Positions | None, file: str, places: dict[KeyPath, str]) -> Problem:
    for end in range(len(path), 0, -1):
        if path[:end] in places:
            inside = path_text(path[end:])
            return Problem(places[path[:end]], f"{inside}: {text}" if inside else text)
    return Problem(path_text(path), text, file, lines.line_of(path) if lines else 0)


def parse(text: str, file: str) -> dict[str, Any]:
    """The raw values of a TOML text; ConfigError with the line when it is none."""
    check_text(text, file)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = getattr(error, "lineno", 0) or _line_in(str(error), text)
        raise ConfigError([Problem("", f"not TOML: {error}", file, line)]) from None
    except (ValueError, OverflowError) as error:  # of a value: an integer of thousands of digits, a date that is none
        raise ConfigError([Problem("", f"not TOML: {error}", file)]) from None


def loads(text: str, *, file: str = "", flags: Flags | None = None) -> Config:
    data = parse(text, file)
    places: dict[KeyPath, str] = {}
    if flags is not None:
        data, places = apply_flags(flags, data)
    return build(data, lines=Positions(text), file=file, places=places)


def _line_in(message: str, text: str) -> int:
    """The line that a TOMLDecodeError names; before Python 3.14 only its text does."""
    _, found, rest = message.partition("(at line ")
    return int(rest.partition(",")[0]) if found else text.count("\n") + 1


def load(path: Path, flags: Flags | None = None) -> Config:
    """The config of a file, with command-line flags over it."""
    return loads(read_text(path), file=str(path), flags=flags)


def from_flags(flags: Flags) -> Config:
    """A config of command-line flags alone; ConfigError names the flags."""
    missing = [flag for flag, given in (("--listen", flags.listen), ("--backend", flags.backends)) if not given]
    if missing:
        raise ConfigError([Problem(flag, "missing: needed when there is no file") for flag in missing])
    data, places = apply_flags(flags)
    return build(data, places=places)
