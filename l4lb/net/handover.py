"""Messages with file descriptors from one process to the one that replaces it, over a pair of unix sockets.

A message is a JSON object. On the wire: eight bytes, its length and the number of descriptors, which travel with them
(SCM_RIGHTS, unix(7)), then the JSON. Blocking, each call with a time-out in seconds; on any thread.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import socket
import struct
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

FDS_MAX = 253  # SCM_MAX_FD
_HEAD = struct.Struct("!II")
_MESSAGE_BYTES_MAX = 1 << 28
_GONE = "the other process is gone"
_NOT_OURS = "no message of ours"
_REST_WITHIN_S = 30.0  # for the rest of a message that has begun to arrive

Message = dict[str, Any]


class Channel:
    """One end. OSError from every call when the other end is gone (ConnectionResetError, BrokenPipeError), too slow
    (TimeoutError), or says what is no message (ConnectionError)."""

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
        """The next message and its descriptors, which belong to the caller. ConnectionResetError at the end."""
        self.sock.settimeout(timeout_s)
        head, fds = b"", list[int]()
        try:
            while len(head) < _HEAD.size:
                data, more, flags = receive_fds(self.sock, _HEAD.size - len(head))
                fds += more
                if not data:
                    raise ConnectionResetError(_GONE)
                if flags & socket.MSG_CTRUNC:
                    raise ConnectionError("descriptors were lost")
                head += data
            length, count = _HEAD.unpack(head)
            if length > _MESSAGE_BYTES_MAX or count != len(fds):
                raise ConnectionError(_NOT_OURS)
            message = parsed(self._exactly(length))
        except BaseException:
            close_all(fds)
            raise
        return message, fds

    def _exactly(self, length: int) -> bytes:
        parts, left = [], length
        while left:
            data = self.sock.recv(min(left, 1 << 20))
            if not data:
                raise ConnectionResetError(_GONE)
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def send_bulk(self, data: bytes, fds: Sequence[int], timeout_s: float) -> None:
        """Bytes, and any number of descriptors, after a message that says how many. `timeout_s` is for all of it."""
        deadline = time.monotonic() + timeout_s
        self.sock.settimeout(timeout_s)
        self.sock.sendall(data)
        start = 0
        while start < len(fds):
            self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                socket.send_fds(self.sock, [b"\0"], fds[start : start + FDS_MAX])
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS or time.monotonic() > deadline:
                    raise
                time.sleep(0.0005)  # until the other process has received some
            else:
                start += FDS_MAX

    def receive_bulk(self, length: int, count: int, timeout_s: float) -> tuple[bytes, array[int]]:
        """The other end of `send_bulk`. `timeout_s` is for each part. OSError with EMFILE when there is no room for so
        many descriptors: all has been received then, and those that came are closed."""
        self.sock.settimeout(timeout_s)
        data, fds, received, short = self._exactly(length), array("i"), 0, False
        try:
            while received < count:
                mark, more, flags = receive_fds(self.sock, 1)
                fds.extend(more)
                if not mark:
                    raise ConnectionResetError(_GONE)
                short = short or bool(flags & socket.MSG_CTRUNC)
                received += min(FDS_MAX, count - received)
            if short or len(fds) != count:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        except BaseException:
            close_all(fds)
            raise
        return data, fds

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
        except OSError:
            return None

    def close(self) -> None:
        self.sock.close()


def receive_fds(sock: socket.socket, size: int) -> tuple[bytes, list[int], int]:
    """At most `size` bytes, the descriptors that come with them, and the flags of recvmsg(2). No program that is
    started meanwhile inherits them: socket.recv_fds of Python 3.11 leaves out its flags."""
    room = socket.CMSG_LEN(FDS_MAX * array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    fds = array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, fds.tolist(), flags


def parsed(data: bytes) -> Message:
    """ConnectionError for what is no message."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise ConnectionError(_NOT_OURS)
    return message


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def receive_ahead(sock: socket.socket, add: Callable[[bytes, Sequence[int]], None], timeout_s: float) -> None:
    """All messages of `sock`, up to its end: ids, and descriptors. OSError with EMFILE when some were lost: all has
    been received then. TimeoutError when nothing comes for `timeout_s`."""
    sock.settimeout(timeout_s)
    short = False
    while True:
        ids, fds, flags = receive_fds(sock, 4096)
        if not ids:
            break
        if flags & socket.MSG_CTRUNC:
            short = True
            close_all(fds)
        else:
            add(ids, fds)
    if short:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def reserve_descriptors(fd: int, count: int) -> None:
    """Have the kernel make the process's table of descriptors large enough for `count` more: it would grow step by step
    as they come, and waits for all CPUs at each step while several threads use it. `fd` is any that is open.

    OSError when there may not be so many (EINVAL, EMFILE).
    """
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    os.close(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, highest + count))
