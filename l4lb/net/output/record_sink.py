"""The access log's records for a plug-in: an object of another package gets them in batches, on a thread of its own.

Between it and whoever writes the access log is a bounded queue. A plug-in that is slow fills it, and one that raises
loses its batch; neither disturbs anybody else.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from l4lb.errors import RAISED_BY_OTHERS
from l4lb.net.threads import name_this_thread, started

QUEUE_LENGTH = 16_384  # records
BATCH_MAX = 1_000
CLOSE_WITHIN_S = 2.0
_ENDED_LATE = "the plug-in did not return in time"
logger = logging.getLogger("l4lb")


class RecordSink(Protocol):
    """What a plug-in provides."""

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Take up to 1,000 records, those of each worker in the order in which its sessions ended. It may block, and
        raise when it could not take them: they are counted as dropped then. Always on the same thread."""

    def close(self) -> None:
        """After the last `write`, on the same thread."""


def made_record_sink(make: Callable[..., object], options: Mapping[str, object]) -> RecordSink:
    """What another package's `make` returns. ValueError says what is wrong with that, or with its options."""
    try:
        plugin: Any = make(dict(options))
    except RAISED_BY_OTHERS as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not (callable(getattr(plugin, "write", None)) and callable(getattr(plugin, "close", None))):
        raise ValueError(f"returned a {type(plugin).__name__}, expected an object with write(records) and close()")
    made: RecordSink = plugin
    return made


class PluginSink:
    """A `l4lb.net.output.sinks.Sink` of JSON lines. The plug-in gets up to `batch_max` of them at a time, and `close`
    waits up to CLOSE_WITHIN_S for it. EngineError when there can be no thread."""

    refusals_are_losses = False
    torn = False

    def __init__(self, name: str, plugin: RecordSink, batch_max: int = BATCH_MAX) -> None:
        self.name = name
        self._plugin = plugin
        self._batch_max = batch_max
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._in_hand = 0  # records that the plug-in is writing
        self._lost = 0
        self._reason = ""
        self._closing = False
        self._close_by = 0.0
        self.abandoned = False  # the plug-in did not return
        self._thread = started(threading.Thread(target=self._run, name="l4lb-record-sink", daemon=True))

    # ---- as a sink ----

    def frame(self, line: str, level: int) -> bytes:
        return line.encode("utf-8", "backslashreplace")

    def send(self, framed: Sequence[bytes]) -> int:
        with self._changed:
            room = QUEUE_LENGTH - len(self._queue)
            if room <= 0:
                raise BlockingIOError
            taken = framed[:room]
            self._queue.extend(taken)
            self._changed.notify_all()
            return len(taken)

    @property
    def settled(self) -> bool:
        with self._changed:
            return not (self._queue or self._in_hand or self._lost)

    def take_lost(self) -> tuple[int, str]:
        with self._changed:
            lost, self._lost = self._lost, 0
            return lost, self._reason

    def fileno(self) -> int:
        return -1

    def reopen(self) -> None: ...

    def finish(self) -> None:
        """Nothing more comes: the plug-in has CLOSE_WITHIN_S from now on. Several that finish do so side by side."""
        with self._changed:
            if not self._closing:
                self._close_by = time.monotonic() + CLOSE_WITHIN_S
                self._closing = True
                self._changed.notify_all()

    def close(self) -> None:
        self.finish()
        self._thread.join(max(0.0, self._close_by - time.monotonic()))
        with self._changed:
            if self._thread.is_alive():
                self.abandoned = True
                self._lose(self._in_hand + len(self._queue), _ENDED_LATE)
                self._queue.clear()

    # ---- its thread ----

    def _run(self) -> None:
        name_this_thread("l4lb-records")
        while batch := self._next_batch():
            try:
                self._plugin.write([_record(line) for line in batch])
            except BaseException as error:  # whatever another package raises
                self._failed(batch, error)
            self._done()
        try:
            self._plugin.close()
        except BaseException as error:
            logger.error("a record sink could not be closed", extra={"fields": _fields(self.name, error)})

    def _next_batch(self) -> list[bytes]:
        """Empty at the end."""
        with self._changed:
            while not (self._queue or self._closing):
                self._changed.wait()
            batch = [self._queue.popleft() for _ in range(min(self._batch_max, len(self._queue)))]
            self._in_hand = len(batch)
            return batch

    def _failed(self, batch: Sequence[bytes], error: BaseException) -> None:
        with self._changed:
            if not self.abandoned:  # else they are counted already
                self._lose(len(batch), f"the plug-in raised {type(error).__name__}: {error}")

    def _done(self) -> None:
        with self._changed:
            self._in_hand = 0

    def _lose(self, count: int, reason: str) -> None:
        self._lost += count
        self._reason = reason


def _record(line: bytes) -> dict[str, Any]:
    """The access log leaves out tags where there are none."""
    record: dict[str, Any] = json.loads(line)
    record.setdefault("tags", {})
    return record


def _fields(name: str, error: BaseException) -> dict[str, object]:
    return {"to": name, "reason": f"{type(error).__name__}: {error}"}
