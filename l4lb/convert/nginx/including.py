"""Directives with the files that they include, read when a section is looked at: those of HTTP never are."""

from __future__ import annotations

import fnmatch
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from l4lb.convert.drafting.files import read_named
from l4lb.convert.drafting.report import Report
from l4lb.convert.nginx.blocks import Directive, parse

FILES_MAX = 1000
BYTES_MAX = 4 << 20  # of all of them
DEPTH_MAX = 8
_ENTRIES_MAX = 10_000  # of a directory


class Including:
    """Walks through blocks. Patterns are for the names of files, not for those of directories."""

    def __init__(self, main: str, report: Report) -> None:
        self._directory = Path(main).parent
        self._report = report
        self._files = 0
        self._bytes = 0

    def walk(self, block: list[Directive], depth: int = 0) -> Iterator[Directive]:
        """Its directives in order. ConfigError for an included file that is no configuration."""
        for directive in block:
            if directive.name != "include":
                yield directive
                continue
            for path in self._paths(directive):
                if (text := self._read(path, directive, depth)) is not None:
                    yield from self.walk(parse(text, str(path)), depth + 1)

    def _paths(self, directive: Directive) -> list[Path]:
        if len(directive.words) != 2:
            self._report.lost(directive.place, directive.text, "expected one file")
            return []
        path = self._directory / directive.words[1]
        if not any(char in directive.words[1] for char in "*?["):
            return [path]
        if any(char in str(path.parent) for char in "*?["):
            self._report.lost(directive.place, directive.text, "a pattern is for names of files, in one directory")
            return []
        try:
            with os.scandir(path.parent) as found:
                names = [entry.name for entry in itertools.islice(found, _ENTRIES_MAX)]
        except (OSError, ValueError) as error:
            why = f"the directory cannot be read: {getattr(error, 'strerror', None) or error}"
            self._report.lost(directive.place, directive.text, why)
            return []
        hidden = path.name.startswith(".")
        return [path.parent / one for one in sorted(fnmatch.filter(names, path.name)) if hidden or one[0] != "."]

    def _read(self, path: Path, directive: Directive, depth: int) -> str | None:
        """None when it is not to be had, which is reported."""
        self._files += 1
        if depth >= DEPTH_MAX or self._files > FILES_MAX or self._bytes >= BYTES_MAX:
            why = f"more than {DEPTH_MAX} files within each other, {FILES_MAX} files or {BYTES_MAX >> 20} MiB"
            self._report.lost(directive.place, directive.text, why)
            return None
        try:
            text = read_named(path, BYTES_MAX - self._bytes)
        except ValueError as error:
            self._report.lost(directive.place, directive.text, str(error))
            return None
        self._bytes += len(text.encode())
        return text
