"""The service manager's side of sd_notify(3): a real unix datagram socket, and who wrote to it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import wait_until

_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Told:
    """One message: its fields, the process that the kernel says sent it, and how many descriptors came with it."""

    pid: int
    fields: dict[str, str]
    fds: int = 0


class Manager:
    """Keeps what it is told, but no descriptors. `environment` is what a service is started with; `deaf`: nobody is
    told that all was read."""

    def __init__(self, address: str) -> None:
        self.deaf = False
        self._unread: list[int] = []
        self.address = address
        self.told: list[Told] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def environment(self, watchdog_s: float = 0.0) -> dict[str, str]:
        watchdog = {"WATCHDOG_USEC": str(round(watchdog_s * 1e6))} if watchdog_s else {}
        return {"NOTIFY_SOCKET": self.address, **watchdog}

    def _receive(self) -> None:
        while True:
            data, more, _, _ = self._sock.recvmsg(1 << 16, socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4))
            if not data:
                return
            found = {kind: content for _, kind, content in more}
            lines = data.decode().splitlines()
            rights = found.get(socket.SCM_RIGHTS, b"")
            fds = list(struct.unpack(f"{len(rights) // 4}i", rights))
            if lines == ["BARRIER=1"] and self.deaf:  # the sender waits until all is read: until this is closed
                self._unread += fds
                continue
            for fd in fds:
                os.close(fd)
            if lines != ["BARRIER=1"]:
                pid, _, _ = _CREDENTIALS.unpack(found[socket.SCM_CREDENTIALS])
                self.told.append(Told(pid, dict(line.split("=", 1) for line in lines), len(fds)))

    def count(self, key: str, value: str | None = None, pid: int | None = None) -> int:
        """How many messages set `key`, to `value`, from `pid`."""
        return sum(
            key in one.fields and value in (None, one.fields[key]) and pid in (None, one.pid) for one in list(self.told)
        )

    def wait_for(self, key: str, value: str | None = None, count: int = 1, pid: int | None = None) -> Told:
        """The message that is the `count`-th of these."""
        assert wait_until(lambda: self.count(key, value, pid) >= count, 60), (key, value, self.told)
        found = [one for one in self.told if key in one.fields and value in (None, one.fields[key])]
        return [one for one in found if pid in (None, one.pid)][count - 1]

    def stop(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self._sock.getsockname())
        self._thread.join()
        self._sock.close()
        for fd in self._unread:
            os.close(fd)


@contextlib.contextmanager
def managing(directory: Path, *, abstract: bool = False) -> Iterator[Manager]:
    manager = Manager(f"@l4lb-test-{directory.name}" if abstract else f"{directory}/notify")
    try:
        yield manager
    finally:
        manager.stop()
