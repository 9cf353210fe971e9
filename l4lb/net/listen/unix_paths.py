"""The files of unix sockets: what may be replaced there, and what may be removed. Control thread: nothing here waits
for anybody."""

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
    """Make room at `path`: a socket that refuses is left from a process that died, and is removed.

    Everything else is left as it is and is an error: OSError EEXIST for what is no socket, EADDRINUSE for a socket on
    which somebody lives, with words for both.
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
    """Who listens there, in words, or nothing when that is not known; None: the socket is stale.

    connect(2), without waiting: ECONNREFUSED nobody listens; EAGAIN somebody does, and the backlog is full, for which
    a blocking call would wait as long as it stays so; EPROTOTYPE it is a socket of another type, of somebody;
    EACCES may be anybody's; ENOENT it is gone.
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
    """Bind to a path, where a stale socket is replaced, or to an abstract name. The inode of the new file, or 0.
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


def remove_own(path: str, inode: int) -> None:
    """Remove the file of a socket that is closed, unless someone else has put theirs in its place. Who gave root's
    rights up was warned then that it stays."""
    with contextlib.suppress(OSError):
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
