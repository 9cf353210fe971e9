"""Watches the keys of a fleet, for as long as the process runs. Control loop only.

Whatever etcd does, what was known stays: a key is gone only when etcd, asked again, no longer has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from l4lb.control.fleet.keys import FOLLOWED
from l4lb.control.fleet.place import Place
from l4lb.control.state.events import Events
from l4lb.control.state.fleet import FleetState
from l4lb.net.services.etcd import KeyValue
from l4lb.net.services.etcd_watch import News, follow_prefix
from l4lb.net.services.json_api import ApiError

KEYS_MAX = 20_000  # that are remembered
_AGAIN_S = 5.0

Changed = Mapping[str, KeyValue | None]  # by what follows the prefix; None: it is gone
Hears = Callable[[Changed], None]


class Following:
    """`kvs` are the keys that there are, by what follows the prefix. Calls each of `subscribers` with what has changed,
    and whenever all were read again, at the start and after a break, even if nothing has."""

    def __init__(self, place: Place, state: FleetState, events: Events) -> None:
        self._place, self._state, self._events = place, state, events
        self.kvs: dict[str, KeyValue] = {}
        self.subscribers: list[Hears] = []
        self.reads = 0  # how often all keys were read
        self._reported = False  # that etcd is away: once, whatever each of its servers says
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except ApiError as error:  # of certificates, which may be mended
                self._lost(str(error))
            except Exception as error:
                self._lost(f"{type(error).__name__}: {error}")
            await asyncio.sleep(_AGAIN_S)

    async def _follow(self) -> None:
        place = self._place
        news = follow_prefix(place.access, place.login, place.prefix, only=FOLLOWED)
        async with contextlib.aclosing(news):
            async for one in news:
                if isinstance(one, ApiError):
                    self._lost(str(one))
                else:
                    self._take(one)

    def _take(self, news: News) -> None:
        if news.all is not None:
            self.reads += 1
            self._tell(self._compared(news.all))
        if news.changes:
            self._tell({self._name(one.kv.key): None if one.gone else one.kv for one in news.changes})
        self._heard()

    def _compared(self, kvs: Iterable[KeyValue]) -> Changed:
        """What differs from what was known."""
        found = {self._name(kv.key): kv for kv in kvs}
        changed: dict[str, KeyValue | None] = dict.fromkeys(self.kvs.keys() - found.keys())
        return changed | {key: kv for key, kv in found.items() if self.kvs.get(key) != kv}

    def _name(self, key: str) -> str:
        return key.removeprefix(self._place.prefix)

    def _tell(self, changed: Changed) -> None:
        for key, kv in changed.items():
            if kv is None:
                self.kvs.pop(key, None)
            elif key in self.kvs or len(self.kvs) < KEYS_MAX:
                self.kvs[key] = kv
        for hears in self.subscribers:
            hears(changed)

    def _heard(self) -> None:
        self._state.heard_at = time.time()
        if self._state.away:
            self._state.away, self._reported = "", False
            self._events.emit("fleet_connected", {"prefix": self._place.prefix})

    def _lost(self, reason: str) -> None:
        """What was known holds."""
        if not self._reported:
            fields: dict[str, object] = {"reason": f"{reason}: this node goes on with what it has"}
            self._events.emit("fleet_disconnected", fields, logging.WARNING)
        self._state.away, self._reported = reason, True
