"""An nginx.conf as directives and blocks: words, quotes, escapes and comments. Files that are included are read by
`including.py`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from l4lb.convert.drafting.draft import Place
from l4lb.convert.drafting.report import failure

DEPTH_MAX = 32
_SPACE = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)+")
_PLAIN = re.compile(r"(?:[^ \t\r\n;{\\]|\\[\s\S]|(?<=\$)\{)+")
_QUOTED = {'"': re.compile(r'"((?:[^"\\]|\\[\s\S])*)"'), "'": re.compile(r"'((?:[^'\\]|\\[\s\S])*)'")}
_ESCAPE = re.compile(r"\\([\"'\\trn])")
_ESCAPED = {"t": "\t", "r": "\r", "n": "\n"}


@dataclass(slots=True)
class Directive:
    """`block` is None where a semicolon ends it."""

    words: list[str]
    place: Place
    block: list[Directive] | None = None

    @property
    def name(self) -> str:
        return self.words[0]

    @property
    def arguments(self) -> list[str]:
        return self.words[1:]

    @property
    def text(self) -> str:
        return " ".join(self.words)


class _Token(NamedTuple):
    """`mark` is one of ; { } or empty for a word."""

    text: str
    place: Place
    mark: str = ""


def parse(text: str, file: str) -> list[Directive]:
    """ConfigError, with the line, for a text that is no nginx.conf."""
    blocks: list[list[Directive]] = [[]]
    words: list[_Token] = []
    for token in _tokens(text, file):
        if not token.mark:
            words.append(token)
        elif token.mark == "}":
            if words:
                raise failure(
                    words[0].place, f'"{words[-1].text[:60]}": expected a semicolon after it, before the brace'
                )
            if len(blocks) == 1:
                raise failure(token.place, "a closing brace that closes nothing")
            blocks.pop()
        else:
            directive = _directive(words, token)
            blocks[-1].append(directive)
            words = []
            if directive.block is not None:
                blocks.append(directive.block)
                if len(blocks) > DEPTH_MAX:
                    raise failure(token.place, f"more than {DEPTH_MAX} blocks within each other")
    end = Place(file, text.count("\n") + 1)
    if words:
        raise failure(words[0].place, f'"{words[0].text[:60]}": expected a semicolon or a block, up to line {end.line}')
    if len(blocks) > 1:
        raise failure(
            blocks[-2][-1].place, f'the block of "{blocks[-2][-1].name}" is not closed, up to line {end.line}'
        )
    return blocks[0]


def _directive(words: list[_Token], end: _Token) -> Directive:
    if not words:
        raise failure(end.place, f'expected a directive before "{end.mark}"')
    return Directive([word.text for word in words], words[0].place, [] if end.mark == "{" else None)


def _tokens(text: str, file: str) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(text):
        place = Place(file, line)
        char = text[at]
        if match := _SPACE.match(text, at):
            pass
        elif char in ";{}":
            yield _Token("", place, char)
            at += 1
            continue
        elif char in "\"'":
            match = _QUOTED[char].match(text, at)
            if match is None:
                raise failure(place, "a quote that is not closed")
            if text[match.end() : match.end() + 1] not in ("", " ", "\t", "\r", "\n", ";", "{", ")"):
                raise failure(place, "expected a blank, ; or { after the quote")
            yield _Token(_unescaped(match[1]), place)
        else:
            match = _PLAIN.match(text, at)
            if match is None:
                raise failure(place, "a backslash at the end of the file")
            yield _Token(_unescaped(match[0]), place)
        line += match[0].count("\n")
        at = match.end()


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text)
