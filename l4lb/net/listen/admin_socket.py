"""The admin API's socket: its address, and how to take that without stealing it from a live instance."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l4lb.net.address import parse_address, resolve_listener
from l4lb.net.listen.holders import taken_by
from l4lb.net.listen.unix_paths import bind_unix, remove_own
from l4lb.net.privileges import Identity


def default_admin_address() -> str:
    """In RUNTIME_DIRECTORY, which a service manager made; ``/run/l4lb`` as root; else below XDG_RUNTIME_DIR, else in a
    directory of this user's in /tmp."""
    if made := os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]:
        return f"unix:{made}/admin.sock"
    if os.geteuid() == 0:
        return "unix:/run/l4lb/admin.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"unix:{runtime}/l4lb/admin.sock" if runtime else f"unix:/tmp/l4lb-{os.getuid()}/admin.sock"


def peer_of(fd: int) -> tuple[int, int]:
    """The process and the user that connected a unix socket, as they were then: SO_PEERCRED of unix(7). The pid is 0
    for a process of a namespace that is not seen from here. OSError when `fd` is none."""
    sock = socket.socket(fileno=fd)
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    finally:
        sock.detach()  # it stays its owner's
    pid, uid, _ = struct.unpack("iII", raw)
    return pid, uid


@dataclass(slots=True)
class AdminSocket:
    """A listening socket; for a unix one also the lock beside it, which a live instance holds."""

    sock: socket.socket
    address: str
    path: Path | None = None
    lock_fd: int = -1
    inode: int = 0
    asked_for: str = ""  # as in the configuration
    _to_own: tuple[str, int] = ("", 0)

    def described(self) -> dict[str, Any]:
        """What the next process needs to know, besides the descriptors."""
        return {"address": self.address, "asked_for": self.asked_for, "path": str(self.path or ""), "inode": self.inode}

    def fds(self) -> list[int]:
        return [self.sock.fileno(), *([self.lock_fd] if self.lock_fd >= 0 else [])]

    @classmethod
    def imported(cls, fds: Sequence[int], described: Mapping[str, Any]) -> AdminSocket:
        """From another process: its file is that one's until `claim`. The lock is held while either has it open."""
        lock_fd = fds[1] if len(fds) > 1 else -1
        to_own = (described["path"], described["inode"])
        return cls(
            socket.socket(fileno=fds[0]),
            described["address"],
            lock_fd=lock_fd,
            asked_for=described["asked_for"],
            _to_own=to_own,
        )

    @property
    def file(self) -> Path | None:
        """The file that `close` removes, once this process owns it."""
        return self.path or (Path(self._to_own[0]) if self._to_own[0] else None)

    def give(self, owner: Identity | None) -> None:
        """Give its files to the user that this process is to become."""
        if self.file is not None:
            _give(self.file, owner)
            _give(_lock_path(self.file), owner)

    def claim(self) -> None:
        """The process that it was taken over from will not remove its file: this one will."""
        path, inode = self._to_own
        if path:
            self.path, self.inode = Path(path), inode
            _write_pid(self.lock_fd)

    def give_up(self) -> None:
        """Another process has taken it over, with its file."""
        self.path = None

    def close(self) -> None:
        """Close it and remove its file, unless somebody else's file is there now."""
        self.sock.close()
        if self.path is not None:
            remove_own(str(self.path), self.inode)
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1


def _lock(path: Path) -> int:
    """The lock file's fd. OSError EADDRINUSE when another process holds it."""
    fd = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise OSError(errno.EADDRINUSE, f"held by a live instance (pid {holder or 'unknown'})") from None
    _write_pid(fd)
    return fd


def _write_pid(lock_fd: int) -> None:
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, str(os.getpid()).encode(), 0)


def _make_directory(path: Path, owner: Identity | None, *, private: bool) -> None:
    """Make it for `owner`, or this user, alone. With `private`, as in /tmp, an existing one must be private too."""
    made = not path.exists()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    owners = {os.geteuid(), *([owner.uid] if owner else [])}
    if private and (not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners or found.st_mode & 0o022):
        raise OSError(errno.EPERM, f"{path} is not a directory that only this user may write to")
    if made or private:
        _give(path, owner)


def _give(path: Path, owner: Identity | None) -> None:
    if owner is not None and os.geteuid() == 0:
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


def _lock_path(path: Path) -> Path:
    return path.with_suffix(path.suffix + ".lock")


def _open_unix(path: Path, address: str, owner: Identity | None) -> AdminSocket:
    """The lock keeps instances apart; a socket file that nobody answers on is stale and replaced."""
    _make_directory(path.parent, owner, private=address == default_admin_address())
    lock_fd = _lock(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        inode = bind_unix(sock, str(path), str(path))
        path.chmod(0o600)
        sock.listen(128)
    except BaseException:
        sock.close()
        os.close(lock_fd)
        raise
    return AdminSocket(sock, address, path, lock_fd, inode)


def _open_tcp(address: str) -> AdminSocket:
    target = resolve_listener(parse_address(address))[0]
    sock = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)  # type: ignore[union-attr]
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((target.host, target.port))  # type: ignore[union-attr]
        sock.listen(128)
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise OSError(error.errno, f"{error.strerror}{taken_by(target, socket.SOCK_STREAM)}") from None  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
    host, port = sock.getsockname()[:2]
    return AdminSocket(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def open_admin_socket(address: str, owner: Identity | None = None) -> AdminSocket:
    """See `_open`. A directory made for a unix socket belongs to `owner`, the user that this process is to become."""
    opened = _open(address, owner)
    opened.asked_for = address
    return opened


def _open(address: str, owner: Identity | None) -> AdminSocket:
    """OSError when the address is not available; its `strerror` says so when a live instance holds it."""
    parsed = parse_address(address)
    if parsed.kind != "unix":
        return _open_tcp(address)
    if parsed.host.startswith("@"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            bind_unix(sock, "\0" + parsed.host[1:])
            sock.listen(128)
        except BaseException:
            sock.close()
            raise
        return AdminSocket(sock, address)
    return _open_unix(Path(parsed.host), address, owner)
