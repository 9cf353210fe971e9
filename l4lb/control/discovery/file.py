"""The ``file`` source: a file of backends that is watched.

A file that is closed after writing, or renamed into its place, is read at once. Where that cannot be heard (NFS, a
symbolic link into another directory), it is looked at once a second, and read when it has not changed for a moment.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from l4lb.config.reading.bounds import FILE_BYTES_MAX
from l4lb.control.discovery.entries import parse_entries
from l4lb.control.discovery.sources import Answer, Asked, NoAnswer, Yielded
from l4lb.net.files import read_text
from l4lb.net.inotify import DirectoryWatch

LOOK_S = 1.0
SETTLED_S = 0.1  # a file that somebody still writes changes within that
_OTHERS_S = 0.01  # between looks at what happens to other files of the directory

_Stamp = tuple[int, ...]


async def follow_file(asked: Asked) -> AsyncGenerator[Yielded, None]:
    """Yields the content, at least once a second; the same object while it has not changed."""
    file = _File(asked.settings.path, asked.settings.format)
    watching = _Watching(file.path)
    try:
        said = await asyncio.to_thread(file.look)
        while True:
            yield said
            closed = await watching.wait()
            if not closed and not await file.has_settled():
                continue
            said = await asyncio.to_thread(file.look)
    finally:
        watching.close()


class _Watching:
    """Hears of the file's directory while that is possible."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watch = self._open()

    async def wait(self) -> bool:
        """At most LOOK_S. True when the file is known to be complete: closed, moved, or removed."""
        if self._watch is not None and self._watch.gone:
            self.close()
        if self._watch is None:
            self._watch = self._open()
        if self._watch is None:
            await asyncio.sleep(LOOK_S)
            return False
        until = time.monotonic() + LOOK_S
        while not self._watch.gone and (left_s := until - time.monotonic()) > 0:
            if self._path.name in await self._watch.wait(left_s):
                return True
            await asyncio.sleep(_OTHERS_S)
        return False

    def _open(self) -> DirectoryWatch | None:
        try:
            return DirectoryWatch(self._path.parent)
        except OSError:  # see there; then once a second has to do
            return None

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None


class _File:
    """Its content, read again when it has changed. Any thread, one at a time."""

    def __init__(self, path: str, format_: str) -> None:
        self.path = Path(path)
        by_name = {".json": "json", ".toml": "toml"}.get(self.path.suffix.lower(), "lines")
        self._format = by_name if format_ == "auto" else format_
        self._stamp: _Stamp | None = None
        self._said: Yielded = NoAnswer("it has not been read yet")

    async def has_settled(self) -> bool:
        """Whether nobody is writing to it, after SETTLED_S."""
        stamp = await asyncio.to_thread(self._stat)
        await asyncio.sleep(SETTLED_S)
        return stamp == await asyncio.to_thread(self._stat)

    def _stat(self) -> _Stamp | None:
        try:
            found = os.stat(self.path)
        except (OSError, ValueError):
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def look(self) -> Yielded:
        stamp = self._stat()
        if stamp is None or stamp != self._stamp:
            self._stamp, self._said = stamp, self._read()
        return self._said

    def _read(self) -> Answer | NoAnswer:
        try:
            answer = parse_entries(read_text(self.path, bytes_max=FILE_BYTES_MAX), self._format)
            return replace(answer, within=str(self.path))
        except OSError as error:
            return NoAnswer(f"{self.path}: cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            return NoAnswer(f"{self.path}: not UTF-8 (byte {error.start})")
        except ValueError as error:
            return NoAnswer(f"{self.path}: {error}")
