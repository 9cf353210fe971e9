"""Targets of log lines: a file, this process's stdout or stderr, a syslog daemon. None of them ever waits for a reader:
the caller keeps or drops lines that cannot be written now (`line_writer.py`).

A sink is used by one thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
from collections.abc import Sequence
from typing import Protocol

BLOCK_BYTES = 64 * 1024
_ATOMIC_BYTES = 4096  # PIPE_BUF: a pipe that poll(2) calls writable takes so many without waiting
# O_NONBLOCK: what became a FIFO since it was looked at is ENXIO, not a wait for its reader.
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class Sink(Protocol):
    """Events use `name`; `refusals_are_losses`: a refused send means that an earlier one was lost."""

    name: str
    refusals_are_losses: bool

    @property
    def torn(self) -> bool:
        """The last line is only partly written: the next `send`, even an empty one, continues it."""

    def frame(self, line: str, level: int) -> bytes:
        """`line` as `send` takes it; `level` is one of `logging`'s."""

    def send(self, framed: Sequence[bytes]) -> int:
        """How many of these lines, from the first on, it took. OSError when it can take none now: BlockingIOError while
        its reader is slow, others for what is wrong."""

    @property
    def settled(self) -> bool:
        """What was taken has arrived, or is told as lost: `take_lost` has nothing to say."""

    def take_lost(self) -> tuple[int, str]:
        """How many lines that were taken are lost, of those not yet told, and why."""

    def fileno(self) -> int:
        """The descriptor to poll(2) for writing after a BlockingIOError; -1 when there is none."""

    def reopen(self) -> None:
        """Open a file again by its name. On OSError it keeps the old one."""

    def close(self) -> None: ...


class StreamSink:
    """Lines on a stream of bytes. A line that was torn is finished before the next begins."""

    refusals_are_losses = False
    settled = True

    def __init__(self, name: str) -> None:
        self.name = name
        self._rest = b""

    @property
    def torn(self) -> bool:
        return bool(self._rest)

    def frame(self, line: str, level: int) -> bytes:
        return line.encode("utf-8", "backslashreplace") + b"\n"

    def send(self, framed: Sequence[bytes]) -> int:
        if self._rest:
            self._rest = self._rest[self._write(self._rest) :]
            return 0
        block = _block(framed)
        written = self._write(b"".join(block))
        taken = 0
        for line in block:
            if written < len(line):
                break
            written -= len(line)
            taken += 1
        if written:
            self._rest = block[taken][written:]
            taken += 1
        return taken

    def take_lost(self) -> tuple[int, str]:
        return 0, ""

    def _write(self, data: bytes) -> int:
        raise NotImplementedError


def _block(framed: Sequence[bytes]) -> Sequence[bytes]:
    """The first lines, up to about BLOCK_BYTES."""
    size = 0
    for index, line in enumerate(framed):
        size += len(line)
        if size >= BLOCK_BYTES:
            return framed[: index + 1]
    return framed


class FileSink(StreamSink):
    """A file, opened to append and created if missing (mode 0640); a named pipe may wait for its reader."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._fd = self._open()

    def _open(self) -> int:
        """open(2). A named pipe is opened for reading too: else it could not be opened before its reader comes."""
        try:
            pipe = stat.S_ISFIFO(os.stat(self.name).st_mode)
        except FileNotFoundError:
            pipe = False
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC if pipe else _APPEND
        return os.open(self.name, flags, 0o640)

    def _write(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def fileno(self) -> int:
        return self._fd

    def reopen(self) -> None:
        """The new file first, so that an error leaves the old one in use; the end of a torn line still goes there."""
        fd = self._open()
        if self._rest:
            with contextlib.suppress(OSError):
                os.write(self._fd, self._rest)
            self._rest = b""
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


class StandardSink(StreamSink):
    """This process's stdout or stderr (`fd`). Other processes share its mode, so that stays unchanged: a pipe or
    terminal is opened once more as non-blocking."""

    def __init__(self, name: str, fd: int) -> None:
        super().__init__(name)
        self._socket: socket.socket | None = None
        self._polled = False
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            self._fd = self._socket.fileno()
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            self._fd = self._open_again(fd)
        else:
            self._fd = os.dup(fd)

    def _open_again(self, fd: int) -> int:
        """open(2) of /proc/self/fd: EACCES when another user made the pipe: then each write asks poll(2) first."""
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            self._polled = True
            return os.dup(fd)

    def _write(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._polled:
            if not _writable(self._fd):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            data = data[:_ATOMIC_BYTES]
        return os.write(self._fd, data)

    def fileno(self) -> int:
        return self._fd

    def reopen(self) -> None: ...

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._fd)


def _writable(fd: int) -> bool:
    asked = select.poll()
    asked.register(fd, select.POLLOUT)
    return bool(asked.poll(0))
