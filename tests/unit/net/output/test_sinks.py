"""Sinks never wait, tear no line that they can finish, and say what is wrong."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from l4lb.net.output.sinks import BLOCK_BYTES, FileSink, StandardSink, StreamSink
from tests.support.programs import require
from tests.support.waiting import hang

INFO = logging.INFO


def framed(sink: StreamSink, count: int, size: int = 100) -> list[bytes]:
    return [sink.frame(f"{number:06d}".ljust(size, "x"), INFO) for number in range(count)]


def send_all(sink: StreamSink, lines: list[bytes]) -> int:
    """Until it takes no more; how many it took."""
    taken = 0
    while taken < len(lines):
        try:
            taken += sink.send(lines[taken:])
        except BlockingIOError:
            return taken
    return taken


def read_some(reader: FileIO) -> bytes:
    """What is there, or comes soon; at most a pipe's worth."""
    return reader.read(1 << 16) if select.select([reader], [], [], 20)[0] else b""


def test_a_file_is_made_for_its_owner_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for text in ("one", "two"):
        sink = FileSink(str(path))
        assert sink.send([sink.frame(text, INFO), sink.frame("ü\ud800", INFO)]) == 2
        sink.close()
    assert path.read_text() == "one\nü\\ud800\ntwo\nü\\ud800\n"
    assert path.stat().st_mode & 0o137 == 0


def test_a_file_that_was_renamed_is_made_anew(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path / "log"))
    sink.send([b"old\n"])
    (tmp_path / "log").rename(tmp_path / "log.1")
    sink.send([b"still old\n"])
    sink.reopen()
    sink.send([b"new\n"])
    assert (tmp_path / "log.1").read_text() == "old\nstill old\n"
    assert (tmp_path / "log").read_text() == "new\n"
    sink.close()


def test_a_file_that_cannot_be_opened_again_goes_on(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    sink = FileSink(str(tmp_path / "dir/log"))
    (tmp_path / "dir").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        sink.reopen()
    assert sink.send([b"on\n"]) == 1
    sink.close()
    assert (tmp_path / "moved/log").read_text() == "on\n"


def test_a_full_disk_says_so() -> None:
    sink = FileSink("/dev/full")
    with pytest.raises(OSError) as raised:
        sink.send([b"x\n"])
    assert raised.value.errno == errno.ENOSPC
    sink.close()


def test_a_named_pipe_may_wait_for_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = FileSink(str(path))
    assert sink.send([b"early\n"]) == 1
    with path.open("rb") as reader:
        assert reader.readline() == b"early\n"
    sink.close()


@pytest.fixture(params=["pipe", "polled pipe", "socket"])
def standard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StandardSink, FileIO]]:
    """Somebody's end of a stdout, and the other one's."""
    if request.param == "socket":
        ours, theirs = (one.detach() for one in socket.socketpair())
    else:
        theirs, ours = os.pipe()
    if request.param == "polled pipe":  # as when another user made it

        def refuse(*_: object) -> int:
            raise PermissionError(errno.EACCES, "no")

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", refuse)
            sink = StandardSink("stdout", ours)
    else:
        sink = StandardSink("stdout", ours)
    assert os.get_blocking(ours)
    os.close(ours)
    with FileIO(theirs, "rb") as reader:
        yield sink, reader
    sink.close()


def test_a_stuck_reader_is_not_waited_for_and_no_line_is_torn(standard: tuple[StandardSink, FileIO]) -> None:
    sink, reader = standard
    lines = framed(sink, 20_000)
    taken = send_all(sink, lines)
    assert 0 < taken < len(lines)
    with pytest.raises(BlockingIOError):
        sink.send(lines[taken:])
    whole, data = b"".join([*lines, b"last\n"]), b""
    while taken < len(lines):
        data += read_some(reader)
        taken += send_all(sink, lines[taken:])
    last = 0
    while len(data) < len(whole):  # the last line is taken once the one before it, perhaps torn, is whole
        data += read_some(reader)
        last += send_all(sink, [b"last\n"][last:])
    assert data == whole


def test_a_reader_that_has_gone_is_an_error(standard: tuple[StandardSink, FileIO]) -> None:
    sink, reader = standard
    reader.close()
    with pytest.raises(OSError) as raised:
        sink.send([b"x\n"])
    assert raised.value.errno == errno.EPIPE


def test_a_regular_file_as_stdout_shares_its_place(tmp_path: Path) -> None:
    """Opened again it would begin at 0, over what others wrote."""
    with (tmp_path / "out").open("wb", buffering=0) as out:
        out.write(b"before\n")
        sink = StandardSink("stdout", out.fileno())
        sink.send([b"line\n"])
        out.write(b"after\n")
        sink.close()
    assert (tmp_path / "out").read_bytes() == b"before\nline\nafter\n"


def test_one_send_is_about_a_block(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path / "log"))
    lines = framed(sink, 5000)
    assert sink.send(lines) == -(-BLOCK_BYTES // 101)
    sink.close()


def test_a_stopped_reader_of_a_shell_pipe() -> None:
    """`cat` is stopped: 64 KiB are taken, and nobody waits; then it goes on."""
    cat = subprocess.Popen([require("cat")], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert cat.stdin is not None
    sink = StandardSink("stdout", cat.stdin.fileno())
    hang(cat.pid)
    lines = framed(sink, 2000)
    taken = send_all(sink, lines)
    assert taken < len(lines)
    cat.send_signal(signal.SIGCONT)
    while taken < len(lines):
        select.select([], [sink.fileno()], [], 20)
        taken += send_all(sink, lines[taken:])
    sink.close()
    cat.stdin.close()
    assert cat.wait(20) == 0
