"""Messages with file descriptors to a process that does not run yet: `l4lb.net.handover` without anybody who answers.

What is said is in a file in memory; the descriptors that go with it wait in the queue of a unix socket, in the same
order. Whoever keeps the two keeps everything: one descriptor for the file, one for the end from which the queue is
read, however many sockets are in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from array import array
from collections.abc import Mapping, Sequence

from l4lb.net.handover import FDS_MAX, Channel, Message, close_all, parsed, receive_fds

_HEAD = struct.Struct("!II")
STATE, QUEUE = "l4lb-state", "l4lb-queue"  # what the two are called where they are kept


class Store(Channel):
    """The end that is written. OSError from `send` and `send_bulk` when the queue can hold no more descriptors: EAGAIN,
    ENOBUFS; ETOOMANYREFS: more than a user may have on their way (RLIMIT_NOFILE, unless CAP_SYS_RESOURCE)."""

    def __init__(self) -> None:
        sock, self._queue = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)  # as far as net.core.wmem_max lets it
        try:
            self._state = os.memfd_create(STATE)
        except BaseException:
            self._queue.close()
            sock.close()
            raise

    def kept(self) -> Mapping[str, int]:
        """What to keep, by name. It stays open here until `close`."""
        return {STATE: self._state, QUEUE: self._queue.fileno()}

    def send(self, message: Message, fds: Sequence[int] = (), timeout_s: float = 0.0) -> None:
        data = json.dumps(message).encode()
        self._write(_HEAD.pack(len(data), len(fds)) + data, fds)

    def send_bulk(self, data: bytes, fds: Sequence[int], timeout_s: float = 0.0) -> None:
        self._write(data, fds)

    def _write(self, data: bytes, fds: Sequence[int]) -> None:
        for start in range(0, len(fds), FDS_MAX):
            socket.send_fds(self.sock, [b"\0"], fds[start : start + FDS_MAX])
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._state, rest) :]

    def discard(self) -> None:
        """Leave nothing in it, whoever keeps it by now: what it holds is not to be taken over."""
        os.ftruncate(self._state, 0)
        self._queue.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                _, fds, _ = receive_fds(self._queue, 1)
                close_all(fds)

    def close(self) -> None:
        super().close()
        self._queue.close()
        os.close(self._state)


class Stored(Channel):
    """The end that is read, by the process for which it was kept. What it says nobody hears. ConnectionResetError at
    the end of the file."""

    def __init__(self, state_fd: int, queue: socket.socket) -> None:
        super().__init__(queue)
        queue.setblocking(False)
        self._state = state_fd
        self._at = 0

    @property
    def is_empty(self) -> bool:
        """Whether it was discarded."""
        return os.fstat(self._state).st_size == 0

    def send(self, message: Message, fds: Sequence[int] = (), timeout_s: float = 0.0) -> None:
        """To nobody."""

    def receive(self, timeout_s: float = 0.0) -> tuple[Message, list[int]]:
        length, count = _HEAD.unpack(self._read(_HEAD.size))
        message = parsed(self._read(length))
        return message, list(self._take(count))

    def receive_bulk(self, length: int, count: int, timeout_s: float = 0.0) -> tuple[bytes, array[int]]:
        data = self._read(length)
        return data, self._take(count)

    async def wait_for_message(self) -> tuple[Message, list[int]] | None:
        try:
            return self.receive()
        except OSError:
            return None

    def _read(self, length: int) -> bytes:
        """Not from where the process that wrote it stands: the two share one position."""
        data = os.pread(self._state, length, self._at)
        if len(data) < length:
            raise ConnectionResetError("what was kept ends here")
        self._at += length
        return data

    def _take(self, count: int) -> array[int]:
        """recvmsg(2): EAGAIN, or the end, when there are fewer; MSG_CTRUNC when this process may have no more."""
        fds = array("i")
        try:
            while len(fds) < count:
                mark, more, flags = receive_fds(self.sock, 1)
                fds.extend(more)
                if not mark or flags & socket.MSG_CTRUNC:
                    raise ConnectionResetError("descriptors were lost")
        except BaseException:
            close_all(fds)
            raise
        return fds

    def close(self) -> None:
        super().close()
        os.close(self._state)
