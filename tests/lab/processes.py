"""The programs of a lab: each on a host, with its log in the lab's directory. None outlives the lab, not even one that
is killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.namespaces import Host
from tests.support.programs import require, without_preload

_LEAVE_S = 10.0  # for l4lb, to take its programs from the devices


class Processes:
    """By name. Every one is in a process group of its own: Ctrl-C in the terminal is for the lab, which ends them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, host: Host, name: str, *command: str) -> None:
        words = [*host.command, require("setpriv"), "--pdeathsig", "KILL", "--", require(command[0]), *command[1:]]
        with self._log(name).open("ab") as log:
            environment = None if command[0] == sys.executable else without_preload()
            self._running[name] = subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running.pop(name).wait()

    def __contains__(self, name: str) -> bool:
        return name in self._running

    def ended(self) -> dict[str, str]:
        """Those that should run and do not, each with the end of what it said."""
        return {
            name: f"{name} has ended with {process.returncode}\n  {self.said(name)}"
            for name, process in self._running.items()
            if process.poll() is not None
        }

    def said(self, name: str) -> str:
        """The end of its log."""
        return "\n  ".join(self._log(name).read_text(errors="replace").splitlines()[-8:])

    def stop(self) -> None:
        """The last one started goes first."""
        for name in reversed(list(self._running)):
            process = self._running[name]
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LEAVE_S if "l4lb" in name else 0.5)
            self.kill(name)

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"


@contextlib.contextmanager
def processes(directory: Path) -> Iterator[Processes]:
    made = Processes(directory)
    try:
        yield made
    finally:
        made.stop()
