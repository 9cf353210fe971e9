"""RFC 5424 messages to real sockets, whose owner may be slow, away, or come back."""

from __future__ import annotations

import logging
import os
import re
import select
import socket
from pathlib import Path

import pytest

from l4lb.model.address import SocketAddress
from l4lb.net.output.syslog import FACILITIES, SyslogSink, severity
from tests.support.checking import loopback_socket

MESSAGE = re.compile(
    rb"<(\d{1,3})>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [!-~]{1,255} l4lb \d+ (log|session) - (.*)", re.DOTALL
)


def unix(path: Path) -> SocketAddress:
    return SocketAddress(socket.AF_UNIX, str(path))


def daemon_at(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.bind(str(path))
    return sock


def test_a_message_by_udp() -> None:
    with loopback_socket() as receiver:
        address = SocketAddress(socket.AF_INET, *receiver.getsockname())
        sink = SyslogSink(address, "local3", "session")
        assert sink.send([sink.frame("one ü", logging.INFO), sink.frame("two", logging.ERROR)]) == 2
        found = [MESSAGE.fullmatch(receiver.recv(2000)) for _ in range(2)]
        sink.close()
    assert [(one[1], one[2], one[3]) for one in found if one] == [
        (b"158", b"session", "one ü".encode()),
        (b"155", b"session", b"two"),
    ]


def test_severities_and_facilities() -> None:
    levels = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
    assert [severity(level) for level in levels] == [2, 3, 4, 6, 7]
    assert (FACILITIES.index("daemon"), FACILITIES.index("local7"), len(FACILITIES)) == (3, 23, 24)


def test_a_slow_daemon_is_not_waited_for(tmp_path: Path) -> None:
    with daemon_at(tmp_path / "log") as daemon:
        sink = SyslogSink(unix(tmp_path / "log"), "daemon", "log")
        lines = [sink.frame(str(number), logging.INFO) for number in range(10_000)]
        taken = sink.send(lines)
        assert 0 < taken < len(lines)
        with pytest.raises(BlockingIOError):
            sink.send(lines[taken:])
        daemon.recv(2000)
        assert sink.send(lines[taken:]) == 1
        sink.close()


def test_a_daemon_that_was_away_is_found_again(tmp_path: Path) -> None:
    path, now = tmp_path / "log", [0.0]
    sink = SyslogSink(unix(path), "daemon", "log", lambda: now[0])
    line = sink.frame("x", logging.INFO)
    with pytest.raises(FileNotFoundError):
        sink.send([line])
    with daemon_at(path) as daemon:
        with pytest.raises(FileNotFoundError):  # a second has not passed
            sink.send([line])
        now[0] += 1
        assert sink.send([line]) == 1
        assert daemon.recv(2000) == line
    with pytest.raises(OSError):
        sink.send([line])
    path.unlink()
    with daemon_at(path) as daemon:
        now[0] += 1
        assert sink.send([line]) == 1
        assert daemon.recv(2000) == line
    sink.close()


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0l4lb-test-{os.getpid()}")
        sink = SyslogSink(SocketAddress(socket.AF_UNIX, f"@l4lb-test-{os.getpid()}"), "daemon", "log")
        assert sink.send([b"x"]) == 1
        assert receiver.recv(10) == b"x"
        sink.close()


def test_a_line_that_is_too_long_holds_up_no_other() -> None:
    with loopback_socket() as receiver:
        sink = SyslogSink(SocketAddress(socket.AF_INET, *receiver.getsockname()), "daemon", "log")
        assert sink.send([sink.frame("x" * 70_000, logging.INFO), sink.frame("short", logging.INFO)]) == 2
        assert receiver.recv(2000).endswith(b" short")
        sink.close()


def test_nobody_at_a_udp_port_is_noticed() -> None:
    with loopback_socket() as receiver:
        address = SocketAddress(socket.AF_INET, *receiver.getsockname())
    sink = SyslogSink(address, "daemon", "log")
    sink.send([b"x"])  # lost, as the next one learns
    assert select.select([sink], [], [], 20)[0]
    with pytest.raises(ConnectionRefusedError):
        sink.send([b"x"])
    assert sink.refusals_are_losses
    sink.close()
