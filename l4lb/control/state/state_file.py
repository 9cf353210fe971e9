"""The state file: runtime changes that are to survive a restart, as JSON. Read before the start and replaced atomically
with each change, so that it is never half written. A change that cannot be saved is not made: a change that was
confirmed to an operator survives a restart.

Its content is applied by the rule of `desired.py`, as at a reload.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from l4lb.config import Config
from l4lb.control.state import bans
from l4lb.control.state.bans import Bans
from l4lb.control.state.desired import Desired, Drained, Overlay, restored, restored_drained, saved
from l4lb.control.state.events import Events
from l4lb.errors import ChangeError, ConfigError
from l4lb.net.files import read_text

FORMAT = 1
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC  # ENXIO for a FIFO that nobody reads


class Saved(NamedTuple):
    """What a state file has, in the order of `Inheritance`."""

    overlay: Overlay = MappingProxyType({})
    drained: Drained = MappingProxyType({})
    bans: Bans = Bans()


def read_state(config: Config) -> Saved:
    """The content of the state file of `config`; empty when there is none. ConfigError, with its place, when it cannot
    be read or written, or is broken."""
    path = config.global_.state_file
    if not path:
        return Saved()
    try:
        directory = Path(path).resolve().parent
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ValueError(f"cannot be written: {directory} is no directory that this user may write to")
        return _parse(read_text(path))
    except FileNotFoundError:
        return Saved()
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise ConfigError([config.problem(("global", "state_file"), f'"{path}": {reason}')]) from error


def _parse(text: str) -> Saved:
    try:
        said = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError("not JSON of this program: too many levels within each other") from None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise ValueError(f'expected an object with "format": {FORMAT}')
    if unknown := said.keys() - {"format", "pools", "drained", "bans"}:
        raise ValueError(f'"{min(unknown)}": unknown')
    pools, drained = restored(said.get("pools", {})), restored_drained(said.get("drained", {}))
    return Saved(pools, drained, bans.restored(said.get("bans", [])))


def _text(desired: Desired) -> str:
    said: dict[str, Any] = {"format": FORMAT, "pools": saved(desired.overlay), "drained": desired.drained}
    text = json.dumps(said, indent=1)
    if desired.bans:  # one a line: there may be thousands, which json would take four times as long to indent
        lines = ",\n  ".join(map(json.dumps, bans.saved(desired.bans)))
        text = f'{text[:-2]},\n "bans": [\n  {lines}\n ]\n}}'
    return text + "\n"


def _new_of(path: Path) -> Path:
    real = path.resolve()
    return real.with_name(real.name + ".new")


def _write(path: Path, text: str) -> None:
    """Write a file beside it, and sync. A full or broken disk fails here."""
    with open(os.open(_new_of(path), _NEW, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path) -> None:
    """Replace it by that file. Readers, even after a power failure, find the old text or the new one."""
    real = path.resolve()
    _new_of(path).replace(real)
    with contextlib.suppress(OSError):  # EINVAL, where a directory has no fsync; EIO: see above
        directory = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _remove_new(path: Path) -> None:
    with contextlib.suppress(OSError):
        _new_of(path).unlink()


def _says(path: Path, text: str, *, empty: bool) -> bool:
    """Whether the file has this text already. A missing file counts as empty."""
    try:
        return read_text(path) == text
    except FileNotFoundError:
        return empty
    except (OSError, ValueError):
        return False


class StateFile:
    """The file that a configuration names, if it names one. Control loop only, one change at a time."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._failing = False

    async def begin(self, desired: Desired) -> Saving:
        """Write the new desired state. ChangeError when that fails; nothing has changed then."""
        path = desired.config.global_.state_file
        if not path:
            return Saving(self, None)
        text = await asyncio.to_thread(_text, desired)
        empty = not desired.overlay and not desired.drained and not desired.bans
        if await asyncio.to_thread(_says, Path(path), text, empty=empty):
            return Saving(self, None)
        await self.attempt(_write, Path(path), text)
        return Saving(self, Path(path))

    async def attempt(self, call: Callable[..., None], path: Path, *arguments: str) -> None:
        """Logs the first failure; each failure is reported to its caller."""
        try:
            await asyncio.to_thread(call, path, *arguments)
        except OSError as error:
            await asyncio.to_thread(_remove_new, path)
            reason = f"{error.strerror}: changes are refused, since they would not survive a restart"
            if not self._failing:
                self._events.emit("state_file_failed", {"path": str(path), "reason": reason}, logging.ERROR)
            self._failing = True
            message = f'not done: it cannot be saved in "{path}": {error.strerror}'
            raise ChangeError("state_not_saved", message, "global.state_file") from error
        self._failing = False


class Saving:
    """What `begin` wrote: `commit` it once nothing else can fail, or `discard` it."""

    def __init__(self, file: StateFile, path: Path | None) -> None:
        self._file = file
        self._path = path

    async def commit(self) -> None:
        """Return once a restart would find it. ChangeError when that fails."""
        path, self._path = self._path, None
        if path is not None:
            await self._file.attempt(_replace, path)

    async def discard(self) -> None:
        if self._path is not None:
            await asyncio.to_thread(_remove_new, self._path)
