"""Events, one record each: the log is one subscriber, others come and go. Control thread only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

logger = logging.getLogger("l4lb")

RECENT = 200  # events kept for later readers


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` is the stable name (``backend_down``), `fields` are the details; `time` is in seconds since 1970."""

    kind: str
    fields: dict[str, object] = field(default_factory=dict)
    level: int = logging.INFO
    time: float = field(default_factory=time.time)

    @property
    def message(self) -> str:
        """``backend down`` for ``backend_down``."""
        return self.kind.replace("_", " ")


def to_log(event: Event) -> None:
    logger.log(event.level, event.message, extra={"fields": event.fields})


class Events:
    """Passes each event to all subscribers, in the order of their subscription; `recent` are the latest, oldest
    first."""

    def __init__(self) -> None:
        self.recent: deque[Event] = deque(maxlen=RECENT)
        self._subscribers: list[Callable[[Event], None]] = [to_log]

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """From now on call `subscriber` for each event. Returns a function that ends the subscription."""
        self._subscribers.append(subscriber)
        return lambda: self.unsubscribe(subscriber)

    def unsubscribe(self, subscriber: Callable[[Event], None]) -> None:
        """Nothing is done when it is none."""
        with contextlib.suppress(ValueError):
            self._subscribers.remove(subscriber)

    def follow(self, subscriber: Callable[[Event], None], last: int) -> None:
        """The same as `subscribe`, after the latest `last` events."""
        for event in list(self.recent)[-last:] if last > 0 else ():
            subscriber(event)
        self.subscribe(subscriber)

    def emit(self, kind: str, fields: dict[str, object], level: int = logging.INFO) -> None:
        event = Event(kind, fields, level)
        self.recent.append(event)
        for subscriber in list(self._subscribers):
            subscriber(event)


class FromThreads:
    """Emits events of other threads on the control loop, where it has to be made; discards them once that loop is
    closed."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._loop = asyncio.get_running_loop()

    def emit(self, kind: str, fields: dict[str, object], level: int = logging.INFO) -> None:
        """From any thread."""
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._loop.call_soon_threadsafe(self._events.emit, kind, fields, level)
