"""Asks the instance again and again, and reads its events, on threads of their own: `Seen` is written on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from l4lb.cli.top.aside import aside
from l4lb.cli.top.state.seen import Seen
from l4lb.cli.top.wanted import SOURCES, Wanted
from l4lb.client import Client
from l4lb.control.state.events import RECENT, Event
from l4lb.errors import AdminError
from l4lb.remote import RemotePool

_PAUSE_RATIO = 4  # the pause to the time that the answers took, at least: a large instance is asked less often
_RETRY_S = 1.0
Connect = Callable[[], Client]


@dataclass(slots=True)
class _Answers:
    """Of parts, the answer or the error."""

    status: Mapping[str, Any]
    parts: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    read_only: bool = False


def _ask(connect: Connect, wanted: Wanted, try_role: bool) -> _Answers:
    """Each time on a new connection: after a restart or an upgrade the new process answers."""
    with connect() as client:
        answers = _Answers(client.status(), read_only=try_role and _reads_only(client))
        for name, ask in _parts(client, wanted).items():
            try:
                answers.parts[name] = ask()
            except AdminError as error:
                if error.status == 0:  # nobody answers any more
                    raise
                answers.errors[name] = str(error)
    return answers


def _parts(client: Client, wanted: Wanted) -> dict[str, Callable[[], Any]]:
    asked: dict[str, Callable[[], Any]] = {
        "sessions": lambda: client.sessions(**dict(wanted.query), limit=wanted.limit),
        "sources": lambda: client.sources(by=wanted.by, limit=SOURCES),
        "bans": lambda: client.bans.list(),
        "pool": lambda: RemotePool(client, wanted.pool).status,
    }
    return {name: ask for name, ask in asked.items() if name == wanted.part or (name == "pool" and wanted.pool)}


def _reads_only(client: Client) -> bool:
    """Whether its token is for reading alone. An older version does not tell, and refuses each change."""
    try:
        return bool(client.ask("GET", "/v1/whoami")["read_only"])
    except AdminError:
        return False


class Follower:
    """`wanted` says what to ask for now; `changed` is called after `seen` has been written. `has_token`: which may be
    for reading alone."""

    def __init__(
        self,
        connect: Connect,
        seen: Seen,
        interval_s: float,
        wanted: Callable[[], Wanted],
        changed: Callable[[], None],
        has_token: bool,
    ) -> None:
        self._connect = connect
        self._seen = seen
        self._interval_s = interval_s
        self._wanted = wanted
        self._changed = changed
        self._poked = asyncio.Event()
        self._has_token = self._try_role = has_token

    def poke(self) -> None:
        """Ask now, or once the answer is there that is waited for."""
        self._poked.set()

    async def poll(self) -> None:
        """For ever."""
        while True:
            self._poked.clear()
            begun = time.monotonic()
            await self._ask_once(begun)
            self._changed()
            took = time.monotonic() - begun
            pause = _RETRY_S if self._seen.lost else max(self._interval_s, _PAUSE_RATIO * took)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._poked.wait()

    async def _ask_once(self, begun: float) -> None:
        wanted, seen, try_role = self._wanted(), self._seen, self._try_role
        seen.asked_at = begun
        try:
            answers = await aside(lambda: _ask(self._connect, wanted, try_role))
            seen.answered(answers.status, time.monotonic())
        except AdminError as error:
            seen.not_answered(str(error), time.time(), "refused" if error.status else "not reachable")
            self._try_role = self._has_token
            return
        except (KeyError, TypeError) as error:
            seen.not_understood(error, time.time())
            return
        except RuntimeError as error:  # no thread can be started
            seen.not_answered(str(error), time.time())
            return
        finally:
            seen.asked_at = None
        if try_role:
            seen.read_only, self._try_role = answers.read_only, False
        if wanted.is_about(self._wanted()):
            self._take(answers, wanted)

    def _take(self, answers: _Answers, wanted: Wanted) -> None:
        for name in (*answers.parts, *answers.errors):
            answer, error = answers.parts.get(name), answers.errors.get(name, "")
            self._seen.set_part(name, answer, error, wanted.query_of(name))

    # ---- events ----

    async def read_events(self) -> None:
        """For ever. A stream that begins anew repeats the latest ones, which are known then."""
        loop = asyncio.get_running_loop()

        def on_loop(event: Event) -> None:
            loop.call_soon_threadsafe(self._happened, event)

        while True:
            try:
                await aside(lambda: self._stream(on_loop))
                self._seen.events_error = ""
            except (AdminError, RuntimeError) as error:  # RuntimeError: no thread can be started
                self._seen.events_error = str(error)
            await asyncio.sleep(_RETRY_S)

    def _stream(self, happened: Callable[[Event], None]) -> None:
        with self._connect() as client, client.events(last=RECENT) as found:
            for event in found:
                happened(event)

    def _happened(self, event: Event) -> None:
        self._seen.events_error = ""
        if not self._seen.knows_event(event):
            self._seen.happened(event)
            self._changed()
