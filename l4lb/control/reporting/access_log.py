"""The access log: a line for every session that has ended and every client that was refused.

A thread moves records from the workers' rings into a `LineWriter`. It sleeps while no session ends, and otherwise looks
a hundred times per second: a worker's ring (4,096 records) then suffices for 400,000 sessions per second. Nothing waits
for it: records that it, or the log's reader, cannot take are dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from l4lb.control.reporting.access_format import Formatter
from l4lb.control.state.events import logger
from l4lb.model.forwarder import SessionRecords
from l4lb.net.output.line_writer import LineWriter, Losing
from l4lb.net.output.sinks import Sink

Report = Callable[[str, dict[str, object], int], None]
RECORDS_A_PASS = 1024  # per worker
PACE_S = 0.01
RETRY_S = 0.25
LAST_WORDS_S = 1.0  # how long `stop` waits for a slow reader
_JOIN_S = 5.0
_PASSES_MAX = 16  # empty the rings, however fast sessions end meanwhile
_TOO_FAST = "more sessions ended at once than could be recorded"


@dataclass(frozen=True, slots=True)
class Counts:
    """`lines` written; `unwritten`: lost because the reader did not take them; `untaken`: lost in a worker's ring."""

    lines: int = 0
    unwritten: int = 0
    untaken: int = 0


class Reader:
    """Takes records and writes lines, between `start` and `stop`. `report` is called on its thread."""

    def __init__(self, forwarder: SessionRecords, wake_fd: int, sink: Sink, log_format: str, report: Report) -> None:
        self._forwarder = forwarder
        self._wake_fd = wake_fd
        self._report = report
        self._writer = LineWriter(sink, self._losing)
        self._formatter = Formatter(log_format)
        self._asked: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = queue.SimpleQueue()
        self._untaken = 0
        self._untaken_before = forwarder.records_dropped()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="l4lb-access-log", daemon=True)

    @property
    def counts(self) -> Counts:
        return Counts(self._writer.lines, self._writer.dropped - self._untaken, self._untaken)

    def start(self) -> None:
        self._forwarder.keep_records(self._wake_fd)
        self._thread.start()

    def stop(self) -> None:
        """Write what there is, and end."""
        self._stopping = True
        self._wake()
        self._thread.join(_JOIN_S)

    def use(self, sink: Sink | None, log_format: str) -> None:
        """Use this format from now on, and `sink` unless it is None. Waits until that is done, unless a disk hangs."""
        self._ask(lambda: self._use(sink, log_format)).wait(_JOIN_S)

    def reopen(self) -> None:
        self._ask(self._reopen)

    def _ask(self, what: Callable[[], None]) -> threading.Event:
        """Have `what` called between two passes; the returned event is set then."""
        done = threading.Event()
        self._asked.put((what, done))
        self._wake()
        return done

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)

    # ---- its thread ----

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._pass()
            while self._pass():  # no more come, but the last may have come while this thread did not run
                pass
            self._last_words()
        except Exception as error:  # a defect, which must be logged; from now on the rings count losses
            logger.error("the access log ended", exc_info=error)
        finally:
            self._writer.close()

    def _pass(self) -> bool:
        """Handle requests, write the available records, and wait for more. Returns whether there were any."""
        with contextlib.suppress(queue.Empty):
            while True:
                what, done = self._asked.get_nowait()
                what()
                done.set()
        took = self._take()
        self._count_untaken()
        self._writer.flush()
        if not self._stopping:
            self._wait(took)
        return took

    def _take(self) -> bool:
        records = self._forwarder.take_records(RECORDS_A_PASS)
        self._writer.add(self._formatter.lines(records))
        return bool(records)

    def _count_untaken(self) -> None:
        new = self._forwarder.records_dropped() - self._untaken_before - self._untaken
        if new:
            self._untaken += new
            self._writer.lose(new, _TOO_FAST)

    def _wait(self, took: bool) -> None:
        """Wait until there may be more: a moment if there were records just now, otherwise until a session ends."""
        waiting = self._writer.unsettled
        asked = select.poll()
        if not took:
            asked.register(self._wake_fd, select.POLLIN)
        self._poll_sink(asked)
        asked.poll(PACE_S * 1000 if took else RETRY_S * 1000 if waiting else None)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _poll_sink(self, asked: select.poll) -> None:
        if self._writer.blocked and self._writer.sink.fileno() >= 0:
            asked.register(self._writer.sink.fileno(), select.POLLOUT)

    def _last_words(self) -> None:
        deadline = time.monotonic() + LAST_WORDS_S
        while not self._writer.flush() and self._writer.blocked and time.monotonic() < deadline:
            asked = select.poll()
            self._poll_sink(asked)
            asked.poll(PACE_S * 1000)

    def _use(self, sink: Sink | None, log_format: str) -> None:
        """Records of sessions that ended before this go to the old sink."""
        for _ in range(_PASSES_MAX):
            if not self._take():
                break
        self._formatter = Formatter(log_format)
        if sink is not None:
            self._writer.use(sink)

    def _reopen(self) -> None:
        sink = self._writer.sink
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


class AccessLog:
    """Runs a `Reader` while the access log is on. From any thread; `use`, `off` and `stop` wait for it."""

    def __init__(self, forwarder: SessionRecords, report: Report) -> None:
        self._forwarder = forwarder
        self._report = report
        self._wake_fd = -1  # open until the workers, which write to it, have ended
        self._reader: Reader | None = None
        self._before = Counts()
        self._stopped = False
        self._lock = threading.Lock()  # a reload may be under way when the process ends

    @property
    def counts(self) -> Counts:
        """Since the start."""
        reader, before = self._reader, self._before
        now = reader.counts if reader else Counts()
        return Counts(before.lines + now.lines, before.unwritten + now.unwritten, before.untaken + now.untaken)

    def use(self, sink: Sink | None, log_format: str) -> None:
        """Write to `sink`, which the log owns from now on; None: keep the current one."""
        with self._lock:
            if self._stopped:
                sink.close() if sink is not None else None
            elif self._reader is not None:
                self._reader.use(sink, log_format)
            elif sink is not None:
                self._begin(sink, log_format)

    def _begin(self, sink: Sink, log_format: str) -> None:
        if self._wake_fd < 0:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._reader = Reader(self._forwarder, self._wake_fd, sink, log_format, self._report)
        self._reader.start()

    def off(self) -> None:
        """Write no line for sessions that end from now on."""
        with self._lock:
            if self._reader is not None:
                self._forwarder.stop_records()
                self._end()

    def reopen(self) -> None:
        reader = self._reader
        if reader is not None:
            reader.reopen()

    def _end(self) -> None:
        if self._reader is not None:
            self._reader.stop()
            self._before, self._reader = self.counts, None

    def stop(self) -> None:
        """Call this after the forwarder has closed: its last records are still written. Idempotent."""
        with self._lock:
            self._stopped = True
            self._end()
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1
