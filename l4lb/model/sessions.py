"""Sessions that are there now: which are meant, and what is told of one. Plain data."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from l4lb.model.states import Protocol, SessionState

LIMIT_DEFAULT = 1_000  # of sessions that are told of
LIMIT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions are meant: all that is given must hold. `backends` are pairs of pool and id, where an empty pool
    means any; `source` is of the client, with `source_port` unless that is 0, on the interface of the number
    `source_scope` unless that is 0; `id` is of one session, 0: of any."""

    listener: str = ""
    pool: str = ""
    backends: tuple[tuple[str, str], ...] = ()
    source: IPv4Network | IPv6Network | None = None
    source_port: int = 0
    source_scope: int = 0
    id: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """One at the moment that it was looked at. `backend` is empty while it has none; `client` and `local`, where it
    came in, are ``address:port``, or ``unix:``; `idle_s` is since the last byte or change of state."""

    id: int
    protocol: Protocol
    listener: str
    pool: str
    backend: str
    client: str
    local: str
    state: SessionState
    age_s: float
    idle_s: float
    bytes_up: int
    bytes_down: int


class Sweep(typing.Protocol):
    """A pass over all sessions that the workers make at their own pace. Only once it is `over` there is a result."""

    def over(self) -> bool: ...
    def matched(self) -> int:
        """How many sessions were meant."""

    def take_found(self) -> list[Session]:
        """Those that are told of, the oldest first. Once."""


def session_id_text(id_: int) -> str:
    """As the access log has it; text, since it is too large for a number of many readers of JSON."""
    return str(id_)


def parse_session_id(text: str) -> int:
    """0, which no session has, for what is none."""
    return int(text) if re.fullmatch("[1-9][0-9]{0,19}", text) and int(text) < 2**64 else 0
