"""What is looked at once a second: what workers can only count is said in the log. Control loop only."""

from __future__ import annotations

import asyncio
import time

from l4lb.control.changes.resolution import Resolution
from l4lb.control.reporting.capacity import Capacity
from l4lb.control.reporting.devices import Devices
from l4lb.control.reporting.gathered import Sources
from l4lb.control.reporting.refusals import Refusals
from l4lb.control.reporting.shortages import Shortages
from l4lb.control.sessions.tagging import Tagging
from l4lb.control.state.events import Events
from l4lb.model.forwarder import Forwarder
from l4lb.model.stats import TIMES_EVERY_S, Stats

_EVERY_S = 1.0


class Watching:
    """`sources` are given what was counted; events say what is new."""

    def __init__(
        self, forwarder: Forwarder, events: Events, sources: Sources, resolution: Resolution, tagging: Tagging
    ) -> None:
        self._forwarder = forwarder
        self._sources = sources
        self._resolution = resolution
        self._tagging = tagging
        self._refusals = Refusals(events)
        self._shortages = Shortages(events)
        self._capacity = Capacity(events)
        self._devices = Devices(events)
        self._task: asyncio.Task[None] | None = None
        self._marks_due_at = 0.0

    def start(self) -> None:
        self._sources.sample(self._forwarder.stats(pools=False))
        self._marks_due_at = time.monotonic() + TIMES_EVERY_S
        self._task = asyncio.create_task(self._watch())

    def announce(self) -> None:
        """What holds from the start on."""
        stats = self._forwarder.stats(pools=False)
        self._capacity.report(stats)
        self._devices.report(stats)

    def know(self, stats: Stats) -> None:
        """What the process before this one had counted, and said."""
        for one in (self._refusals, self._shortages, self._capacity, self._resolution):
            one.know(stats)

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._tagging.stop()

    async def _watch(self) -> None:
        """`stats` also lets the forwarder free what is no longer used."""
        while True:
            await asyncio.sleep(_EVERY_S)
            stats = self._forwarder.stats(pools=False)
            self._sources.sample(stats)
            for one in (self._refusals, self._shortages, self._capacity, self._devices):
                one.report(stats)
            self._resolution.sample()
            self._tagging.look()
            self._mark_times()

    def _mark_times(self) -> None:
        if (now := time.monotonic()) >= self._marks_due_at:
            self._marks_due_at = now + TIMES_EVERY_S
            self._forwarder.mark_times()
