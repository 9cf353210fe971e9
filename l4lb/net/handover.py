"""Messages with file descriptors from one process to the one that replaces it, over a pair of unix sockets.

A message is a JSON object. On the wire: eight bytes, its length and the number of descriptors, which travel with them
(SCM_RIGHTS, unix(7)), then the JSON. Blocking, each call with a time-out in seconds; on any thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

FDS_MAX = 253  # SCM_MAX_FD
_HEAD = struct.Struct("!II")
_MESSAGE_BYTES_MAX = 1 << 28
_REST_WITHIN_S = 30.0  # for the rest of a message that has begun to arrive

Message = dict[str, Any]


class Channel:
    """One end. OSError from every call when the other end is gone or too slow (TimeoutError)."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    def of_fd(cls, fd: int) -> Channel:
        """The end that this process was started with."""
        sock = socket.socket(fileno=fd)
        os.set_inheritable(fd, False)
        return cls(sock)

    def send(self, message: Message, fds: Sequence[int] = (), timeout_s: float = 10.0) -> None:
        if len(fds) > FDS_MAX:
            raise ValueError(f"at most {FDS_MAX} descriptors go with a message")
        data = json.dumps(message).encode()
        self.sock.settimeout(timeout_s)
        head = _HEAD.pack(len(data), len(fds))
        sent = socket.send_fds(self.sock, [head], list(fds)) if fds else self.sock.send(head)
        self.sock.sendall(head[sent:] + data)

    def receive(self, timeout_s: float) -> tuple[Message, list[int]]:
        """The next message and its descriptors, which belong to the caller. ConnectionError at the end."""
        self.sock.settimeout(timeout_s)
        head, fds = b"", list[int]()
        try:
            while len(head) < _HEAD.size:
                data, more, flags, _ = socket.recv_fds(self.sock, _HEAD.size - len(head), FDS_MAX)
                fds += more
                if not data or flags & socket.MSG_CTRUNC:
                    raise ConnectionError("the other process is gone" if not data else "descriptors were lost")
                head += data
            length, count = _HEAD.unpack(head)
            if length > _MESSAGE_BYTES_MAX or count != len(fds):
                raise ConnectionError("no message of ours")
            message = json.loads(self._exactly(length))
            if not isinstance(message, dict):
                raise ConnectionError("no message of ours")
        except BaseException:
            close_all(fds)
            raise
        for fd in fds:
            os.set_inheritable(fd, False)
        return message, fds

    def _exactly(self, length: int) -> bytes:
        parts, left = [], length
        while left:
            data = self.sock.recv(min(left, 1 << 20))
            if not data:
                raise ConnectionError("the other process is gone")
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    async def wait_for_message(self) -> tuple[Message, list[int]] | None:
        """Like `receive`, without a time-out; None at the end, or for an invalid message."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.sock.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self.sock.fileno())
        try:
            return await asyncio.to_thread(self.receive, _REST_WITHIN_S)
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        self.sock.close()


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
