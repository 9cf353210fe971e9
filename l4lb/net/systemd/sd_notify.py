"""Notifications to the service manager that started this process: sd_notify(3), and sd_watchdog_enabled(3). Datagrams
to a unix socket; any thread.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from array import array
from collections.abc import Mapping, MutableMapping, Sequence

_ADDRESS = "NOTIFY_SOCKET"
_WATCHDOG_US = "WATCHDOG_USEC"
_WATCHDOG_PID = "WATCHDOG_PID"

logger = logging.getLogger("l4lb")


def monotonic_us() -> int:
    """The clock of ``MONOTONIC_USEC``."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


class Notifier:
    """Notifies the manager at `address` (a path, or @ and an abstract name); without an address, does nothing.

    `watchdog_s`: the manager expects a watchdog sign within that many seconds, again and again; 0: it expects none.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self.watchdog_s = watchdog_s if address else 0.0
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._failed = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """For the manager that the environment names. WATCHDOG_PID, if set, is the process that it watches."""
        whose, wanted = environment.get(_WATCHDOG_PID, ""), environment.get(_WATCHDOG_US, "")
        number = wanted.isascii() and wanted.isdigit() and len(wanted) < 19
        ours = number and whose in ("", str(os.getpid()))
        return cls(environment.get(_ADDRESS, ""), int(wanted) / 1e6 if ours else 0.0)

    def __bool__(self) -> bool:
        return bool(self._address)

    def notify(self, **fields: object) -> None:
        """``notify(READY=1, STATUS="up")``. A notification that the manager does not take is lost; logged once."""
        if not self._address:
            return
        try:
            self.send(fields)
            self._failed = False
        except (OSError, ValueError) as error:
            if not self._failed:
                logger.warning("service manager not told", extra={"fields": {"reason": str(error)}})
            self._failed = True

    def send(self, fields: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """With file descriptors, which stay open here. OSError when the manager does not take it; ValueError for an
        address that is none."""
        text = "\n".join(f"{key}={value}" for key, value in fields.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            sock.sendmsg([text.encode()], rights, 0, self._address)

    def wait_until_heard(self, timeout_s: float) -> None:
        """Until the manager has read everything that was sent before (sd_notify_barrier(3)). TimeoutError."""
        read, write = os.pipe()
        try:
            try:
                self.send({"BARRIER": 1}, [write])
            finally:
                os.close(write)
            poller = select.poll()
            poller.register(read, 0)  # POLLHUP: it has closed its copy
            if not poller.poll(timeout_s * 1e3):
                raise TimeoutError("the service manager does not answer")
        finally:
            os.close(read)


def for_successor(environment: MutableMapping[str, str]) -> dict[str, str]:
    """`environment` for the process that replaces this one: the watchdog then watches that process."""
    return {key: value for key, value in environment.items() if key != _WATCHDOG_PID}
