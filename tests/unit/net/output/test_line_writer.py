"""Lines that nobody takes: bounded, counted, told once, and again when all is well."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from io import FileIO

from l4lb.net.output.line_writer import PENDING_BYTES, RECOVERED_AFTER_S, LineWriter, Losing
from l4lb.net.output.sinks import StandardSink


class Slow:
    """A sink that takes `room` lines, then fails with `error`."""

    def __init__(self, error: int = errno.EAGAIN, *, datagrams: bool = False) -> None:
        self.name = "slow"
        self.refusals_are_losses = datagrams
        self.settled = True
        self.error = error
        self.room = 0
        self.got: list[bytes] = []
        self.calls = 0
        self.closed = False
        self.torn = False

    def frame(self, line: str, level: int) -> bytes:
        return line.encode()

    def send(self, framed: Sequence[bytes]) -> int:
        self.calls += 1
        taken = min(len(framed), self.room)
        if not taken:
            raise OSError(self.error, os.strerror(self.error))
        self.room -= taken
        self.got += framed[:taken]
        return taken

    def take_lost(self) -> tuple[int, str]:
        return 0, ""

    def fileno(self) -> int:
        return -1

    def reopen(self) -> None: ...

    def close(self) -> None:
        self.closed = True


LINE = "x" * 1024
KEPT = PENDING_BYTES // len(LINE)


class Bench:
    def __init__(self, sink: Slow) -> None:
        self.sink, self.now, self.told = sink, 100.0, []
        self.writer = LineWriter(sink, self.told.append, lambda: self.now)
        self.told: list[Losing]


def test_what_is_taken_is_written_in_order() -> None:
    bench = Bench(Slow())
    bench.sink.room = 10**6
    bench.writer.add(str(number) for number in range(3000))
    assert bench.writer.flush()
    assert bench.sink.got == [str(number).encode() for number in range(3000)]
    assert (bench.writer.lines, bench.writer.dropped, bench.told) == (3000, 0, [])


def test_a_short_stall_loses_nothing() -> None:
    bench = Bench(Slow())
    bench.writer.add([LINE] * KEPT)
    assert not bench.writer.flush()
    assert bench.writer.blocked
    bench.sink.room = KEPT
    assert bench.writer.flush()
    assert (bench.writer.lines, bench.writer.dropped, bench.told) == (KEPT, 0, [])


def test_what_nobody_takes_is_dropped_counted_and_told_once() -> None:
    bench = Bench(Slow(errno.ENOSPC))
    for _ in range(10):
        bench.writer.add([LINE] * KEPT)
        bench.writer.flush()
    assert bench.writer.dropped == 9 * KEPT
    assert not bench.writer.blocked
    assert [(one.to, one.reason) for one in bench.told] == [("slow", "No space left on device")]
    assert bench.sink.calls <= 30  # not for each line that is dropped
    bench.sink.room = 10**6
    assert bench.writer.flush()
    assert bench.writer.lines == KEPT
    assert len(bench.told) == 1  # it may be full again at once
    bench.now += RECOVERED_AFTER_S
    assert bench.writer.flush()
    assert bench.told[1:] == [Losing("slow", "", 9 * KEPT)]
    assert not bench.writer.losing


def test_flapping_is_told_once() -> None:
    bench = Bench(Slow())
    for _ in range(20):
        bench.writer.add([LINE] * (KEPT + 1))
        bench.sink.room = 10**6
        bench.writer.flush()
        bench.sink.room = 0
        bench.now += RECOVERED_AFTER_S / 2
    assert bench.writer.dropped == 20
    assert len(bench.told) == 1


def test_a_refused_datagram_tells_of_one_that_was_lost() -> None:
    bench = Bench(Slow(errno.ECONNREFUSED, datagrams=True))
    bench.sink.room = 1
    bench.writer.add(["one", "two"])
    assert not bench.writer.flush()
    assert (bench.writer.lines, bench.writer.dropped, bench.writer.pending) == (0, 1, True)
    assert [one.reason for one in bench.told] == ["Connection refused"]


def test_another_sink_gets_what_comes_next() -> None:
    bench, other = Bench(Slow()), Slow()
    other.room = 10
    bench.writer.add(["old", "older"])
    bench.writer.use(other)
    bench.writer.add(["new"])
    assert bench.writer.flush()
    assert bench.sink.closed
    assert other.got == [b"new"]
    assert (bench.writer.lines, bench.writer.dropped) == (1, 2)


def test_what_is_left_at_the_end_is_counted() -> None:
    bench = Bench(Slow())
    bench.writer.add(["one", "two", "three"])
    bench.sink.room = 1
    bench.writer.close()
    assert (bench.writer.lines, bench.writer.dropped, bench.sink.closed) == (1, 2, True)


def test_the_end_of_a_torn_line_is_written_without_another_line() -> None:
    theirs, ours = os.pipe()
    writer = LineWriter(StandardSink("stdout", ours), lambda losing: None)
    os.close(ours)
    line = "x" * 50_000
    with FileIO(theirs, "rb") as reader:
        writer.add([line, line])  # a pipe holds 64 KiB: the second is torn
        assert not writer.flush()
        assert (writer.lines, writer.pending, writer.sink.torn) == (2, True, True)
        data = reader.read(1 << 16)
        while not writer.flush():
            data += reader.read(1 << 16)
        data += reader.read(1 << 17)
    assert data == f"{line}\n{line}\n".encode()
    writer.close()
    assert (writer.lines, writer.dropped) == (2, 0)


def test_a_line_that_stays_torn_is_lost() -> None:
    theirs, ours = os.pipe()
    writer = LineWriter(StandardSink("stdout", ours), lambda losing: None)
    os.close(ours)
    with FileIO(theirs, "rb"):
        writer.add(["x" * 50_000] * 3)
        assert not writer.flush()
        writer.close()
    assert (writer.lines, writer.dropped) == (1, 2)
