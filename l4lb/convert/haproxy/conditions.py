"""The conditions of .if and .elif (HAProxy's manual, 2.4). Pure.

What asks about HAProxy itself is answered as by a build of version 3.0 with all features, and the report says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from l4lb.convert.drafting.draft import Place
from l4lb.convert.drafting.report import Report, failure

DEPTH_MAX = 32
ASSUMED = (3, 0)
_TOKEN = re.compile(r"\s*(&&|\|\||!|\(|\)|(-?[0-9]+)(?![\w(])|([a-z_]+)\(([^()]*)\))")


def holds(text: str, environment: Mapping[str, str], place: Place, report: Report) -> bool:
    """ConfigError for what is no condition."""
    if not text.strip():
        return False
    return _Parser(text, environment, place, report).whole()


class _Parser:
    def __init__(self, text: str, environment: Mapping[str, str], place: Place, report: Report) -> None:
        self._text, self._environment, self._place, self._report = text, environment, place, report
        self._at = 0

    def whole(self) -> bool:
        value = self._either(0)
        if self._text[self._at :].strip():
            raise self._failure()
        return value

    def _failure(self) -> Exception:
        return failure(self._place, f'"{self._text}": not a condition, at column {self._at + 1} of it')

    def _next(self) -> re.Match[str] | None:
        return _TOKEN.match(self._text, self._at)

    def _take(self, wanted: str) -> bool:
        match = self._next()
        if match is None or match[1] != wanted:
            return False
        self._at = match.end()
        return True

    def _either(self, depth: int) -> bool:
        value = self._all(depth)
        while self._take("||"):
            value |= self._all(depth)
        return value

    def _all(self, depth: int) -> bool:
        value = self._one(depth)
        while self._take("&&"):
            value &= self._one(depth)
        return value

    def _one(self, depth: int) -> bool:
        negated = False
        while self._take("!"):
            negated = not negated
        return self._element(depth) != negated

    def _element(self, depth: int) -> bool:
        if depth > DEPTH_MAX:
            raise failure(self._place, f"more than {DEPTH_MAX} parentheses within each other")
        if self._take("("):
            value = self._either(depth + 1)
            if not self._take(")"):
                raise self._failure()
            return value
        match = self._next()
        if match is None or not (match[2] or match[3]):
            raise self._failure()
        self._at = match.end()
        return int(match[2]) != 0 if match[2] else self._predicate(match[3], match[4])

    def _predicate(self, name: str, argument: str) -> bool:
        match name:
            case "defined":
                return argument.strip() in self._environment
            case "streq" | "strneq":
                first, _, second = argument.partition(",")
                return (_plain(first) == _plain(second)) == (name == "streq")
            case "strstr":
                first, _, second = argument.partition(",")
                return _plain(second) in _plain(first)
            case "feature" | "enabled" | "openssl_version_atleast" | "version_atleast":
                return self._assumed(name, argument, _version(argument) <= ASSUMED)
            case "openssl_version_before" | "version_before":
                return self._assumed(name, argument, _version(argument) > ASSUMED)
        raise self._failure()

    def _assumed(self, name: str, argument: str, value: bool) -> bool:
        if name in ("feature", "enabled") or name.startswith("openssl"):
            value = not name.endswith("before")
        said = "true" if value else "false"
        why = (
            f"taken for {said}, as with HAProxy {ASSUMED[0]}.{ASSUMED[1]} and all features; the lines are converted so"
        )
        self._report.lost(self._place, f"{name}({argument})", why)
        return value


def _plain(text: str) -> str:
    return text.strip().strip("\"'")


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"\s*(\d{1,6})(?:\.(\d{1,6}))?", text)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)
