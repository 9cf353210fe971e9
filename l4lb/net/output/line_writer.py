"""Writes lines to a sink that may be slow, stuck or gone: a bounded number waits, the others are dropped and counted,
and the loss is reported once. Used by one thread at a time; never blocks."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from l4lb.net.output.sinks import Sink

PENDING_BYTES = 1024 * 1024
RECOVERED_AFTER_S = 1.0
_BATCH = 512
_FULL = "its reader is slow or stuck"


@dataclass(frozen=True, slots=True)
class Losing:
    """Lines are dropped from now on; or, with an empty `reason`, no more: `dropped` is their number."""

    to: str
    reason: str
    dropped: int


class LineWriter:
    """Calls `report` when it begins to lose lines, and when it has lost none for a while and all are written."""

    def __init__(
        self, sink: Sink, report: Callable[[Losing], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.sink = sink
        self.lines = 0
        self.dropped = 0
        self.blocked = False  # its sink will say when it is writable
        self._report = report
        self._clock = clock
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._error = _FULL
        self._losing_since: int | None = None  # how many were dropped before
        self._last_loss = 0.0

    @property
    def pending(self) -> bool:
        """Something waits to be written."""
        return bool(self._pending) or self.sink.torn

    @property
    def losing(self) -> bool:
        return self._losing_since is not None

    @property
    def unsettled(self) -> bool:
        """There is something to do, or may soon be, even if no line comes: `flush` does it."""
        return self.pending or self.losing or not self.sink.settled

    def add(self, lines: Iterable[str], level: int = logging.INFO) -> None:
        """Take lines, and drop those for which there is no room even after a flush."""
        stuck, dropped = False, 0
        for line in lines:
            if self._pending_bytes >= PENDING_BYTES and not stuck:
                stuck = not self.flush()
            if stuck and self._pending_bytes >= PENDING_BYTES:
                dropped += 1
                continue
            framed = self.sink.frame(line, level)
            self._pending.append(framed)
            self._pending_bytes += len(framed)
        if dropped:
            self.lose(dropped, self._error)

    def flush(self) -> bool:
        """Write what the sink takes now. True when no line waits any more."""
        self.blocked = False
        self._count_lost()
        while self.pending:
            try:
                taken = self.sink.send(list(islice(self._pending, _BATCH)))
            except BlockingIOError:
                self.blocked, self._error = True, _FULL
                return False
            except OSError as error:
                self._error = error.strerror or str(error)
                if self.sink.refusals_are_losses and isinstance(error, ConnectionRefusedError):
                    self.lines -= 1
                    self.lose(1, self._error)
                return False
            self._written(taken)
            self.lines += taken
        self._recover()
        return True

    def _count_lost(self) -> None:
        lost, reason = self.sink.take_lost()
        if lost:
            self.lines -= lost
            self.lose(lost, reason)

    def _written(self, count: int) -> None:
        for _ in range(count):
            self._pending_bytes -= len(self._pending.popleft())

    def lose(self, count: int, reason: str) -> None:
        """Account for lines that are lost."""
        if self._losing_since is None:
            self._losing_since = self.dropped
            self._report(Losing(self.sink.name, reason, count))
        self.dropped += count
        self._last_loss = self._clock()

    def _recover(self) -> None:
        if self._losing_since is not None and self._clock() - self._last_loss >= RECOVERED_AFTER_S:
            dropped, self._losing_since = self.dropped - self._losing_since, None
            self._report(Losing(self.sink.name, "", dropped))

    def use(self, sink: Sink) -> None:
        """Write to `sink` from now on. Waiting lines are written to the old sink if possible, or lost."""
        self.close()
        self.sink = sink

    def _finish(self) -> None:
        """Write what waits or count it as lost."""
        if self.flush():
            return
        self.lines -= self.sink.torn
        self.lose(len(self._pending) + self.sink.torn, self._error)
        self._pending.clear()
        self._pending_bytes = 0

    def close(self) -> None:
        """Waiting lines are written if possible, or lost."""
        self._finish()
        self.sink.close()
        self._count_lost()
