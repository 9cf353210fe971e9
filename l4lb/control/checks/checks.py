"""What a check is: a function that returns when the target is healthy and raises `CheckFailed` when it is not."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass

from l4lb.config import HealthConfig
from l4lb.model.address import SocketAddress
from l4lb.model.states import Shortage
from l4lb.model.verdicts import ADVICE, Verdict, shortage_of, verdict_of


class CheckFailed(Exception):
    """The target answered wrongly or not at all: `step` is where it failed, `reason` says why in one line."""

    def __init__(self, step: str, reason: str) -> None:
        self.step = step
        self.reason = reason
        super().__init__(f"{step}: {reason}")


_step: ContextVar[str] = ContextVar("l4lb_check_step", default="connect")


def begin_step(step: str) -> None:
    """From here on the running check is at `step`: time-outs and lost connections are reported with it.

    A context variable, private to this task: the caller that bounds the check's time reads it.
    """
    _step.set(step)


def current_step() -> str:
    return _step.get()


class NotChecked(Exception):
    """The check says nothing about the target, because this host lacked a resource: neither a pass nor a failure. The
    message names the resource and a remedy."""


OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})  # of any call


def not_checked(shortage: Shortage, error: int) -> NotChecked:
    return NotChecked(f"{os.strerror(error).lower()}: {ADVICE[shortage]}")


def failed(error: OSError, family: int = socket.AF_INET, *, reported: bool = False) -> CheckFailed | NotChecked:
    """What the error of a system call means for a target of that family, at the current step: see
    `l4lb.model.verdicts`. `reported`: by the network, not by the call itself."""
    number = error.errno or 0
    if verdict_of(number, family, reported=reported) is Verdict.OWN:
        return not_checked(shortage_of(number, family) or Shortage.MEMORY, number)
    reason = os.strerror(number) if number else str(error)
    return CheckFailed(current_step(), reason.lower())


def shown(data: bytes) -> str:
    """Received bytes for a reason: one line, printable, short, or "nothing"."""
    if not data:
        return "nothing"
    text = ascii(data[:60].decode("latin-1"))[1:-1]
    return f'"{text}..."' if len(data) > 60 else f'"{text}"'


@dataclass(frozen=True, slots=True)
class Target:
    """What is checked and how: plain data. Equal targets share one checker, whichever pools they are in.

    `source` is the source address of connections, if the pool has one. `pool` is the pool's name; it is empty for
    checks that do not pass it on, so that pools share their checkers.
    """

    address: SocketAddress
    settings: HealthConfig
    source: SocketAddress | None = None
    pool: str = ""

    @property
    def sockaddr(self) -> tuple[str, int] | str:
        """The address as Python's socket module takes it."""
        if self.address.family == socket.AF_UNIX:
            name = self.address.host
            return "\0" + name[1:] if name.startswith("@") else name
        return self.address.host, self.address.port


Check = Callable[[Target], Awaitable[None]]
