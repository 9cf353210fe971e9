"""Drains the whole process or single listeners. Both stop accepting, let sessions go on until a deadline, and report
their progress. Control loop only.

| | ends with | taken back |
|---|---|---|
| the process | its exit by its owner (see `asked`), which resets the sessions that are left | never |
| a listener | a reset of the sessions that are left at the deadline, close reason ``drain`` | by `resume`, a reload |
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from l4lb.control.changes.applying import Applying, adopted
from l4lb.control.publishing.listeners import refuse_clients_elsewhere
from l4lb.control.publishing.reconciler import Reconciler
from l4lb.control.reporting import shapes
from l4lb.control.sessions.sessions import SessionQuery, Sessions
from l4lb.control.state.actor import by_whom
from l4lb.control.state.events import Events
from l4lb.control.state.state import State
from l4lb.errors import ChangeError, EngineError
from l4lb.model.forwarder import Forwarding
from l4lb.model.states import CloseReason, ProcessState

_POLL_S = 0.02


@dataclass(slots=True)
class _Drain:
    """`deadline` is in monotonic time; `left` counts sessions; once it is `over`, those that the deadline cut."""

    timeout_s: float
    deadline: float
    left: int = 0
    over: bool = False

    def move(self, timeout_s: float) -> None:
        self.timeout_s, self.deadline, self.over = timeout_s, time.monotonic() + timeout_s, False

    @property
    def late(self) -> bool:
        return time.monotonic() >= self.deadline

    def shape(self, sessions_active: int) -> shapes.Drain:
        return {
            "timeout_s": self.timeout_s,
            "remaining_s": 0.0 if self.over else round(max(0.0, self.deadline - time.monotonic()), 3),
            "sessions_active": sessions_active,
            "sessions_cut": self.left if self.over else 0,
            "over": self.over,
        }


def _new(timeout_s: float) -> _Drain:
    return _Drain(timeout_s, time.monotonic() + timeout_s)


class Draining:
    """`asked` is called when the admin API has begun to drain the process, whose owner then has to end it."""

    def __init__(
        self,
        state: State,
        forwarder: Forwarding,
        reconciler: Reconciler,
        applying: Applying,
        sessions: Sessions,
        events: Events,
        asked: Callable[[], None],
    ) -> None:
        self.asked = asked
        self._subscribers: list[Callable[[float], None]] = []
        self._state = state
        self._forwarder = forwarder
        self._reconciler = reconciler
        self._applying = applying
        self._sessions = sessions
        self._events = events
        self._process: _Drain | None = None
        self._closing: asyncio.Task[None] | None = None
        self._until_over: asyncio.Task[None] | None = None
        self._listeners: dict[str, tuple[_Drain, asyncio.Task[None]]] = {}
        self._stopped = False

    def subscribe(self, stopping: Callable[[float], None]) -> None:
        """Call `stopping`, with the time that it has, when the process begins to drain."""
        self._subscribers.append(stopping)

    def _timeout(self, timeout_s: float | None) -> float:
        return self._state.config.global_.drain_timeout if timeout_s is None else timeout_s

    # ---- the process ----

    async def begin(self, timeout_s: float | None = None) -> bool:
        """Stop accepting, for good; None: drain_timeout. False when a drain had begun before: its deadline is then
        `timeout_s` from now, or unchanged for None. EngineError once the process is at its end."""
        if self._stopped:
            raise EngineError("not started")
        if self._process is not None:
            await self._until_closed()
            if timeout_s is not None:
                self._process.move(timeout_s)
                self._watch(self._process)
            return False
        self._process = _new(self._timeout(timeout_s))
        self._process.left = self._forwarder.stats().sessions_left  # if `stop` cuts it short
        self._state.process = ProcessState.DRAINING
        for stopping in self._subscribers:
            stopping(self._process.timeout_s)
        self._closing = asyncio.create_task(self._close(self._process))
        await self._until_closed()
        return True

    async def _until_closed(self) -> None:
        """Or until `stop`."""
        assert self._closing is not None
        await asyncio.wait([self._closing])
        if not self._closing.cancelled():
            self._closing.result()

    async def _close(self, drain: _Drain) -> None:
        """Nobody who is in a handshake is reset, and who comes after is refused."""
        await refuse_clients_elsewhere(self._forwarder, ())
        self._reconciler.reconcile()
        await adopted(self._forwarder)
        drain.left = self._forwarder.stats().sessions_left
        self._events.emit("draining", {"sessions": drain.left, "timeout_s": drain.timeout_s, **by_whom()})
        self._watch(drain)

    def _watch(self, drain: _Drain) -> None:
        """Also after a drain was over: sessions that the owner did not end may go on until the new deadline."""
        if self._until_over is None or self._until_over.done():
            self._until_over = asyncio.create_task(self._run_process(drain))

    async def _run_process(self, drain: _Drain) -> None:
        while drain.left > 0 and not drain.late and not self._stopped:
            await asyncio.sleep(_POLL_S)
            drain.left = self._forwarder.stats().sessions_left
        drain.over = True
        level = logging.WARNING if drain.left else logging.INFO
        self._events.emit("drained", {"sessions_left": drain.left}, level)

    async def wait(self) -> int:
        """Call this after `begin`. Waits until no session is left, the deadline, or `stop`, and returns how many are
        left."""
        assert self._process is not None
        if self._until_over is not None:
            await asyncio.wait([self._until_over])
        return self._process.left

    def progress(self, listener: str = "") -> shapes.Drain:
        """The progress of a drain that was begun."""
        known = self._listeners.get(listener)
        if known is not None:
            return known[0].shape(self._forwarder.sessions_on(listener))
        assert self._process is not None
        return self._process.shape(self._forwarder.stats().sessions_left)

    def of_process(self) -> shapes.Drain | None:
        drain = self._process
        return None if drain is None else drain.shape(self._forwarder.stats().sessions_left)

    # ---- a listener ----

    async def begin_listener(self, listener: str, timeout_s: float | None = None) -> None:
        """Make the listener stop accepting; None: drain_timeout. If it drains already, its deadline is then `timeout_s`
        from now, or unchanged for None. ChangeError for an unknown listener."""
        await self._applying.drain_listener(listener)
        drain, task = self._listeners.get(listener, (None, None))
        if drain is not None and task is not None and not task.done():
            if timeout_s is not None:
                drain.move(timeout_s)
            return
        drain = _new(self._timeout(timeout_s))
        fields: dict[str, object] = {"listener": listener, "sessions": self._forwarder.sessions_on(listener)}
        self._events.emit("listener_draining", {**fields, "timeout_s": drain.timeout_s, **by_whom()})
        self._listeners[listener] = (drain, asyncio.create_task(self._run(listener, drain)))

    async def wait_listener(self, listener: str) -> int:
        """Call this after `begin_listener`. Returns how many sessions the deadline cut. ChangeError when the listener
        accepts again before that."""
        drain, task = self._listeners[listener]
        await asyncio.wait([task])
        if not drain.over:
            raise ChangeError("conflict", f'the drain of listener "{listener}" was taken back', "listener")
        return drain.left

    async def resume(self, listener: str) -> None:
        """Make the listener accept again. ChangeError when that is impossible, or it does not drain."""
        if listener in self._state.listeners and listener not in self._state.drained:
            raise ChangeError("conflict", f'listener "{listener}" does not drain', "listener")
        await self._applying.resume_listener(listener)
        self._events.emit("listener_resumed", {"listener": listener, **by_whom()})
        if (known := self._listeners.pop(listener, None)) is not None:
            known[1].cancel()

    async def _run(self, listener: str, drain: _Drain) -> None:
        while (left := self._forwarder.sessions_on(listener)) > 0 and not drain.late:
            await asyncio.sleep(_POLL_S)
            if listener not in self._state.drained:  # a reload made it accept again
                return
        if left > 0:
            ended = await self._sessions.end_all(SessionQuery(listener=listener), CloseReason.DRAIN)
            left = ended["sessions"]  # flows in the kernel go on
        drain.left, drain.over = left, True
        fields: dict[str, object] = {"listener": listener, "sessions_left": left}
        self._events.emit("listener_drained", fields, logging.WARNING if left else logging.INFO)

    def of_listener(self, listener: str, sessions_active: int) -> shapes.Drain | None:
        """None while it accepts. A drain from the previous process is over."""
        if listener not in self._state.drained:
            return None
        drain, _ = self._listeners.get(listener, (_Drain(0.0, 0.0, over=True), None))
        return drain.shape(sessions_active)

    async def stop(self) -> None:
        self._stopped = True
        tasks = [task for _, task in self._listeners.values()]
        for task in tasks:
            task.cancel()
        if self._closing is not None:
            self._closing.cancel()
            tasks.append(self._closing)
        if self._until_over is not None:
            tasks.append(self._until_over)
        await asyncio.gather(*tasks, return_exceptions=True)
