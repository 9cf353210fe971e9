"""Every check over a stream against every bad peer: it fails in time, says where and why, and leaves nothing."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from l4lb.config.options.health import OPTIONS
from tests.support.checking import check
from tests.support.peers import Server, hold, read_until_end, reset, running
from tests.unit.control.checks.test_send_expect import trickle

TALKING: dict[str, dict[str, Any]] = {
    "send_expect": {"send": "hello", "expect": "well!"},
    "tls": {},
    "http": {"expect_body": "well!"},
    "https": {"expect_body": "well!"},
    "dns": {"name": "up.example", "transport": "tcp"},
    "redis": {},
    "postgres": {},
}
STEPS = {"connect", "tls", "status", "answer", "answer over tcp", "send[0]", "expect[0]"}


def endless(sock: socket.socket) -> None:
    sock.recv(4096)
    while True:
        sock.sendall(b"R\0\0\0\x08" * 10000)


def garbage(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(bytes(range(255, -1, -1)) * 4)
    sock.shutdown(socket.SHUT_WR)
    read_until_end(sock)


def close_at_once(sock: socket.socket) -> None:
    sock.close()


def reset_after_the_question(sock: socket.socket) -> None:
    sock.recv(1)
    reset(sock)


PEERS = {
    "endless": endless,
    "garbage": garbage,
    "trickle": trickle,
    "silent": hold,
    "closes": close_at_once,
    "resets": reset_after_the_question,
}


def test_every_type_over_streams_is_here() -> None:
    assert set(TALKING) == set(OPTIONS) - {"none", "tcp", "udp", "exec", "python"}


@pytest.mark.parametrize("type_", TALKING)
@pytest.mark.parametrize("peer", PEERS)
def test_it_fails_in_time_and_says_where_and_why(type_: str, peer: str) -> None:
    with running(Server(PEERS[peer])) as server:
        result = check(server.address, type_, timeout=0.3, **TALKING[type_])
    assert not result.ok
    assert result.step in STEPS
    assert 0 < len(result.reason) < 300
    assert result.reason.isprintable()
    assert result.latency_s < 0.3 + 5  # and not 20 s, after which these peers give up; a busy machine adds seconds
