"""Watches the files of `allow` and `deny`: a change holds for new clients within two seconds. Control loop only."""

from __future__ import annotations

import asyncio
import logging

from l4lb.control.changes.applying import Applying
from l4lb.control.state.events import Events
from l4lb.control.state.state import State
from l4lb.errors import ConfigError, L4lbError

_LOOK_S = 1.0


class Lists:
    def __init__(self, state: State, applying: Applying, events: Events) -> None:
        self._state = state
        self._applying = applying
        self._events = events
        self._reported = ""
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._watch = asyncio.create_task(self._look())

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            lists = [one.config.access for one in self._state.listeners.values() if one.config.access.files]
            if lists and not await asyncio.to_thread(lambda: all(one.is_current() for one in lists)):  # noqa: B023
                await self._read()

    async def _read(self) -> None:
        """What cannot be read is reported once; the lists from before hold until it can."""
        try:
            await self._applying.read_lists_again()
        except L4lbError as error:
            reasons = [str(one) for one in error.problems] if isinstance(error, ConfigError) else [str(error)]
            if (said := "; ".join(reasons)) != self._reported:
                self._reported = said
                self._events.emit("access_list_refused", {"reason": said}, logging.ERROR)
            return
        self._reported = ""
        self._events.emit("access_list_read", {})
