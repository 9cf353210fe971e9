"""Records of ended sessions, for all who want them: the access log, and hooks.

A thread moves records from the workers' rings to every `Outlet`. It sleeps while no session ends, and otherwise looks a
hundred times per second: a worker's ring (4,096 records) then suffices for 400,000 sessions per second. Nothing waits
for it: records that it, or an outlet, cannot take are dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Sequence

from l4lb.errors import EngineError
from l4lb.model.forwarder import SessionRecords
from l4lb.model.stats import SessionRecord
from l4lb.net.output.line_writer import LineWriter, Losing
from l4lb.net.output.sinks import Sink
from l4lb.net.threads import started

RECORDS_A_PASS = 1024  # per worker
PACE_S = 0.01
RETRY_S = 0.25
LAST_WORDS_S = 1.0  # how long `stop` waits for slow readers
_JOIN_S = 5.0
_PASSES_MAX = 16  # empty the rings, however fast sessions end meanwhile
_TOO_FAST = "more sessions ended at once than could be recorded"
logger = logging.getLogger("l4lb")

Lines = Callable[[Sequence[SessionRecord]], list[str]]


class Outlet:
    """Takes records as `lines` for a sink. Used by the stream's thread while it is part of one, and then by whoever
    took it out; `losing` is called on that thread.

    `wants`: of which listeners; None: of all.
    """

    def __init__(
        self, sink: Sink, lines: Lines, losing: Callable[[Losing], None], wants: Callable[[str], bool] | None = None
    ) -> None:
        self.writer = LineWriter(sink, losing)
        self.lines = lines
        self.untaken = 0  # lost in a worker's ring; their listeners are not known
        self._wants = wants

    def take(self, records: Sequence[SessionRecord]) -> None:
        if self._wants is not None:
            records = [one for one in records if self._wants(one.listener)]
        if records:
            self.writer.add(self.lines(records))

    def lose(self, count: int) -> None:
        self.untaken += count
        self.writer.lose(count, _TOO_FAST)

    def finish(self) -> None:
        """Nothing more comes: begin what `close` waits for."""

    def close(self) -> None:
        """What waits is written if possible, or lost."""
        self.writer.close()


class Reader:
    """Takes records and passes them on, between `start` and `stop`."""

    def __init__(self, forwarder: SessionRecords, wake_fd: int, outlets: Sequence[Outlet]) -> None:
        self._forwarder = forwarder
        self._wake_fd = wake_fd
        self.outlets = tuple(outlets)
        self._asked: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = queue.SimpleQueue()
        self._dropped = forwarder.records_dropped()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="l4lb-record-stream", daemon=True)

    def start(self) -> None:
        """EngineError when there can be no thread."""
        started(self._thread)
        self._forwarder.keep_records(self._wake_fd)

    def stop(self) -> None:
        """Pass on what there is, close the outlets, and end."""
        self._stopping = True
        self._wake()
        self._thread.join(_JOIN_S)

    def between(self, what: Callable[[], None]) -> threading.Event:
        """Have `what` called between two passes; the returned event is set then."""
        done = threading.Event()
        self._asked.put((what, done))
        self._wake()
        return done

    def empty(self) -> None:
        """On its thread: pass on what has come so far."""
        for _ in range(_PASSES_MAX):
            if not self._take():
                break
        self._count_dropped()

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
            logger.error("records of sessions are read no more", exc_info=error)
        finally:
            self._close()

    def _pass(self) -> bool:
        """Handle requests, pass on the available records, and wait for more. Returns whether there were any."""
        with contextlib.suppress(queue.Empty):
            while True:
                what, done = self._asked.get_nowait()
                what()
                done.set()
        took = self._take()
        self._count_dropped()
        for outlet in self.outlets:
            outlet.writer.flush()
        if not self._stopping:
            self._wait(took)
        return took

    def _take(self) -> bool:
        records = self._forwarder.take_records(RECORDS_A_PASS)
        for outlet in self.outlets if records else ():
            outlet.take(records)
        return bool(records)

    def _count_dropped(self) -> None:
        dropped = self._forwarder.records_dropped()
        if dropped != self._dropped:
            for outlet in self.outlets:
                outlet.lose(dropped - self._dropped)
            self._dropped = dropped

    def _wait(self, took: bool) -> None:
        """Wait until there may be more: a moment if there were records just now, otherwise until a session ends."""
        waiting = any(outlet.writer.unsettled for outlet in self.outlets)
        asked = select.poll()
        if not took:
            asked.register(self._wake_fd, select.POLLIN)
        self._poll_sinks(asked)
        asked.poll(PACE_S * 1000 if took else RETRY_S * 1000 if waiting else None)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _poll_sinks(self, asked: select.poll) -> None:
        for outlet in self.outlets:
            if outlet.writer.blocked and outlet.writer.sink.fileno() >= 0:
                asked.register(outlet.writer.sink.fileno(), select.POLLOUT)

    def _last_words(self) -> None:
        deadline = time.monotonic() + LAST_WORDS_S
        while self._is_blocked() and time.monotonic() < deadline:
            asked = select.poll()
            self._poll_sinks(asked)
            asked.poll(PACE_S * 1000)

    def _is_blocked(self) -> bool:
        """Whether one still waits for its reader, after another try."""
        behind = [outlet for outlet in self.outlets if not outlet.writer.flush()]
        return any(outlet.writer.blocked for outlet in behind)

    def _close(self) -> None:
        for outlet in self.outlets:
            outlet.finish()
        for outlet in self.outlets:
            outlet.close()


class RecordStream:
    """Runs a `Reader` while there are outlets. From any thread; all methods but `between` wait for it."""

    def __init__(self, forwarder: SessionRecords) -> None:
        self._forwarder = forwarder
        self._wake_fd = -1  # open until the workers, which write to it, have ended
        self._reader: Reader | None = None
        self._awaited = False  # an outlet is to come
        self._stopped = False
        self._lock = threading.Lock()  # a reload may be under way when the process ends

    def open(self) -> None:
        """Begin to keep records, before there is an outlet: `change` with one does not fail then. If none comes,
        `close_if_unused`. EngineError when there can be no thread or descriptor."""
        with self._lock:
            if not self._stopped and self._reader is None:
                self._open(())
            self._awaited = True

    def _open(self, outlets: Sequence[Outlet]) -> None:
        if self._wake_fd < 0:
            self._wake_fd = _new_eventfd()
        reader = Reader(self._forwarder, self._wake_fd, outlets)
        reader.start()
        self._reader = reader

    def change(
        self, put: Sequence[Outlet] = (), drop: Sequence[Outlet] = (), at_once: Callable[[], None] | None = None
    ) -> None:
        """From now on `put` get the records, and `drop`, which are closed, get none; records of sessions that ended
        before this go to those that there were. `at_once` is called as soon as that is so, maybe on another thread.
        EngineError as from `open`: nothing has changed."""
        at_once = at_once or (lambda: None)
        done = True
        with self._lock:
            if self._stopped:  # it has closed `drop`
                _close(put)
                return
            self._awaited = self._awaited and not put
            if (reader := self._reader) is not None:
                done = reader.between(lambda: _swap(reader, put, drop, at_once)).wait(_JOIN_S)
                self._end_if_unused()
            else:
                self._open(put) if put else None
                at_once()
        if done:  # unless a disk hangs
            _close(drop)

    def between(self, what: Callable[[], None]) -> threading.Event:
        """Have `what` called on the thread that uses outlets, if it runs; the returned event is set then."""
        reader = self._reader
        if reader is not None:
            return reader.between(what)
        done = threading.Event()
        done.set()
        return done

    def empty(self) -> None:
        """Pass on what has come so far. Only within `between`."""
        if self._reader is not None:
            self._reader.empty()

    def close_if_unused(self) -> None:
        with self._lock:
            self._awaited = False
            self._end_if_unused()

    def _end_if_unused(self) -> None:
        reader = self._reader
        if reader is not None and not reader.outlets and not self._awaited:
            self._forwarder.stop_records()
            self._reader = None
            reader.stop()

    def stop(self) -> None:
        """Call this after the forwarder has closed: its last records are still passed on. Idempotent."""
        with self._lock:
            self._stopped = True
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.stop()
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1


def _new_eventfd() -> int:
    try:
        return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    except OSError as error:
        raise EngineError(f"records of sessions cannot be read: {error.strerror}") from error


def _swap(reader: Reader, put: Sequence[Outlet], drop: Sequence[Outlet], at_once: Callable[[], None]) -> None:
    reader.empty()
    reader.outlets = (*(one for one in reader.outlets if one not in drop), *put)
    at_once()


def _close(outlets: Sequence[Outlet]) -> None:
    for outlet in outlets:
        outlet.finish()
    for outlet in outlets:
        outlet.close()
