"""A socket address as plain data, numeric and ready for the kernel. Parsing lives in `l4lb.net.address`."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class SocketAddress:
    """`family` is AF_INET, AF_INET6 or AF_UNIX; `host` a numeric IP, a path, or ``@name`` (abstract)."""

    family: int
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.family == socket.AF_UNIX:
            return f"unix:{self.host}"
        if self.family == socket.AF_INET6:
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"

    @property
    def endpoint(self) -> tuple[str, int] | str:
        """As the methods of `socket.socket` take it."""
        if self.family == socket.AF_UNIX:
            return "\0" + self.host[1:] if self.host.startswith("@") else self.host
        return self.host, self.port
