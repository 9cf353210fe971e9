"""Keeps clients out at runtime: from a ban to its end. Control loop only."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from l4lb.control.changes.applying import Applying
from l4lb.control.reporting import shapes
from l4lb.control.sessions.sessions import SessionQuery, Sessions
from l4lb.control.state.actor import by_whom
from l4lb.control.state.bans import EVERYWHERE, Bans
from l4lb.control.state.events import Events
from l4lb.control.state.state import State
from l4lb.errors import ChangeError, L4lbError
from l4lb.model.bans import REASON_MAX, Ban
from l4lb.model.durations import MAX_LONG_DURATION_S
from l4lb.model.states import CloseReason, ProcessState
from l4lb.net.ranges import Network, overlap, parse_network, plain_network

_LOOK_AT_LEAST_S = 10.0  # the clock may be set meanwhile
_AGAIN_S = 1.0


class Banning:
    def __init__(self, state: State, applying: Applying, sessions: Sessions, events: Events) -> None:
        self._state = state
        self._applying = applying
        self._sessions = sessions
        self._events = events
        self._changed = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self.subscribers: list[
            Callable[[Ban, bool], None]
        ] = []  # called with what was banned here, or (False) no longer

    def start(self) -> None:
        self._watch = asyncio.create_task(self._end_when_over())

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None

    async def list(self, source: str = "", listener: str = "") -> list[shapes.Ban]:
        """The bans that hold now; with `source`, a client's address or a network, those that concern it; with
        `listener`, those that it carries out. ChangeError for what is no address or network."""
        bans, now = self._applying.desired.bans, time.time()
        wanted = _parsed(source) if source else None
        return await asyncio.to_thread(
            lambda: [
                _shape(one)
                for one in bans
                if not one.is_over(now)
                and (not listener or one.listener in (EVERYWHERE, listener))
                and (wanted is None or overlap(parse_network(one.network), wanted))
            ]
        )

    def show(self, network: str, listener: str = EVERYWHERE) -> shapes.Ban:
        """ChangeError when there is none."""
        return _shape(self._find(network, listener))

    def _find(self, network: str, listener: str) -> Ban:
        found = self._applying.desired.bans.find(_network(network), listener)
        if found is None or found.is_over(time.time()):
            at = f' at listener "{listener}"' if listener else ""
            raise ChangeError("not_found", f'"{network}" is not banned{at}', "cidr")
        return found

    async def add(
        self, network: str, listener: str = EVERYWHERE, for_s: float | None = None, reason: str = ""
    ) -> tuple[shapes.Banned, bool]:
        """Let nobody from `network`, a CIDR, in for `for_s` seconds; None: until it is removed. The sessions that are
        there end (close reason ``denied``). Returns the ban once workers use it, and whether it is new: it replaces one
        of the same network and listener. ChangeError when that is impossible."""
        if listener and listener not in self._state.listeners:
            raise ChangeError("not_found", f'no listener "{listener}"', "listener")
        if for_s is not None and not 0 < for_s <= MAX_LONG_DURATION_S:
            raise ChangeError("invalid", "expected seconds above 0, and at most ten years", "for")
        if len(reason) > REASON_MAX or not reason.isprintable():
            raise ChangeError("invalid", f"expected one line of at most {REASON_MAX} characters", "reason")
        now = time.time()
        ban = Ban(_network(network), listener, now + for_s if for_s is not None else 0.0, reason, now)
        before = self._applying.desired.bans.find(ban.network, listener)
        await self._applying.change_bans(lambda bans: bans.with_ban(ban))
        self._changed.set()
        for hears in self.subscribers:
            hears(ban, True)
        ended = await self._end_sessions(ban)
        limited: dict[str, object] = {} if for_s is None else {"for_s": round(for_s, 3)}
        self._events.emit("banned", {**_fields(ban), **limited, "sessions": ended, **by_whom()})
        return {**_shape(ban), "sessions_ended": ended}, before is None or before.is_over(now)

    async def remove(self, network: str, listener: str = EVERYWHERE) -> shapes.Ban:
        """Let clients in again. Returns the ban. ChangeError when there is none, or it cannot be removed."""
        ban = self._find(network, listener)
        await self._applying.change_bans(lambda bans: bans.without(ban))
        for hears in self.subscribers:
            hears(ban, False)
        self._events.emit("unbanned", {**_fields(ban), **by_whom()})
        return _shape(ban)

    @property
    def held(self) -> Bans:
        """Those that hold, or were over just now."""
        return self._applying.desired.bans

    async def merge(self, change: Callable[[Bans], Bans]) -> None:
        """Make those hold that `change` makes of the ones that do, because other nodes have banned somebody, or no
        longer do. ChangeError when that is impossible; nothing has changed then."""
        before = self.held
        await self._applying.change_bans(change)
        after, now = self.held, time.time()
        self._changed.set()
        for ban in after:
            known = before.find(ban.network, ban.listener)
            if known is None or (known.until, known.since) != (ban.until, ban.since):
                ended = await self._end_sessions(ban)
                self._events.emit("banned", {**_fields(ban), "sessions": ended, "by": "fleet"})
        for ban in before:
            if after.find(ban.network, ban.listener) is None and not ban.is_over(now):
                self._events.emit("unbanned", {**_fields(ban), "by": "fleet"})

    async def _end_sessions(self, ban: Ban) -> int:
        return await self._sessions.reset(SessionQuery(source=ban.network, listener=ban.listener), CloseReason.DENIED)

    async def _end_when_over(self) -> None:
        """A process that drains lets nobody in: its bans do not matter."""
        while self._state.process is ProcessState.RUNNING:
            self._changed.clear()
            next_s = self._applying.desired.bans.ends_next()
            wait_s = _LOOK_AT_LEAST_S if next_s is None else min(max(next_s - time.time(), 0), _LOOK_AT_LEAST_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            try:
                await self._remove_over(time.time())
            except (L4lbError, RuntimeError, MemoryError):  # such as "can't start new thread": again in a moment
                await asyncio.sleep(_AGAIN_S)

    async def _remove_over(self, now: float) -> None:
        over = [one for one in self._applying.desired.bans if one.is_over(now)]
        if not over:
            return
        await self._applying.change_bans(lambda bans: bans.at(now), save=False)
        for one in over:
            self._events.emit("ban_over", _fields(one))


def _parsed(text: str) -> Network:
    try:
        return plain_network(parse_network(text))
    except ValueError as error:
        raise ChangeError("invalid", f'"{text}": {error}', "cidr") from None


def _network(text: str) -> str:
    """The one way to write it."""
    return str(_parsed(text))


def _shape(ban: Ban) -> shapes.Ban:
    return {
        "cidr": ban.network,
        "listener": ban.listener or None,
        "until": ban.until or None,
        "reason": ban.reason,
        "since": ban.since,
    }


def _fields(ban: Ban) -> dict[str, object]:
    fields = {"source": ban.network, "listener": ban.listener, "reason": ban.reason}
    return {key: value for key, value in fields.items() if value}
