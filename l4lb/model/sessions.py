"""Current sessions: filters, and what is reported about one. Plain data."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from l4lb.model.states import Protocol, SessionState

LIMIT_DEFAULT = 1_000  # of listed sessions
LIMIT_MAX = 10_000
SOURCES_DEFAULT = 20  # of listed sources
SOURCES_MAX = 1_000
FLOW_ADVICE = (
    "client and backend speak with each other. Ban the client (l4lb ban add), or drain the backend "
    "(l4lb backend drain), which then gets no new flow"
)

Engine = typing.Literal["proxy", "kernel"]


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """A session must match all that is given. `backends` are pairs of pool and id, where an empty pool means any;
    `source` is the client's address, with `source_port` unless that is 0, on the interface with the number
    `source_scope` unless that is 0; `id` is that of one session, `flow_id` of one flow in the kernel, 0: any; `tagged`:
    only those to which a hook gave tags."""

    listener: str = ""
    pool: str = ""
    backends: tuple[tuple[str, str], ...] = ()
    source: IPv4Network | IPv6Network | None = None
    source_port: int = 0
    source_scope: int = 0
    id: int = 0
    flow_id: int = 0
    tagged: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """One session at the moment of the sweep. `backend` is empty while it has none; `client` and `local` (the address
    that the client connected to) are ``address:port``, or ``unix:``; `idle_s` is since the last byte or change of
    state.

    A flow in the kernel is one too. Nobody knows when it began or how many bytes it had: these are None. Its id is of
    its addresses and ports; its `idle_s`, since the client's last packet, may be a second too long."""

    id: int
    protocol: Protocol
    listener: str
    pool: str
    backend: str
    client: str
    local: str
    state: SessionState
    age_s: float | None
    idle_s: float
    bytes_up: int | None
    bytes_down: int | None
    engine: Engine = "proxy"
    tagged: bool = False  # its listener's hook gave it tags, which an engine does not know


SourceOrder = typing.Literal["sessions", "rate", "bytes"]


@dataclass(frozen=True, slots=True)
class Source:
    """A source of clients at one listener, of those that limit them: `source` is its address or network.

    `session_rate` is new sessions a second of late, those that were refused included; `limited` is how many of them
    were over a limit. `sessions_total`, `limited` and bytes count from when the source was first seen: one without a
    session is forgotten after a while.
    """

    listener: str
    source: str
    sessions_active: int
    sessions_total: int
    session_rate: float
    limited: int
    bytes_up: int
    bytes_down: int


class Sweep(typing.Protocol):
    """A pass over all sessions that the workers make at their own pace. It has a result only once it is `over`."""

    def over(self) -> bool: ...
    def matched(self) -> int:
        """How many sessions matched, without flows in the kernel."""

    def flows_matched(self) -> int:
        """How many flows in the kernel matched. EngineError when they could not be read."""

    def take_found(self) -> list[Session]:
        """The listed sessions, the oldest first, then flows in the kernel, the longest idle first. Call it once."""


def session_id_text(id_: int, engine: Engine = "proxy") -> str:
    """The id as in the access log; text, since many JSON readers cannot hold such a large number. That of a flow in the
    kernel begins with a letter."""
    return f"k{id_:016x}" if engine == "kernel" else str(id_)


def parse_session_id(text: str) -> int:
    """0, which no session has, for an invalid id."""
    return int(text) if re.fullmatch("[1-9][0-9]{0,19}", text) and int(text) < 2**64 else 0


def parse_flow_id(text: str) -> int:
    """0, which no flow has, for what is no flow's id."""
    return int(text[1:], 16) if re.fullmatch("k[0-9a-f]{16}", text) else 0
