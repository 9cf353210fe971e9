"""What every routers' daemon is to `l4lb announce`: something that takes a level and may fail. One module in
`engines/` for each, which has its command too."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Protocol

from l4lb.cli.addresses.asking import one_line
from l4lb.cli.addresses.hysteresis import Level
from l4lb.errors import L4lbError

COMMAND_WITHIN_S = 5.0
ANNOUNCED = {
    Level.NORMAL: "announced",
    Level.DRAINING: "announced as draining",
    Level.WITHDRAWN: "withdrawn",
}
_SHOWN_MAX = 300  # characters of what a daemon says


class EngineError(L4lbError):
    """The daemon could not be told, or refused; it is told again later."""


class CommandFailed(EngineError):
    """`said`: all that the program printed."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


class DaemonGone(L4lbError):
    """The daemon that started this process has ended; so does this process."""


class Engine(Protocol):
    """`refresh_s`: how often it is told the same again, since it may have been restarted; 0: it does not forget.
    `retry_s`: how long to wait after a failure. `inbox`: a descriptor on which it answers, -1 for none. `said`: what
    is logged once it knows a level."""

    refresh_s: float
    retry_s: float
    inbox: int
    said: Mapping[Level, str]

    def apply(self, level: Level) -> None:
        """Make this level known, whatever was known before. Raises EngineError, also when only a part was done; and
        DaemonGone."""

    def receive(self) -> None:
        """Read what has come on `inbox`. Raises as `apply`."""


class CommandEngine:
    """A daemon that is told by a program of its own."""

    retry_s = 1.0
    inbox = -1
    said: Mapping[Level, str] = ANNOUNCED

    def __init__(self, refresh_s: float) -> None:
        self.refresh_s = refresh_s

    def receive(self) -> None:
        """Nothing comes by itself."""


def run(command: Sequence[str], within_s: float = COMMAND_WITHIN_S) -> str:
    """What the program prints, stderr included. CommandFailed for an exit code; EngineError when it cannot be started,
    or is not over by then: it is killed in that case."""
    name = os.path.basename(command[0])
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=within_s,
            start_new_session=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise EngineError(f"{name} was not done within {within_s:g} s") from None
    except OSError as error:  # fork(2), execve(2): ENOENT, EACCES, EAGAIN, ENOMEM
        raise EngineError(f"{command[0]}: {error.strerror}") from None
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise CommandFailed(f"{name}: exit code {done.returncode}: {last_line(said)}", said)
    return said


def last_line(said: str) -> str:
    """The last line that is not blank, as it may be shown."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return one_line(lines[-1])[:_SHOWN_MAX] if lines else "it says nothing"
