"""Lines to a syslog daemon: RFC 5424 messages as datagrams, to a unix socket or by UDP (RFC 5426)."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal, get_args

from l4lb.model.address import SocketAddress

Facility = Literal[  # RFC 5424, section 6.2.1, in its order
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]  # fmt: skip
FACILITIES: tuple[str, ...] = get_args(Facility)
_SEVERITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
_RECONNECT_S = 1.0


def severity(level: int) -> int:
    """RFC 5424, section 6.2.1, for one of `logging`'s levels."""
    return next(number for least, number in _SEVERITIES if level >= least)


def _printable(text: str, length: int) -> str:
    """PRINTUSASCII of section 6; ``-`` for what is empty."""
    return "".join(char if 33 <= ord(char) <= 126 else "?" for char in text)[:length] or "-"


class SyslogSink:
    """Sends to `address`, and connects again when the daemon was away, at most once per second.

    `message_id` says what kind of message it is: ``session`` or ``log``. `clock`: seconds, monotonic.
    """

    def __init__(
        self, address: SocketAddress, facility: str, message_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = f"syslog {address}"
        self.refusals_are_losses = address.family != socket.AF_UNIX
        self._address = address
        self._facility = FACILITIES.index(facility)
        self._clock = clock
        self._fields = f" {_printable(socket.gethostname(), 255)} l4lb {os.getpid()} {message_id} - "
        self._prefixes: dict[tuple[int, int], bytes] = {}
        self._socket: socket.socket | None = None
        self._tried = -_RECONNECT_S
        self._errno = errno.ECONNREFUSED  # of the last failure

    @property
    def torn(self) -> bool:
        return False

    def frame(self, line: str, level: int) -> bytes:
        return self._prefix(level) + line.encode("utf-8", "backslashreplace")

    def _prefix(self, level: int) -> bytes:
        """The prefix, cached for a millisecond."""
        now_ms = time.time_ns() // 1_000_000
        prefix = self._prefixes.get((level, now_ms))
        if prefix is None:
            said = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            prefix = f"<{self._facility * 8 + severity(level)}>1 {said}{self._fields}".encode()
            self._prefixes = {(level, now_ms): prefix}
        return prefix

    def send(self, framed: Sequence[bytes]) -> int:
        """send(2): EAGAIN, the daemon is slow; ECONNREFUSED, ENOTCONN, ECONNRESET, EPIPE, it is away; EMSGSIZE, this
        line is too long for it, and is left out."""
        sock = self._connected()
        taken = 0
        try:
            for line in framed:
                self._send_one(sock, line)
                taken += 1
        except BlockingIOError:
            if not taken:
                raise
        except OSError as error:
            if not self.refusals_are_losses:
                self._errno = error.errno or errno.ECONNREFUSED
                self.close()
            if not taken:
                raise
        return taken

    def _send_one(self, sock: socket.socket, line: bytes) -> None:
        try:
            sock.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise

    def _connected(self) -> socket.socket:
        if self._socket is None:
            if self._clock() - self._tried < _RECONNECT_S:
                raise OSError(self._errno, os.strerror(self._errno))
            self._tried = self._clock()
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> socket.socket:
        """connect(2): ENOENT, ECONNREFUSED, nobody listens there."""
        address = self._address
        sock = socket.socket(address.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.connect(address.endpoint)
        except OSError as error:
            self._errno = error.errno or errno.ECONNREFUSED
            sock.close()
            raise
        return sock

    settled = True

    def take_lost(self) -> tuple[int, str]:
        return 0, ""

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket is not None else -1

    def reopen(self) -> None: ...

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
