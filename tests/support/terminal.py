"""A real terminal for programs that take the whole screen: tmux, with a server of its own, typed into and read."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.programs import require, without_preload
from tests.support.waiting import wait_until


class Terminal:
    """`directory` holds the server's socket: one of its own, since a server that ends may still accept a client."""

    def __init__(self, directory: Path, command: list[str], width: int, height: int) -> None:
        self._tmux = [require("tmux"), "-S", str(directory / "tmux"), "-f", "/dev/null"]
        self._run("new-session", "-d", "-x", str(width), "-y", str(height), *command)

    def _run(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments], env=without_preload(), capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    @property
    def screen(self) -> str:
        """What is on it; empty once the program has ended."""
        return self._run("capture-pane", "-p", check=False)

    @property
    def coloured(self) -> str:
        """The same with escape sequences for colours and attributes."""
        return self._run("capture-pane", "-p", "-e", check=False)

    def wait_for(self, *texts: str) -> str:
        """Until the screen shows all of them at once: the screen."""
        seen = ""

        def shows() -> bool:
            nonlocal seen
            seen = self.screen
            return all(text in seen for text in texts)

        assert wait_until(shows, 30), f"not all of {texts} in:\n{seen}"
        return seen

    def line_with(self, text: str) -> str:
        return next((line for line in self.screen.splitlines() if text in line), "")

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._run("resize-window", "-x", str(width), "-y", str(height))

    @property
    def ended(self) -> bool:
        return self._run("list-sessions", check=False) == ""

    def close(self) -> None:
        self._run("kill-server", check=False)


@contextlib.contextmanager
def terminal(command: list[str], width: int = 80, height: int = 24) -> Iterator[Terminal]:
    with tempfile.TemporaryDirectory(prefix="l4lb-terminal-", ignore_cleanup_errors=True) as directory:
        shown = Terminal(Path(directory), command, width, height)
        try:
            yield shown
        finally:
            shown.close()
