"""Reads a TOML file, or command-line flags, into options of the requested `kind`; or reports every problem at once.

A value that pydantic refuses is removed and the rest is checked again: one typo does not hide other errors.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from l4lb.config.options.models import Backend, Options
from l4lb.config.options.paths import Path as KeyPath
from l4lb.config.options.paths import path_text
from l4lb.config.options.refusals import error_path, message_of
from l4lb.config.reading.bounds import check_text, read_text
from l4lb.config.reading.flags import Flags, apply_flags
from l4lb.config.reading.positions import Positions
from l4lb.config.rules.checks import find_conflicts
from l4lb.errors import ConfigError, Problem

T = TypeVar("T", bound=Options)
PROBLEMS_MAX = 1000  # that are told at once
SYNTAX_PROBLEMS_MAX = 20
_DECIDING = ("type", "protocol", "engine", "mode")  # what other options of a table have to fit
_LONG_QUOTES = ("'''", '"""')
_QUOTES = {
    "Expected \"'''\"": "'''",
    'Expected "\'"': "'",
    "Unterminated string": '"',
}  # never closed, by tomllib's message
_STATEMENT = re.compile(r"\s*(\[|[\w.\"' -]+=)")


def _cut(data: dict[str, Any], path: KeyPath, unknown: bool) -> None:
    """Remove the value at `path`, as far as it is there. What may not be missing, or makes up for what is, becomes a
    value that fits anywhere, so that the rest of its table is still looked at, and others of a list keep their
    indices. An `unknown` key is none of these, whatever its name."""
    placeholder = f"unix:@broken-{path_text(path)}"[:100]
    at: Any = data
    for part in path[:-1]:
        try:
            at = at[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(at, dict) and path[-1] in ("bind", "address") and not unknown:
        at[path[-1]] = placeholder
    elif isinstance(at, dict) and path[-1] == "discovery" and not unknown:
        at[path[-1]] = {}
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


def _validate(kind: type[T], data: dict[str, Any]) -> tuple[T | None, list[tuple[KeyPath, str]]]:
    """The options that the valid part of `data` describes, if it does, and every problem in the rest."""
    found: list[tuple[KeyPath, str]] = []
    rest = copy.deepcopy(data)
    for _ in range(8):
        try:
            return kind.model_validate(rest), _dedupe(found)
        except ValidationError as error:
            paths = [(error_path(details, rest), details) for details in error.errors()]
        new = [(path, message_of(details, path, Options)) for path, details in paths[:PROBLEMS_MAX]]
        if len(paths) > PROBLEMS_MAX:
            return None, [*_dedupe(found + new), ((), f"{len(paths) - PROBLEMS_MAX} more problems")]
        found += [item for item in new if not any(item[0] == path[: len(item[0])] for path, _ in found)]
        for path, details in sorted(paths, key=lambda item: [str(part) for part in item[0]], reverse=True):
            _cut(rest, path[:-1] if details["type"] == "missing" else path, details["type"] == "extra_forbidden")
    return None, _dedupe(found)


def build_backend(settings: Mapping[str, Any], path: KeyPath) -> Backend:
    """A backend by itself, for changes at runtime; ConfigError with everything that is wrong, below `path`."""
    try:
        return Backend.model_validate(dict(settings))
    except ValidationError as error:
        data = dict(settings)
        found = [((*path, *error_path(details, data)), details) for details in error.errors()]
    raise ConfigError([Problem(path_text(at), message_of(details, at, Options)) for at, details in found])


def expect_no_conflicts(config: Options) -> None:
    """Of a configuration that was made in code: ConfigError with every combination that cannot work."""
    if found := list(find_conflicts(config)):
        raise ConfigError([Problem(path_text(path), message) for path, message in found])


def build(
    kind: type[T],
    data: dict[str, Any],
    *,
    lines: Positions | None = None,
    file: str = "",
    places: dict[KeyPath, str] | None = None,
) -> T:
    """Check `data` and make it a `kind`. `places` name what is not from the file: paths and their flags."""
    config, found = _validate(kind, data)
    if config is not None:
        broken = {path[:end] for path, _ in found for end in range(1, len(path) + 1)}
        names = [*config.pools, *(str(path[1]) for path in broken if path[0] == "pools" and len(path) == 2)]
        found += [item for item in find_conflicts(config, names) if not _follows(item[0], found, broken)]
    if found or config is None:
        problems = [_problem(path, text, lines, file, places or {}) for path, text in found]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
    config.came_from(file, lines, places or {})
    return config


def _follows(path: KeyPath, found: list[tuple[KeyPath, str]], broken: set[KeyPath]) -> bool:
    """Whether a conflict at `path` may only be there because of a value that was refused."""
    tables = [at[:-1] for at, _ in found if at and at[-1] in _DECIDING]
    return path in broken or any(path[: len(table)] == table for table in tables)


def _problem(path: KeyPath, text: str, lines: Positions | None, file: str, places: dict[KeyPath, str]) -> Problem:
    for end in range(len(path), 0, -1):
        if path[:end] in places:
            inside = path_text(path[end:])
            return Problem(places[path[:end]], f"{inside}: {text}" if inside else text)
    return Problem(path_text(path), text, file, lines.line_of(path) if lines else 0)


def parse(text: str, file: str) -> dict[str, Any]:
    """The raw values of a TOML text; ConfigError with the lines where it is none."""
    check_text(text, file)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems = [_not_toml(error, text, file)]
        raise ConfigError([*problems, *_more_syntax_problems(text, problems[0].line, file)]) from None
    except (ValueError, OverflowError) as error:  # of a value: an integer of thousands of digits, a date that is none
        raise ConfigError([Problem("", f"not TOML: {error}", file)]) from None


def _not_toml(error: tomllib.TOMLDecodeError, text: str, file: str) -> Problem:
    line = getattr(error, "lineno", 0) or _line_in(str(error), text)
    return Problem("", f"not TOML: {error}", file, line)


def _more_syntax_problems(text: str, line: int, file: str) -> Iterator[Problem]:
    """What is wrong below, as long as that is certain: the wrong line is left out, and the next one that is refused
    must be a statement that is wrong by itself. Anything else may follow from what was left out."""
    lines = text.replace("\r\n", "\n").split("\n")
    for _ in range(SYNTAX_PROBLEMS_MAX):
        if not 0 < line <= len(lines) or not _is_wrong_alone(lines[line - 1]):
            return
        lines[line - 1] = ""
        try:
            tomllib.loads("\n".join(lines))
            return
        except tomllib.TOMLDecodeError as error:
            problem = _not_toml(error, "\n".join(lines), file)
        except (ValueError, OverflowError):
            return
        line = problem.line
        if 0 < line <= len(lines) and _is_wrong_alone(lines[line - 1]):
            yield problem


def _is_wrong_alone(line: str) -> bool:
    """Of a line that is a whole statement, as far as its begin tells."""
    if not _STATEMENT.match(line) or any(quote in line for quote in _LONG_QUOTES):
        return False
    try:
        tomllib.loads(line)
    except ValueError:
        return True
    return False


def loads(kind: type[T], text: str, *, file: str = "", flags: Flags | None = None) -> T:
    """The options of a TOML text, which messages call `file`, with command-line flags over it."""
    data = parse(text, file)
    places: dict[KeyPath, str] = {}
    if flags is not None:
        data, places = apply_flags(flags, data)
    return build(kind, data, lines=Positions(text), file=file, places=places)


def _line_in(message: str, text: str) -> int:
    """The line that a TOMLDecodeError names; before Python 3.14 only its text does. At the end of the document what is
    not closed counts where it begins, if that is a string."""
    _, found, rest = message.partition("(at line ")
    if found:
        return int(rest.partition(",")[0])
    opened = next((quote for said, quote in _QUOTES.items() if message.startswith(said)), None)
    if opened == '"' and "\n" in text[text.rfind(opened) :]:
        opened = '"""'  # the other ends with its line
    end = text.rfind(opened) if opened else len(text.rstrip())
    return text.count("\n", 0, end) + 1


def load(kind: type[T], path: Path, flags: Flags | None = None) -> T:
    """The same for a file."""
    return loads(kind, read_text(path), file=str(path), flags=flags)


def from_flags(kind: type[T], flags: Flags) -> T:
    """The options of command-line flags alone; ConfigError names the flags."""
    missing = [flag for flag, given in (("--listen", flags.listen), ("--backend", flags.backends)) if not given]
    if missing:
        raise ConfigError([Problem(flag, "missing: needed when there is no file") for flag in missing])
    data, places = apply_flags(flags)
    return build(kind, data, places=places)
