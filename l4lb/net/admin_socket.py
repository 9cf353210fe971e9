"""Where the admin API listens, and how it takes that address without stealing it from a live instance."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from l4lb.net.address import parse_address, resolve_listener


def default_admin_address() -> str:
    """``/run/l4lb`` as root, else below XDG_RUNTIME_DIR, else a directory of this user's in /tmp."""
    if os.geteuid() == 0:
        return "unix:/run/l4lb/admin.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"unix:{runtime}/l4lb/admin.sock" if runtime else f"unix:/tmp/l4lb-{os.getuid()}/admin.sock"


@dataclass(slots=True)
class AdminSocket:
    """A listening socket; for a unix one also the lock beside it, which a live instance holds."""

    sock: socket.socket
    address: str
    path: Path | None = None
    lock_fd: int = -1

    def close(self) -> None:
        self.sock.close()
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1


def _lock(path: Path) -> int:
    """The lock file's fd. OSError EADDRINUSE when another process holds it."""
    fd = os.open(path.with_suffix(path.suffix + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise OSError(errno.EADDRINUSE, f"held by a live instance (pid {holder or 'unknown'})") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def _open_unix(path: Path, address: str) -> AdminSocket:
    """The directory is made for this user alone; a socket file without its lock held is stale and replaced."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock_fd = _lock(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(128)
    except BaseException:
        sock.close()
        os.close(lock_fd)
        raise
    return AdminSocket(sock, address, path, lock_fd)


def _open_tcp(address: str) -> AdminSocket:
    target = resolve_listener(parse_address(address))[0]
    sock = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)  # type: ignore[union-attr]
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((target.host, target.port))  # type: ignore[union-attr]
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    host, port = sock.getsockname()[:2]
    return AdminSocket(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def open_admin_socket(address: str) -> AdminSocket:
    """OSError when the address cannot be had, with `strerror` in words when a live instance holds it."""
    parsed = parse_address(address)
    if parsed.kind != "unix":
        return _open_tcp(address)
    if parsed.host.startswith("@"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.bind("\0" + parsed.host[1:])
            sock.listen(128)
        except BaseException:
            sock.close()
            raise
        return AdminSocket(sock, address)
    return _open_unix(Path(parsed.host), address)
