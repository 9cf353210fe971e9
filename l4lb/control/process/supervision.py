"""Notifies the service manager about this process: ready, reloading, stopping, a status line, and watchdog signs.
Control loop only.

A watchdog sign says that the control loop runs and that every worker has finished a turn since the last sign. Each look
wakes the workers, so an idle worker turns too, and only one that hangs does not. Without signs the manager ends the
process.

| when | notification |
|---|---|
| everything is up | READY, STATUS |
| a reload begins, ends | RELOADING with MONOTONIC_USEC, READY |
| the drain begins | STOPPING; EXTEND_TIMEOUT_USEC, as it may take longer than the manager would wait |
| another process takes over | MAINPID, by the old process; from then on the new one sends all notifications |
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator

from l4lb.control.process.status import Status
from l4lb.control.sessions.draining import Draining
from l4lb.control.state.events import Events
from l4lb.model.forwarder import Forwarding
from l4lb.net.systemd.sd_notify import Notifier, monotonic_us

_LOOK_EVERY_S = 1.0
_AFTER_THE_DRAIN_S = 10.0  # for the rest of the shutdown


class Supervision:
    """Sends to `notifier`; silent before `start` and after `name_successor`."""

    def __init__(
        self, notifier: Notifier, status: Status, draining: Draining, events: Events, forwarder: Forwarding
    ) -> None:
        self._notifier = notifier
        self._status = status
        self._events = events
        self._forwarder = forwarder
        self._active = False
        self._reloads = 0
        self._said = ""
        self._due = 0.0
        self._stuck: list[int] = []
        self._task: asyncio.Task[None] | None = None
        draining.subscribe(self.stopping)

    def start(self) -> None:
        """Call this when everything is up and the manager is to watch this process."""
        if self._notifier and not self._active:
            self._active = True
            self._said = self._line()
            self._notifier.notify(READY=1, MAINPID=os.getpid(), STATUS=self._said)
            self._task = asyncio.create_task(self._run())

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Wrap this around a reload, whether it succeeds or not."""
        self._notify(RELOADING=1, MONOTONIC_USEC=monotonic_us())
        self._reloads += 1
        try:
            yield
        finally:
            self._reloads -= 1
            if not self._reloads:
                self._notify(READY=1)

    def stopping(self, timeout_s: float) -> None:
        """The process drains, for at most `timeout_s`."""
        self._notify(STOPPING=1, EXTEND_TIMEOUT_USEC=round((timeout_s + _AFTER_THE_DRAIN_S) * 1e6))

    def name_successor(self, pid: int) -> None:
        """From now on the manager is to watch process `pid`, and not this one."""
        self._notify(MAINPID=pid)
        self._active = False

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _notify(self, **fields: object) -> None:
        if self._active:
            self._notifier.notify(**fields)

    async def _run(self) -> None:
        watchdog_s = self._notifier.watchdog_s
        while self._active:
            if watchdog_s and time.monotonic() >= self._due:
                self._give_sign(watchdog_s)
            if (line := self._line()) != self._said:
                self._said = line
                self._notify(STATUS=line)
            await asyncio.sleep(min(_LOOK_EVERY_S, watchdog_s / 4) if watchdog_s else _LOOK_EVERY_S)

    def _give_sign(self, watchdog_s: float) -> None:
        """At half of the watchdog's time; after a hang, as soon as it is over."""
        silent = self._forwarder.silent_workers()
        if not silent:
            self._notify(WATCHDOG=1)
            self._due = time.monotonic() + watchdog_s / 2
        elif not self._stuck:
            reason = f"no turn finished; without one the service manager ends this process after {watchdog_s:g} s"
            self._events.emit("workers_stuck", {"workers": " ".join(map(str, silent)), "reason": reason}, logging.ERROR)
        self._stuck = silent

    def _line(self) -> str:
        return self._status.line()
