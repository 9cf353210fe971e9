"""The lines of a haproxy.cfg as words: quotes, escapes, comments and environment variables (its manual, 2.2 and 2.3).
Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from l4lb.convert.drafting.draft import Place
from l4lb.convert.drafting.report import Report, failure

WORDS_MAX = 4096  # of a line; HAProxy takes 64
_VARIABLE = re.compile(r"\$(?:(\.?[A-Za-z_][A-Za-z0-9_]*)|\{(\.?[A-Za-z_][A-Za-z0-9_]*)(\[\*\])?(?:-([^}]*))?\})")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"} | {char: char for char in "\\\"'# "}
_FAMILIES = ("ipv4", "ipv6", "tcp", "tcp4", "tcp6", "unix", "uxst", "abns")
_PLAIN = re.compile(r"[^\\\"'# \t$]+")  # what stands for itself, in quotes or not


class Line(NamedTuple):
    """A directive; `words` has one at least."""

    words: tuple[str, ...]
    place: Place

    @property
    def text(self) -> str:
        return " ".join(self.words)


class Splitter:
    """Cuts lines into words. `environment` is changed by setenv and its like."""

    def __init__(self, environment: Mapping[str, str], report: Report) -> None:
        self.environment = dict(environment)
        self._report = report

    def split(self, text: str, place: Place, section: str = "") -> tuple[str, ...]:
        """ConfigError for an open quote, a broken escape and the like."""
        return _Scan(self, text, place, section).words()

    def value_of(self, name: str, default: str | None, place: Place, section: str) -> str:
        pseudo = {".FILE": place.file, ".LINE": str(place.line), ".SECTION": section}
        if name in pseudo:
            return pseudo[name]
        if name not in self.environment and default is None:
            why = "the variable is not set here and counts as empty: set it for l4lb convert, too"
            self._report.lost(place, f"${name}", why)
        return self.environment.get(name, default or "")


class _Scan:
    """One pass over a line."""

    def __init__(self, splitter: Splitter, text: str, place: Place, section: str) -> None:
        self._splitter, self._text, self._place, self._section = splitter, text, place, section
        self._at = 0
        self._words: list[str] = []
        self._word: list[str] | None = None

    def words(self) -> tuple[str, ...]:
        double = False
        while self._at < len(self._text):
            char = self._text[self._at]
            if match := _PLAIN.match(self._text, self._at):
                self._add(match[0])
                self._at = match.end()
            elif char == "\\":
                self._add(self._escape(double))
            elif char == '"':
                double = not double
                self._add("")
                self._at += 1
            elif char == "$" and double:
                self._variable()
            elif double:
                self._add(char)
                self._at += 1
            elif char == "#":
                break
            elif char == "'":
                self._single()
            else:
                self._plain(char)
        if double:
            raise failure(self._place, "a double quote that is not closed on its line")
        self._end_word()
        return tuple(self._words)

    def _plain(self, char: str) -> None:
        """A blank ends a word; a dollar outside of quotes is one."""
        if char in " \t":
            self._end_word()
        else:
            self._add(char)
        self._at += 1

    def _add(self, text: str) -> None:
        self._word = self._word or []
        self._word.append(text)

    def _end_word(self) -> None:
        if self._word is not None:
            self._words.append("".join(self._word))
            self._word = None
        if len(self._words) > WORDS_MAX:
            raise failure(self._place, f"more than {WORDS_MAX} words")

    def _single(self) -> None:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise failure(self._place, "a single quote that is not closed on its line")
        self._add(self._text[self._at + 1 : end])
        self._at = end + 1

    def _escape(self, double: bool) -> str:
        following = self._text[self._at + 1 : self._at + 2]
        if following == "x":
            digits = self._text[self._at + 2 : self._at + 4]
            if not re.fullmatch(r"[0-9A-Fa-f]{2}", digits):
                raise failure(self._place, r"expected two hexadecimal digits after \x")
            self._at += 4
            return chr(int(digits, 16))
        if following in _ESCAPES or (double and following == "$"):
            self._at += 2
            return _ESCAPES.get(following, following)
        self._at += 1
        return "\\"  # stands for itself, also at the end of a line, which HAProxy does not continue

    def _variable(self) -> None:
        match = _VARIABLE.match(self._text, self._at)
        if match is None:
            raise failure(self._place, "expected the name of a variable after $; a dollar is written \\$ in quotes")
        name = match[1] or match[2]
        value = self._splitter.value_of(name, match[4], self._place, self._section)
        self._at = match.end()
        if not match[3]:
            self._add(value)
            return
        for index, part in enumerate(value.split()):
            if index:
                self._end_word()
            self._add(part)


def unix_or_rest(text: str) -> tuple[str, str]:
    """Of an address: that of a unix socket as l4lb has it, or else what follows the family. Both are empty for a family
    that l4lb has not."""
    family, at, rest = text.removeprefix("stream+").rpartition("@")
    if at and family not in _FAMILIES:
        return "", ""
    if family == "abns":
        return f"unix:@{rest}", ""
    if family in ("unix", "uxst") or rest.startswith("/"):
        return f"unix:{rest}", ""
    return "", rest
