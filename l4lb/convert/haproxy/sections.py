"""The sections of a haproxy.cfg, with the lines that its conditional blocks leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from l4lb.convert.drafting.draft import Place
from l4lb.convert.drafting.report import Report, failure
from l4lb.convert.haproxy.conditions import holds
from l4lb.convert.haproxy.keywords import SECTIONS
from l4lb.convert.haproxy.words import Line, Splitter

NESTED_MAX = 64  # of .if
_ENVIRONMENT = ("setenv", "presetenv", "unsetenv", "resetenv")


@dataclass(slots=True)
class Section:
    """`name` is empty where there is none; `based_on` is the defaults section that ``from`` names."""

    kind: str
    name: str
    place: Place
    based_on: str = ""
    lines: list[Line] = field(default_factory=list)


def read_sections(text: str, file: str, environment: Mapping[str, str], report: Report) -> list[Section]:
    """ConfigError, with the line, for a text that is no haproxy.cfg."""
    splitter = Splitter(environment, report)
    blocks = Blocks(splitter, report)
    sections: list[Section] = []
    for line in _lines(text, file, splitter, sections, blocks):
        if line.words[0] in SECTIONS:
            sections.append(_begin(line))
        elif not sections:
            expected = "expected a section, such as global, defaults, frontend, backend or listen"
            raise failure(line.place, f'"{line.words[0]}": {expected}')
        else:
            sections[-1].lines.append(line)
            _change_environment(line, splitter)
    blocks.expect_closed(Place(file, text.count("\n") + 1))
    return sections


def _lines(text: str, file: str, splitter: Splitter, sections: list[Section], blocks: Blocks) -> Iterator[Line]:
    for number, raw in enumerate(text.split("\n"), 1):
        place = Place(file, number)
        stripped = raw.strip()
        if not stripped or stripped.startswith("#"):
            continue
        directive = stripped.split(None, 1)[0]
        if not blocks.taken and directive not in Blocks.BRANCHES:
            continue
        here = sections[-1] if sections else None
        words = splitter.split(raw.rstrip("\r"), place, (here.name or here.kind) if here else "")
        if words and not blocks.is_about(words, place):
            yield Line(words, place)


def _begin(line: Line) -> Section:
    kind, *rest = line.words
    based_on = rest[rest.index("from") + 1] if "from" in rest[:-1] else ""
    name = rest[0] if rest and rest[0] != "from" else ""
    if kind in ("frontend", "backend", "listen") and not name:
        raise failure(line.place, f"{kind}: expected a name")
    section = Section(kind, name, line.place, based_on)
    if kind == "listen" and len(rest) > 1 and rest[1] != "from":
        section.lines.append(Line(("bind", *rest[1:]), line.place))  # an address on the line itself, as of old
    return section


def _change_environment(line: Line, splitter: Splitter) -> None:
    command, *rest = line.words
    if command in _ENVIRONMENT[:2] and len(rest) > 1:
        if command == "setenv" or rest[0] not in splitter.environment:
            splitter.environment[rest[0]] = rest[1]
    elif command == "unsetenv":
        for name in rest:
            splitter.environment.pop(name, None)
    elif command == "resetenv":
        kept = {name: splitter.environment[name] for name in rest if name in splitter.environment}
        splitter.environment = kept


class Blocks:
    """The conditional blocks around a line. Of each: whether a branch was taken before, and whether this one is."""

    BRANCHES = (".if", ".elif", ".else", ".endif")
    _MESSAGES = (".diag", ".notice", ".warning")

    def __init__(self, splitter: Splitter, report: Report) -> None:
        self._splitter, self._report = splitter, report
        self._open: list[_Block] = []

    @property
    def taken(self) -> bool:
        return all(block.now for block in self._open)

    def is_about(self, words: tuple[str, ...], place: Place) -> bool:
        """Whether it is one of the directives for blocks; it has been followed then."""
        match words[0]:
            case ".if":
                self._begin(words, place)
            case ".elif" | ".else":
                self._turn(words, place)
            case ".endif":
                self._innermost(place, ".endif")
                self._open.pop()
            case ".alert":
                raise failure(place, f"HAProxy would not start: {' '.join(words[1:])}")
            case _:
                return words[0] in self._MESSAGES
        return True

    def expect_closed(self, end: Place) -> None:
        if self._open:
            raise failure(self._open[-1].place, f".if without .endif up to the end, line {end.line}")

    def _begin(self, words: tuple[str, ...], place: Place) -> None:
        if len(self._open) >= NESTED_MAX:
            raise failure(place, f"more than {NESTED_MAX} blocks within each other")
        value = self.taken and self._holds(words, place)
        self._open.append(_Block(place, before=value or not self.taken, now=value))

    def _turn(self, words: tuple[str, ...], place: Place) -> None:
        block = self._innermost(place, words[0])
        if block.last:
            raise failure(place, f"{words[0]} after .else")
        block.last = words[0] == ".else"
        block.now = not block.before and (block.last or self._holds(words, place))
        block.before |= block.now

    def _holds(self, words: tuple[str, ...], place: Place) -> bool:
        return holds(" ".join(words[1:]), self._splitter.environment, place, self._report)

    def _innermost(self, place: Place, what: str) -> _Block:
        if not self._open:
            raise failure(place, f"{what} without .if")
        return self._open[-1]


@dataclass(slots=True)
class _Block:
    place: Place
    before: bool
    now: bool
    last: bool = False
