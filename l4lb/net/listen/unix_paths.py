"""The files of unix sockets: what may be replaced, and what may be removed. Control thread: nothing here blocks."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct

from l4lb.net.listen.holders import owner_of, process_name, unix_inodes

_KINDS = (
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def remove_stale(path: str) -> None:
    """Remove a stale socket at `path`: one that refuses was left by a process that died.

    Anything else stays and is an error with a message: OSError EEXIST for what is no socket, EADDRINUSE for a socket in
    use.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        kind = next((words for test, words in _KINDS if test(found.st_mode)), "a file")
        raise OSError(errno.EEXIST, f"{kind} is in the way, expected a socket or nothing")
    if (holder := _who_lives_at(path)) is None:
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(path).st_ino == found.st_ino:
                os.unlink(path)
        return
    raise OSError(errno.EADDRINUSE, _in_use(holder))


def _in_use(holder: str) -> str:
    return f"{os.strerror(errno.EADDRINUSE)}" + (f": the socket is {holder}'s" if holder else "")


def _who_lives_at(path: str) -> str | None:
    """The process that listens there; empty when that is unknown; None: the socket is stale.

    connect(2), non-blocking: ECONNREFUSED nobody listens; EAGAIN somebody does, and the backlog is full, for which a
    blocking call would wait; EPROTOTYPE it is a socket of another type, in use; EACCES it may be anybody's; ENOENT it
    is gone.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except OSError:
            return owner_of(unix_inodes(path))
        peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = int(struct.unpack("3i", peer)[0])
        return process_name(pid) if pid else ""  # 0: of another pid namespace


def bind_unix(sock: socket.socket, name: str | bytes, path: str = "") -> int:
    """Bind to a path, replacing a stale socket, or to an abstract name. Returns the inode of the new file, or 0.
    OSError as `remove_stale`."""
    if path:
        remove_stale(path)
    try:
        sock.bind(name)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        shown = name.replace(b"\0", b"@", 1).decode() if isinstance(name, bytes) else name.replace("\0", "@", 1)
        raise OSError(errno.EADDRINUSE, _in_use(owner_of(unix_inodes(shown)))) from None
    return os.lstat(path).st_ino if path else 0


def is_own(path: str, inode: int) -> bool:
    """Whether the file of a socket is still there, and nobody else's."""
    try:
        return os.lstat(path).st_ino == inode
    except OSError:
        return False


def remove_own(path: str, inode: int) -> None:
    """Remove the file of a closed socket, unless somebody else's file is there now. A process that gave up root has
    already warned that it stays."""
    with contextlib.suppress(OSError):
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
