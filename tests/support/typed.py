"""`l4lb` as someone types it: in a terminal of its own, of a given width."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from typing import Self

_WITHIN_S = 60.0
_COLOURS = re.compile(r"\033\[[0-9;]*m")


class Typed:
    """A command that runs in one. Use it in a ``with`` statement."""

    def __init__(
        self, *arguments: str, columns: int = 80, lines: int = 24, environment: Mapping[str, str] | None = None
    ) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
        known = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "l4lb", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**known, "TERM": "xterm", **(environment or {})},
            start_new_session=True,
        )
        os.close(theirs)
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def shown(self) -> str:
        """So far, without colours."""
        return _COLOURS.sub("", self._read.decode(errors="replace")).replace("\r\n", "\n")

    def wait_for(self, text: str) -> None:
        while text not in self.shown():
            assert self.read(), (text, self.shown())

    def end(self) -> tuple[int, str]:
        """Exit code and all that it has shown."""
        while self.read():
            pass
        return self.process.wait(_WITHIN_S), self.shown()

    def read(self, within_s: float = _WITHIN_S) -> bool:
        """Whether something came; False once the other end is closed, or when nothing came within a shorter time."""
        if not select.select([self._ours], [], [], within_s)[0]:
            assert within_s < _WITHIN_S, self.shown()
            return False
        with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more
            if data := os.read(self._ours, 65536):
                self._read += data
                return True
        return False


def in_terminal(*arguments: str, columns: int = 80, environment: Mapping[str, str] | None = None) -> str:
    """What a command that succeeds shows."""
    with Typed(*arguments, columns=columns, environment=environment) as terminal:
        code, shown = terminal.end()
    assert code == 0, shown
    return shown
