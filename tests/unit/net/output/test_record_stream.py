"""Records for several takers: each gets all, or those of its listeners, and none is in another's way."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence

from l4lb.model.states import CloseReason
from l4lb.model.stats import SessionRecord
from l4lb.net.output.line_writer import Losing
from l4lb.net.output.record_stream import Outlet, RecordStream
from tests.support.waiting import wait_until


def record(number: int, listener: str = "web") -> SessionRecord:
    ended = (number, listener, "p", "b", "192.0.2.1", 1, "127.0.0.1:1", 0.0, 0.0, 0.0, 0, 0, 1, CloseReason.NORMAL)
    return SessionRecord(*ended, False)


class Ended:
    """A forwarder's records."""

    def __init__(self) -> None:
        self.wake_fd = -1
        self.dropped = 0
        self._waiting: list[SessionRecord] = []

    def keep_records(self, wake_fd: int) -> None:
        self.wake_fd = wake_fd

    def stop_records(self) -> None:
        self.wake_fd = -1

    def take_records(self, limit: int) -> list[SessionRecord]:
        taken, self._waiting[:limit] = self._waiting[:limit], []
        return taken

    def records_dropped(self) -> int:
        return self.dropped

    def end(self, *records: SessionRecord) -> None:
        self._waiting.extend(records)
        if self.wake_fd >= 0:
            os.eventfd_write(self.wake_fd, 1)


class Taken:
    """A sink that keeps what it gets, unless it is `stuck`."""

    name = "test"
    refusals_are_losses = False
    torn = False
    settled = True

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.stuck = False
        self.closed = 0

    def frame(self, line: str, level: int) -> bytes:
        return line.encode()

    def send(self, framed: Sequence[bytes]) -> int:
        if self.stuck:
            raise BlockingIOError
        self.lines += framed
        return len(framed)

    def take_lost(self) -> tuple[int, str]:
        return 0, ""

    def fileno(self) -> int:
        return -1

    def reopen(self) -> None: ...

    def close(self) -> None:
        self.closed += 1


def ids(records: Sequence[SessionRecord]) -> list[str]:
    return [str(one.session_id) for one in records]


def outlet(sink: Taken, listener: str = "", reported: list[Losing] | None = None) -> Outlet:
    wants = (lambda name: name == listener) if listener else None
    return Outlet(sink, ids, (reported if reported is not None else []).append, wants)


@contextlib.contextmanager
def streaming() -> Iterator[tuple[Ended, RecordStream]]:
    ended = Ended()
    stream = RecordStream(ended)
    yield ended, stream
    stream.stop()
    stream.stop()


def test_each_gets_all_or_those_of_its_listeners() -> None:
    everything, some = Taken(), Taken()
    with streaming() as (ended, stream):
        stream.change(put=[outlet(everything), outlet(some, "dns")])
        ended.end(record(1), record(2, "dns"))
        assert wait_until(lambda: everything.lines == [b"1", b"2"])
        assert wait_until(lambda: some.lines == [b"2"])
        ended.end(record(3, "dns"))
    assert (everything.lines, some.lines) == ([b"1", b"2", b"3"], [b"2", b"3"])
    assert (everything.closed, some.closed) == (1, 1)


def test_one_that_is_stuck_is_in_nobodys_way() -> None:
    stuck, other = Taken(), Taken()
    stuck.stuck = True
    with streaming() as (ended, stream):
        stream.change(put=[outlet(stuck), outlet(other)])
        for number in range(1, 20):
            ended.end(record(number))
            assert wait_until(lambda: len(other.lines) == number)  # noqa: B023
        stuck.stuck = False
    assert len(stuck.lines) == 19


def test_who_is_replaced_gets_what_ended_before() -> None:
    first, second = Taken(), Taken()
    one, two = outlet(first), outlet(second)
    with streaming() as (ended, stream):
        stream.change(put=[one])
        ended.end(record(1), record(2))
        stream.change(put=[two], drop=[one])
        assert (first.lines, first.closed) == ([b"1", b"2"], 1)
        ended.end(record(3))
        assert wait_until(lambda: second.lines == [b"3"])
        stream.change(drop=[two])
        assert second.closed == 1
        assert ended.wake_fd < 0, "nobody wants records any more"
    assert (first.closed, second.closed) == (1, 1)


def test_what_was_lost_in_a_ring_is_every_ones_loss_but_not_that_of_who_comes_later() -> None:
    reported: list[Losing] = []
    one, two = outlet(Taken(), reported=reported), outlet(Taken())
    with streaming() as (ended, stream):
        stream.change(put=[one])
        ended.dropped = 5
        stream.change(put=[two])
        assert (one.untaken, one.writer.dropped, two.untaken) == (5, 5, 0)
        assert [losing.reason for losing in reported] == ["more sessions ended at once than could be recorded"]


def test_it_may_run_before_there_is_an_outlet() -> None:
    sink, called = Taken(), threading.Event()
    with streaming() as (ended, stream):
        stream.open()
        stream.open()
        stream.change(put=[outlet(sink)], at_once=called.set)
        assert called.is_set()
        ended.end(record(1))
        assert wait_until(lambda: sink.lines == [b"1"])
    with streaming() as (ended, stream):
        stream.open()
        stream.close_if_unused()
        assert ended.wake_fd < 0


def test_one_that_is_opened_for_an_outlet_waits_for_it() -> None:
    """Meanwhile the last of those that there were may go."""
    before = outlet(Taken())
    with streaming() as (ended, stream):
        stream.change(put=[before])
        stream.open()
        stream.change(drop=[before])
        assert ended.wake_fd >= 0
        stream.close_if_unused()
        assert ended.wake_fd < 0


def test_an_outlet_for_a_stream_that_has_stopped_is_closed() -> None:
    sink = Taken()
    with streaming() as (_, stream):
        stream.stop()
        stream.change(put=[outlet(sink)])
        assert sink.closed == 1
