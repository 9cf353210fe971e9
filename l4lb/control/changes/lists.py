"""Watches the files of `allow` and `deny`: a change applies to new clients within two seconds. Control loop only."""

from __future__ import annotations

import asyncio
import logging

from l4lb.control.changes.applying import Applying
from l4lb.control.state.events import Events
from l4lb.control.state.state import State
from l4lb.errors import ConfigError, L4lbError
from l4lb.model.states import ProcessState

_LOOK_S = 1.0


class Lists:
    def __init__(self, state: State, applying: Applying, events: Events) -> None:
        self._state = state
        self._applying = applying
        self._events = events
        self._reported = ""  # why the files cannot be used now
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._watch = asyncio.create_task(self._look())

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None

    async def _look(self) -> None:
        """A process that drains accepts nobody: it has nothing to look for."""
        while self._state.process is ProcessState.RUNNING:
            try:
                if not await self._are_current() and await self._applying.read_lists_again():
                    self._events.emit("access_lists_reloaded", {})
                self._reported = ""
            except ConfigError as error:
                self._report("; ".join(map(str, error.problems)))
            except (L4lbError, RuntimeError, MemoryError) as error:  # such as "can't start new thread"
                self._report(str(error) or "out of memory")
            await asyncio.sleep(_LOOK_S)

    async def _are_current(self) -> bool:
        """On another thread: stat(2) may be slow, as on NFS."""
        lists = [one.config.access for one in self._state.listeners.values() if one.config.access.files]
        return not lists or await asyncio.to_thread(lambda: all(one.is_current() for one in lists))

    def _report(self, reason: str) -> None:
        """Once for each reason; the lists from before apply until the files can be used."""
        if reason != self._reported and self._state.process is ProcessState.RUNNING:
            self._reported = reason
            self._events.emit("access_lists_reload_failed", {"reason": reason}, logging.ERROR)
