"""One pool's source: asks it, for as long as it is wanted, and keeps what it answered last. Control loop only.

A source that fails takes nothing away: its last answer stays, and it is asked again, less and less often.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from l4lb.config import Backend, DiscoveryConfig
from l4lb.control.discovery.entries import backend_of
from l4lb.control.discovery.holding import HoldDown
from l4lb.control.discovery.registry import source_of
from l4lb.control.discovery.sources import Answer, Asked, Yielded
from l4lb.control.state.events import Events
from l4lb.control.state.state import DiscoveryState
from l4lb.net.loops import is_ending

_CANCELLED_WITHIN_S = 0.1
AGAIN_MIN_S = 1.0
AGAIN_MAX_S = 30.0


class Following:
    """`found` is the last answer, None before there is one, and `known` what is said of it. `news` is set when there is
    something to be done about it."""

    def __init__(self, pool: str, settings: DiscoveryConfig, events: Events) -> None:
        self.pool, self.settings = pool, settings
        self.found: tuple[Backend, ...] | None = None
        self.known = DiscoveryState(settings.type)
        self.holding = HoldDown(settings.hold_down)
        self.looked = asyncio.Event()  # once it has answered, or failed
        self.news = asyncio.Event()
        self._events = events
        self._failing = False
        self._remark = ""
        self._unusable = ""  # why there is no answer at the last look, or none that can be used
        self._last: Yielded | None = None
        self._built: dict[str, Backend] = {}
        self._tasks = [asyncio.create_task(self._ask())]

    def also(self, task: asyncio.Task[None]) -> None:
        """To be ended with it."""
        self._tasks.append(task)

    async def stop(self) -> None:
        """More than once where it has to be: `asyncio.wait_for` of Python 3.11, which a source may use, loses a
        cancellation that comes together with its result."""
        while pending := [task for task in self._tasks if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=_CANCELLED_WITHIN_S)

    async def _ask(self) -> None:
        pause_s = AGAIN_MIN_S
        while True:
            answers = self.known.answers
            try:
                source = source_of(self.settings.type)
                async with contextlib.aclosing(source(Asked(self.pool, self.settings))) as said:
                    async for one in said:
                        await self._take(one)
                self.unanswered("the source has ended")
            except asyncio.CancelledError:
                if is_ending():
                    raise
                self.unanswered("the source cancelled itself")
            except SystemExit as error:
                self.unanswered(f"the source called sys.exit({error.code!r})")
            except Exception as error:  # of a source, whatever it is: nothing is taken away, and it is asked again
                self.unanswered(str(error) or type(error).__name__)
            self._last = None
            pause_s = AGAIN_MIN_S if self.known.answers > answers else min(pause_s * 2, AGAIN_MAX_S)
            await asyncio.sleep(pause_s)

    async def _take(self, said: Yielded) -> None:
        if isinstance(said, Exception):
            self._last = said
            return self.unanswered(str(said) or type(said).__name__)
        if said is not self._last:
            answer = said if isinstance(said, Answer) else Answer(list(said))
            self._last = said
            try:
                self.found = await asyncio.to_thread(self._backends, answer)
            except ValueError as error:
                self._unusable = str(error)
            else:
                self._unusable = ""
                self._remark, self.known.found = answer.remark, len(self.found)
                if not self._failing:
                    self.known.error = answer.remark
                self.news.set()
        if self._unusable:
            return self.unanswered(self._unusable)
        self.known.answers += 1
        self.known.answered_at = time.time()
        self.looked.set()
        return None

    def unanswered(self, reason: str) -> None:
        """There is no answer, or none that can be used."""
        self._unusable = reason
        self._failed(reason)
        self.looked.set()

    def not_applied(self, reason: str) -> None:
        """What was found cannot hold."""
        self._failed(reason)

    def applied(self) -> None:
        """What was found holds. A failure since then is still one."""
        self.known.held = self.holding.held
        if self._unusable:
            return
        self.known.error = self._remark
        if self._failing:
            self._failing = False
            self._events.emit("discovery_recovered", {"pool": self.pool, "type": self.settings.type})

    def _failed(self, reason: str) -> None:
        self.known.failures += 1
        if not self._failing or reason != self.known.error:
            what = "no backend is known" if self.found is None else "what was known before stays"
            fields: dict[str, object] = {"pool": self.pool, "type": self.settings.type, "reason": f"{reason}: {what}"}
            self._events.emit("discovery_failed", fields, logging.WARNING)
        self._failing, self.known.error = True, reason

    # ---- from entries to backends: on another thread, since there may be thousands ----

    def _backends(self, answer: Answer) -> tuple[Backend, ...]:
        """Those that the answer before had too are the same objects. ValueError, with the place."""
        before, built = self._built, dict[str, Backend]()
        indices: dict[str, int] = {}
        for index, entry in enumerate(answer.entries):
            text = entry if isinstance(entry, str) else repr(entry)
            backend = before.get(text) or built.get(text) or backend_of(entry, answer.place(index))
            if (other := indices.setdefault(backend.key, index)) != index:
                raise ValueError(f'{answer.place(index)}: "{backend.key}": the same as {answer.place(other)}')
            built[text] = backend
        self._built = built
        return tuple(built.values())
