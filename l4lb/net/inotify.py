"""Hears of changes in a directory, by inotify(7). On the thread of an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from pathlib import Path

_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x8, 0x40, 0x80, 0x200, 0x400, 0x800
_ONLYDIR, _IGNORED, _OVERFLOW = 0x01000000, 0x8000, 0x4000
_MASK = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_HEAD = struct.Struct("iIII")  # wd, mask, cookie, length of the name that follows
_READ_BYTES = 65536


class DirectoryWatch:
    """Names of files that were closed after writing, moved in or out, or removed. `gone`: nothing more is heard, since
    the directory itself is.

    inotify_init1(2): EMFILE (fs.inotify.max_user_instances, or descriptors). inotify_add_watch(2): ENOENT, ENOTDIR,
    EACCES, ENOSPC (fs.inotify.max_user_watches). OSError for all of them, and nothing stays open.
    """

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if libc.inotify_add_watch(self._fd, os.fsencode(directory), _MASK) < 0:
            number = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(number, os.strerror(number))
        self.gone = False
        self._names: set[str] = set()
        self._heard = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    async def wait(self, timeout_s: float) -> set[str]:
        """What has changed since the last call: at once, or as soon as something does. Empty after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()
        self._heard.clear()
        names, self._names = self._names, set()
        return names

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._fd, _READ_BYTES)
            at = 0
            while at < len(data):
                _, mask, _, length = _HEAD.unpack_from(data, at)
                at += _HEAD.size + length
                self._names.add(os.fsdecode(data[at - length : at].rstrip(b"\0")))
                self.gone = self.gone or bool(mask & (_IGNORED | _MOVE_SELF | _OVERFLOW))
            self._heard.set()
