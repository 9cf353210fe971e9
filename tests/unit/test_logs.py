"""The log as `l4lb serve` sets it up: never waiting for who reads it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from l4lb import logs
from l4lb.config import GlobalConfig
from l4lb.net.output.line_writer import PENDING_BYTES, RECOVERED_AFTER_S
from l4lb.net.output.sinks import StandardSink
from tests.support.checking import address_of, loopback_socket
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("l4lb")
    before = (logger.handlers, logger.level, logger.propagate)
    logger.handlers = []
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.level, logger.propagate = before


def say(message: str, level: int = logging.INFO, **fields: object) -> None:
    logging.getLogger("l4lb").log(level, message, extra={"fields": fields})


def test_to_a_file_as_text_and_json(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.set_up(GlobalConfig(log=str(path)))
    say("backend down", logging.WARNING, pool="web", reason="no answer")
    say("not told", logging.DEBUG)
    logs.set_up(GlobalConfig(log=str(path), log_format="json", log_level="debug"))
    say("told", logging.DEBUG, pool="web")
    text, second = path.read_text().splitlines()
    assert text.split(" ", 1)[1] == 'warning backend down pool=web reason="no answer"'
    assert json.loads(second)["message"] == "told"


def test_a_file_that_was_renamed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.set_up(GlobalConfig(log=str(path)))
    say("one")
    path.rename(tmp_path / "log.1")
    logs.reopen()
    say("two")
    path.rename(tmp_path / "log.2")
    tmp_path.rename(tmp_path.with_name("moved"))
    logs.reopen()
    moved = tmp_path.with_name("moved")
    assert [(moved / name).read_text().count("\n") for name in ("log.1", "log.2")] == [1, 2]
    assert "log not reopened" in (moved / "log.2").read_text()
    moved.rename(tmp_path)


def test_to_syslog() -> None:
    with loopback_socket() as receiver:
        logs.set_up(GlobalConfig(log="syslog", syslog=address_of(receiver), syslog_facility="local0"))
        say("backend down", logging.WARNING, pool="web")
        message = receiver.recv(2000)
    assert message.startswith(b"<132>1 ")
    assert message.endswith(b"warning backend down pool=web")


def test_what_cannot_be_had_changes_nothing(tmp_path: Path) -> None:
    logs.set_up(GlobalConfig(log=str(tmp_path / "log")))
    with pytest.raises(FileNotFoundError):
        logs.set_up(GlobalConfig(log=str(tmp_path / "no/log")))
    say("still here")
    assert "still here" in (tmp_path / "log").read_text()


def test_a_stuck_reader_stops_nobody_and_is_told_of_what_it_missed() -> None:
    theirs, ours = os.pipe()
    with FileIO(theirs, "rb") as reader:
        handler = logs.LineHandler(StandardSink("stderr", ours))
        handler.setFormatter(logs.TextFormatter())
        os.close(ours)
        record = logging.makeLogRecord({"msg": "x" * 1000, "levelname": "INFO", "levelno": logging.INFO})
        count = 2 * PENDING_BYTES // 1000
        for _ in range(count):
            handler.emit(record)
        dropped = handler.writer.dropped
        assert dropped > 0
        data = bytearray()
        os.set_blocking(theirs, False)

        def recovered() -> bool:
            data.extend(reader.read(1 << 20) or b"")
            return b"log recovered" in data

        assert wait_until(recovered, 20 + RECOVERED_AFTER_S)
        handler.close()
    lines = bytes(data).splitlines()
    assert sum(line.endswith(b"xx") for line in lines) == count - dropped
    assert f"log recovered to=stderr dropped={dropped}".encode() in lines[-1]
