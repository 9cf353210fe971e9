"""Hooks: an operator's code is asked about each new session. What it gets, what it may answer, and what an engine does.

`l4lb.hooks` is the public name of the types that a hook sees.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

Tags = Mapping[str, str]  # what a hook attaches to a session; `l4lb.control.state.tags` says what may be one
NO_TAGS: Tags = MappingProxyType({})


def no_tags() -> Tags:
    return NO_TAGS


class HookResult(StrEnum):
    """What came of asking a hook about a session. The order is the native enum's (`_dataplane/base/enums.pxd`); a test
    compares them. From `LATE` on the hook's on_error holds."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    POOL = "pool"
    BACKEND = "backend"
    LATE = "late"
    FAILED = "failed"
    FULL = "full"


class CloseCounts(NamedTuple):
    """Records for hooks: taken by one, those at which it raised, and those that it could not be given."""

    delivered: int = 0
    failed: int = 0
    dropped: int = 0


# ---- what a hook sees ----


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session that is about to get a backend.

    `id` is the one that the admin API and the access log show; `pool` is where it goes unless the hook sends it
    elsewhere; `client` is the client's IP address, by its PROXY header if it sent one, or ``unix:``; `local` is where
    it connected to, ``address:port`` or ``unix:/path``; `sni` is the server name in its TLS ClientHello, empty when
    none was read: only listeners read it that have routes by sni or alpn, or whose pool sends it on.
    """

    id: str
    listener: str
    pool: str
    client: str
    client_port: int
    local: str
    sni: str = ""


@dataclass(frozen=True, slots=True)
class Accept:
    """The session goes on as if there were no hook; None and True say the same, without tags."""

    tags: Tags = field(default_factory=no_tags, kw_only=True, hash=False)


@dataclass(frozen=True, slots=True)
class Reject:
    """The client is refused, as the listener's deny_action says; False says the same. `reason` stands in the session's
    record as the tag ``reason``."""

    reason: str = ""
    tags: Tags = field(default_factory=no_tags, kw_only=True, hash=False)


@dataclass(frozen=True, slots=True)
class ToPool:
    """The session goes to the pool of that name."""

    pool: str
    tags: Tags = field(default_factory=no_tags, kw_only=True, hash=False)


@dataclass(frozen=True, slots=True)
class ToBackend:
    """The session goes to the backend of its pool with that id or address, if new sessions may go there and it has a
    place; otherwise the pool's policy chooses."""

    backend: str
    tags: Tags = field(default_factory=no_tags, kw_only=True, hash=False)


Decision = None | bool | Accept | Reject | ToPool | ToBackend
SessionHook = Callable[[SessionInfo], Decision | Awaitable[Decision]]
CloseHook = Callable[[dict[str, Any]], object]  # what it returns means nothing; an async one is awaited


# ---- what an engine does ----


class Ask(NamedTuple):
    """A session whose listener's hook is to be asked. `token` is the engine's; `session_id` a number."""

    token: object
    session_id: int
    listener: str
    pool: str
    client: str
    client_port: int
    local: str
    sni: str


class Answer(NamedTuple):
    """`target`: of `HookResult.POOL` the pool's name; of `HookResult.BACKEND` the backend's id in the asked pool.
    `tags` are control's: the session is `tagged` from then on, if the answer is in time and can be carried out."""

    ask: Ask
    result: HookResult
    target: str = ""
    tags: Tags = NO_TAGS


@dataclass(frozen=True, slots=True)
class HookCounts:
    """`dropped`: answers that came when their session had gone on without them, or was gone; `untaken`: those that a
    worker had no room for."""

    dropped: int = 0
    untaken: int = 0


class SessionHooks(Protocol):
    """Sessions that wait for a hook's answer: those of listeners with a `hook_deadline_s`, once the client and what it
    wants are known. None waits for longer than that.

    An engine in the kernel has no sessions that could wait: it refuses such listeners. `open_hooks` is called from the
    control thread; of the others, `take_asks` by one thread at a time and the rest by any.
    """

    def open_hooks(self) -> int:
        """Before a snapshot has a listener with a hook. Returns a file descriptor, open until `close`, that is readable
        when there are asks again after all were taken. `EngineError` when it cannot be had."""

    def take_asks(self, limit: int) -> list[Ask]:
        """Of each worker at most `limit`, the oldest first. Whoever takes some asks again until there are none."""

    def answer(self, answers: list[Answer]) -> None:
        """An answer to a session that has gone on without it, or is gone, is dropped and counted. What cannot be
        carried out (a pool that is gone, a backend that is not usable) is `HookResult.FAILED`, or left to the
        policy."""

    def hook_counts(self) -> HookCounts: ...
