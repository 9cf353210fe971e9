"""What a check is: something that returns when the target is healthy and raises `CheckFailed` when it is not."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from l4lb.config import HealthConfig
from l4lb.model.address import SocketAddress


class CheckFailed(Exception):
    """The target answered wrongly or not at all: `step` is where, `reason` why, in one line."""

    def __init__(self, step: str, reason: str) -> None:
        self.step = step
        self.reason = reason
        super().__init__(f"{step}: {reason}")


@dataclass(frozen=True, slots=True)
class Target:
    """What is checked and how. Equal targets share one checker, whichever pools they are in."""

    address: SocketAddress
    settings: HealthConfig

    @property
    def sockaddr(self) -> tuple[str, int] | str:
        """The address as Python's socket module takes it."""
        if self.address.family == socket.AF_UNIX:
            name = self.address.host
            return "\0" + name[1:] if name.startswith("@") else name
        return self.address.host, self.address.port


Check = Callable[[Target], Awaitable[None]]
