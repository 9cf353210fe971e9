"""A frontend, backend or listen section with what it has from its defaults section."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from l4lb.convert.drafting.directives import UNKNOWN, Directive, Fate, Table, find
from l4lb.convert.drafting.report import Report
from l4lb.convert.drafting.values import number
from l4lb.convert.haproxy.keywords import PROXY
from l4lb.convert.haproxy.sections import Section
from l4lb.convert.haproxy.words import Line

_TIME = re.compile(r"([0-9]{1,12})(us|ms|s|m|h|d)?", re.ASCII)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1e-3}
_BASED_MAX = 16  # defaults sections on each other


def key_of(line: Line) -> tuple[str, bool]:
    """The entry of `PROXY` that a line is of, or its first words; whether ``no`` is before it."""
    negated = line.words[0] == "no" and len(line.words) > 1
    words = line.words[1:] if negated else line.words
    two = " ".join(words[:2])
    if two in PROXY or words[0] not in PROXY:
        return (two if find(PROXY, two) else words[0]), negated
    return words[0], negated


class Proxy:
    """`lines` are its own, `inherited` those of the defaults."""

    def __init__(self, section: Section, inherited: list[Line], report: Report) -> None:
        self.section, self.report = section, report
        self.kind, self.name, self.place = section.kind, section.name, section.place
        self._own = [(*key_of(line), line) for line in section.lines]
        self._inherited = [(*key_of(line), line) for line in inherited]

    @property
    def mode(self) -> str:
        line = self.last("mode")
        return line.words[1] if line is not None and len(line.words) > 1 else "tcp"

    @property
    def inherited(self) -> list[Line]:
        return [line for _, _, line in self._inherited]

    @property
    def has_stats(self) -> bool:
        return any(line.words[0] == "stats" for _, _, line in self._own)

    def last(self, *keys: str) -> Line | None:
        """The line that holds; None where ``no`` takes it back."""
        found = None
        for key, negated, line in (*self._inherited, *self._own):
            if key in keys:
                found = None if negated else line
        return found

    def all(self, *keys: str) -> list[Line]:
        """Those of the defaults first."""
        return [line for key, negated, line in (*self._inherited, *self._own) if key in keys and not negated]

    def own_or_inherited(self, *keys: str) -> list[Line]:
        """For lists that replace those of the defaults."""
        own = [line for key, _, line in self._own if key in keys]
        return own or [line for key, _, line in self._inherited if key in keys]

    def seconds(self, key: str) -> float | None:
        """Of a directive with a time; None where it is not given, or broken, which is reported."""
        line = self.last(key)
        if line is None:
            return None
        text = line.words[len(key.split())] if len(line.words) > len(key.split()) else ""
        if (found := seconds_of(text)) is None:
            self.report.lost(line.place, line.text, "expected a time such as 5s or 5000")
        return found

    def count(self, key: str) -> int | None:
        """The same for a number."""
        line = self.last(key)
        if line is None:
            return None
        text = line.words[len(key.split())] if len(line.words) > len(key.split()) else ""
        if (found := number(text)) is None:
            self.report.lost(line.place, line.text, "expected a number")
        return found

    def line_of(self, key: str) -> Line:
        """Of a directive that is there."""
        return self.all(key)[-1]


def seconds_of(text: str) -> float | None:
    """A time of HAProxy, in milliseconds unless it has a unit."""
    match = _TIME.fullmatch(text)
    return int(match[1]) * _UNITS[match[2]] if match else None


def proxies_of(sections: list[Section], report: Report) -> list[Proxy]:
    """Frontends, backends and listens in their order."""
    proxies = []
    defaults: list[Section] = []
    for section in sections:
        if section.kind == "defaults":
            defaults.append(section)
        elif section.kind in ("frontend", "backend", "listen"):
            proxies.append(Proxy(section, _inherited(section, defaults, report), report))
    return proxies


def _inherited(section: Section, defaults: list[Section], report: Report) -> list[Line]:
    """The lines of the defaults section that `section` is based on, and of those that this one is."""
    lines: list[Line] = []
    known = {one.name: one for one in defaults if one.name}
    base = defaults[-1] if defaults and not section.based_on else known.get(section.based_on)
    if base is None and section.based_on:
        report.lost(section.place, f"from {section.based_on}", "there is no such defaults section before it")
    for _ in range(_BASED_MAX):
        if base is None:
            break
        lines = [*base.lines, *lines]
        base = known.get(base.based_on)
    return lines


def report_lines(sections: Iterable[Section], report: Report) -> None:
    """Name the lines that have no counterpart; what is converted reports its own details."""
    for section in sections:
        table_lines = ((PROXY, *key_of(line), line) for line in section.lines)
        for table, key, negated, line in table_lines:
            directive = find(table, key, line.words[0]) or UNKNOWN
            if directive.fate is Fate.LOST and not negated:
                report.lost(line.place, line.text, directive.says)


def parameters(words: Iterable[str], table: Table, line: Line, report: Report) -> Iterator[tuple[str, str]]:
    """The parameters of a bind or server line, with the word after each that has one. Reports those that are lost."""
    remaining = list(words)[::-1]
    while remaining:
        name = remaining.pop()
        directive: Directive = find(table, name) or UNKNOWN
        argument = remaining.pop() if directive.arguments and remaining else ""
        if directive.fate is Fate.LOST:
            report.lost(line.place, f"{line.words[0]} ... {name}", directive.says)
        yield name, argument
