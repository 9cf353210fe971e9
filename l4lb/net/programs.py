"""Runs an operator's programs: no shell, an environment that is given whole, empty input. On the thread of an event
loop.

A program runs in a new session and process group, which is killed when the program ends and when nobody waits for it
any more: no process that it started remains, unless that one began another session.

A pidfd reports the program's end. SIGCHLD would not do: it belongs to the program that embeds the balancer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

from l4lb.errors import EngineError
from l4lb.net.threads import started

READ_BYTES = 65536
REAP_S = 0.05


class TooMuch(Exception):
    """The program printed more than anybody wants to read."""


class Program:
    """One that runs, and the read ends of its pipes: `printed` and, where it was asked for, `complained`."""

    def __init__(self, process: subprocess.Popen[bytes], fds: Sequence[int], keep_bytes: int, max_bytes: int) -> None:
        self.process = process
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outputs = [Output(fd, keep_bytes, max_bytes, self._ended) for fd in fds]
        self.printed, self.complained = self._outputs[0], self._outputs[-1]

    async def ended(self) -> None:
        """Read its output until it ends. Does not reap it. Raises TooMuch; OSError for pidfd_open(2), EMFILE or so."""
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(self.process.pid)
        for output in self._outputs:
            loop.add_reader(output.fd, output.read)
        loop.add_reader(pidfd, self._end)
        try:
            await self._ended
        finally:
            loop.remove_reader(pidfd)
            for output in self._outputs:
                loop.remove_reader(output.fd)
            os.close(pidfd)

    def _end(self) -> None:
        """The program has ended: the rest of its output is in the pipes."""
        for output in self._outputs:
            output.read_rest()
        if not self._ended.done():
            self._ended.set_result(None)

    def close(self) -> None:
        for output in self._outputs:
            os.close(output.fd)
        with contextlib.suppress(ProcessLookupError):  # before it is reaped: until then no other process has its id
            os.killpg(self.process.pid, signal.SIGKILL)
        _reap(self.process)

    def failure(self) -> str:
        """Why it failed, once it is closed; empty when it did not."""
        code = self.process.returncode
        if not code:
            return ""
        ended = f"exit code {code}" if code > 0 else f"killed by {_signal_name(-code)}"
        return f"{ended}: {self.complained.line}" if self.complained.line else ended


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    keep_bytes: int,
    max_bytes: int,
    errors: bool = False,
) -> Program:
    """Keeps the first `keep_bytes` that it prints. With `errors`, what it says on stderr is kept apart; else that is
    lost.

    pipe2(2): EMFILE, ENFILE. fork(2): EAGAIN (processes or threads), ENOMEM. execve(2) is about the program. ValueError
    for a NUL in the command. Opens the descriptors itself: when Popen of Python 3.11.2 cannot open one, it leaks the
    others.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        theirs.callback(os.close, null)
        ends = [_pipe(theirs, ours) for _ in range(2 if errors else 1)]
        process = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            stdin=null,
            stdout=ends[0][1],
            stderr=ends[1][1] if errors else null,
        )
        ours.pop_all()
    return Program(process, [read for read, _ in ends], keep_bytes, max_bytes)


def _pipe(theirs: contextlib.ExitStack, ours: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    return read, write


def _reap(process: subprocess.Popen[bytes]) -> None:
    """A killed process is gone within a millisecond, unless the kernel holds it; nobody here waits for that. When no
    thread can start for the wait, `subprocess` reaps it at the start of the next program."""
    try:
        process.wait(REAP_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(EngineError):
            started(threading.Thread(target=process.wait, name="l4lb-reap", daemon=True))


class Output:
    """Reads all output of a program, so that it never blocks, and keeps the beginning. Too much of it ends `ended`."""

    def __init__(self, fd: int, keep_bytes: int, max_bytes: int, ended: asyncio.Future[None]) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.kept = bytearray()
        self._keep_bytes, self._max_bytes, self._ended = keep_bytes, max_bytes, ended
        self._count = 0

    @property
    def line(self) -> str:
        """The first one, as it may be shown."""
        text = self.kept[:200].partition(b"\n")[0].decode("utf-8", "replace").strip()
        return "".join(char if char.isprintable() else "?" for char in text)

    def read(self) -> int:
        """What is there, READ_BYTES at most. How much that was."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.fd, READ_BYTES)
            self._count += len(data)
            self.kept += data[: max(0, self._keep_bytes - len(self.kept))]
            if not data:
                asyncio.get_running_loop().remove_reader(self.fd)
            elif self._count > self._max_bytes and not self._ended.done():
                self._ended.set_exception(TooMuch(f"printed more than {self._max_bytes >> 20} MiB"))
            return len(data)
        return 0

    def read_rest(self) -> None:
        while self.read() and not self._ended.done():
            pass


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time one
