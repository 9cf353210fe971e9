"""Reads files that a configuration names, with bounded time and size, and replaces them. On any thread.

A path may lead to a FIFO without a writer or to an endless device: a plain open or read would then block its thread for
ever, be it the control loop's or one of its helpers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import time
from pathlib import Path

BYTES_MAX = 16 << 20
_STREAM_WITHIN_S = 5.0  # of what a shell's <(...) or a pipe gives


def read_bytes(path: str | Path, *, bytes_max: int = BYTES_MAX, within_s: float = _STREAM_WITHIN_S) -> bytes:
    """The content of the file, or what comes through the pipe within `within_s`.

    open(2) with O_NONBLOCK: a FIFO without a writer opens at once and is empty; ENXIO for a unix socket. read(2):
    EAGAIN, a writer is there and has not written yet. OSError EFBIG when it is larger, ETIMEDOUT when it does not end,
    EISDIR for a directory, EINVAL for a device and for a path that no file can have.
    """
    if "\0" in str(path):  # Python's own words for it differ from release to release
        raise OSError(errno.EINVAL, "a NUL in the path")
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not os.isatty(fd) and not _is_null(fd)):
            raise OSError(errno.EINVAL, "a device, expected a file")
        return _read(fd, bytes_max, time.monotonic() + within_s)
    finally:
        os.close(fd)


def _is_null(fd: int) -> bool:
    return os.fstat(fd).st_rdev == os.makedev(1, 3)  # /dev/null, which is empty


def _read(fd: int, bytes_max: int, deadline: float) -> bytes:
    data = bytearray()
    asked = select.poll()
    asked.register(fd, select.POLLIN)
    while True:
        try:
            more = os.read(fd, 1 << 20)
        except BlockingIOError:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not asked.poll(left_s * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "nothing has come by the pipe, expected a file") from None
            continue
        data += more
        if not more:
            return bytes(data)
        if len(data) > bytes_max:
            raise OSError(errno.EFBIG, f"larger than {bytes_max >> 20} MiB")
        if time.monotonic() > deadline and not stat.S_ISREG(os.fstat(fd).st_mode):
            raise TimeoutError(errno.ETIMEDOUT, "the pipe does not end, expected a file")


def read_text(path: str | Path, *, bytes_max: int = BYTES_MAX) -> str:
    """The same as UTF-8; also UnicodeDecodeError. Line ends become ``\\n``."""
    text = read_bytes(path, bytes_max=bytes_max).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that readers find the old content or the new one, whatever happens meanwhile. Keeps the
    permissions of a file that is there; follows symbolic links. OSError; the old content is there then."""
    real = path.resolve()
    new = real.with_name(f".{real.name}.{os.getpid()}.new")
    try:
        with open(new, "xb") as file:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(real.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(real)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
