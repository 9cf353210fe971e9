"""The access log: a line for every session that has ended and every client that was refused.

The thread of a `RecordStream` writes it. Nothing waits for it: lines that its reader does not take are dropped and
counted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from l4lb.control.reporting.access_format import Formatter
from l4lb.net.output.line_writer import Losing
from l4lb.net.output.record_stream import Outlet, RecordStream
from l4lb.net.output.sinks import Sink

Report = Callable[[str, dict[str, object], int], None]
_USED_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Counts:
    """`lines` written; `unwritten`: lost because the reader did not take them; `untaken`: lost in a worker's ring."""

    lines: int = 0
    unwritten: int = 0
    untaken: int = 0


class AccessLog:
    """An outlet of `records` while the access log is on. From any thread; `use` and `off` wait for that of the stream,
    on which `report` is called."""

    def __init__(self, records: RecordStream, report: Report) -> None:
        self._records = records
        self._report = report
        self._outlet: Outlet | None = None
        self._before = Counts()
        self._stopped = False
        self._lock = threading.Lock()  # a reload may be under way when the process ends

    @property
    def counts(self) -> Counts:
        """Since the start."""
        outlet, before = self._outlet, self._before
        if outlet is None:
            return before
        writer, untaken = outlet.writer, outlet.untaken
        return Counts(
            before.lines + writer.lines, before.unwritten + writer.dropped - untaken, before.untaken + untaken
        )

    def use(self, sink: Sink | None, log_format: str) -> None:
        """Write to `sink`, which the log owns from now on; None: keep the current one."""
        with self._lock:
            if self._stopped:
                sink.close() if sink is not None else None
            elif (outlet := self._outlet) is not None:
                done = self._records.between(lambda: self._use(outlet, sink, log_format))
                done.wait(_USED_WITHIN_S)  # unless a disk hangs
            elif sink is not None:
                self._begin(sink, log_format)

    def _begin(self, sink: Sink, log_format: str) -> None:
        outlet = Outlet(sink, Formatter(log_format).lines, self._losing)
        try:
            self._records.change(put=[outlet])
        except BaseException:
            outlet.close()
            raise
        self._outlet = outlet

    def off(self) -> None:
        """Write no line for sessions that end from now on."""
        with self._lock:
            outlet = self._outlet
            if outlet is not None:
                self._records.change(drop=[outlet])
                self._before, self._outlet = self.counts, None

    def reopen(self) -> None:
        outlet = self._outlet
        if outlet is not None:
            self._records.between(lambda: self._reopen(outlet.writer.sink))

    def stop(self) -> None:
        """Before `records` stops, which writes the last lines. Idempotent."""
        with self._lock:
            self._stopped = True

    # ---- on the stream's thread ----

    def _use(self, outlet: Outlet, sink: Sink | None, log_format: str) -> None:
        """Records of sessions that ended before this go to the old sink."""
        self._records.empty()
        outlet.lines = Formatter(log_format).lines
        if sink is not None:
            outlet.writer.use(sink)

    def _reopen(self, sink: Sink) -> None:
        try:
            sink.reopen()
        except OSError as error:
            self._report("access_log_not_reopened", {"to": sink.name, "reason": str(error.strerror)}, logging.ERROR)
        else:
            self._report("access_log_reopened", {"to": sink.name}, logging.INFO)

    def _losing(self, losing: Losing) -> None:
        if losing.reason:
            self._report("access_log_dropping", {"to": losing.to, "reason": losing.reason}, logging.WARNING)
        else:
            self._report("access_log_recovered", {"to": losing.to, "dropped": losing.dropped}, logging.INFO)
