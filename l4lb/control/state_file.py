"""The state file: runtime changes that are to survive a restart, as JSON. Read before the start, replaced whole after
each change, so that it is never half of one.

What it says holds by the rule of `desired.py`, as at a reload.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

from l4lb.config import Config
from l4lb.control.desired import Desired, Drained, Overlay, restored, restored_drained, saved
from l4lb.control.events import Events
from l4lb.control.state import State
from l4lb.errors import ConfigError
from l4lb.net.files import read_text

FORMAT = 1
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC  # ENXIO for a FIFO that nobody reads


def read_state(config: Config) -> tuple[Overlay, Drained]:
    """What the state file of `config` says; nothing when there is none. ConfigError, with its place, when it cannot be
    read or is broken, and when it could not be written either."""
    path = config.global_.state_file
    if not path:
        return {}, {}
    try:
        directory = Path(path).resolve().parent
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ValueError(f"cannot be written: {directory} is no directory that this user may write to")
        return _parse(read_text(path))
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise ConfigError([config.problem(("global", "state_file"), f'"{path}": {reason}')]) from error


def _parse(text: str) -> tuple[Overlay, Drained]:
    try:
        said = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError("not JSON of this program: too many levels within each other") from None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise ValueError(f'expected an object with "format": {FORMAT}')
    if unknown := said.keys() - {"format", "pools", "drained"}:
        raise ValueError(f'"{min(unknown)}": unknown')
    return restored(said.get("pools", {})), restored_drained(said.get("drained", {}))


def _text(desired: Desired) -> str:
    said: dict[str, Any] = {"format": FORMAT, "pools": saved(desired.overlay), "drained": desired.drained}
    return json.dumps(said, indent=1) + "\n"


def _replace(path: Path, text: str) -> None:
    """Whoever reads it, also after a power failure, finds the old text or the new one."""
    real = path.resolve()
    new = real.with_name(real.name + ".new")
    with open(os.open(new, _NEW, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(real)
    directory = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class StateFile:
    """Where the configuration of this moment says; nowhere when it does not. Control loop only."""

    def __init__(self, state: State, events: Events) -> None:
        self._state = state
        self._events = events
        self._written = ("", "")

    async def keep(self, desired: Desired) -> None:
        """Return once it is on disk. When that fails the change holds all the same, and an event says so."""
        path, text = self._state.config.global_.state_file, _text(desired)
        if not path or self._written == (path, text):
            return
        try:
            await asyncio.to_thread(_replace, Path(path), text)
        except OSError as error:
            reason = f"{error.strerror}: runtime changes will not survive a restart"
            self._events.emit("state_file_failed", {"path": path, "reason": reason}, logging.ERROR)
        else:
            self._written = (path, text)
