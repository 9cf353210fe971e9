"""What is sent, what is expected, and answers that are late, endless, cut or garbage."""

from __future__ import annotations

import socket

import pytest

from tests.support.checking import check
from tests.support.peers import Server, echo, hold, one_answer, reset, running, serving


def smtp(sock: socket.socket) -> None:
    sock.sendall(b"220 mail ready\r\n")
    assert sock.recv(100) == b"EHLO l4lb\r\n"
    sock.sendall(b"250-mail\r\n250 SIZE 0\r\n")
    assert sock.recv(100) == b"QUIT\r\n"
    sock.sendall(b"221 bye\r\n")


@pytest.mark.parametrize(
    "settings",
    [
        {"send": "hello", "expect": "hell"},
        {"send": "hello", "expect": "regex:^h.*o$"},
        {"send": "hex:00ff 0d0a", "expect": "hex:ff0d"},
        {"send": "hello"},
        {"send": ["a", "b"], "expect": ["a", "b"]},
    ],
)
def test_what_is_expected_is_found(settings: dict[str, object]) -> None:
    with serving(echo) as server:
        result = check(server.address, "send_expect", **settings)
    assert (result.ok, result.reason) == (True, "")


def test_steps_with_a_server_that_speaks_first() -> None:
    with serving(smtp) as server:
        expect = ["220", "regex:250 .*\r\n", "221"]
        assert check(server.address, "send_expect", send=["", "EHLO l4lb\r\n", "QUIT\r\n"], expect=expect).ok


def test_a_step_does_not_see_what_an_earlier_one_matched() -> None:
    with serving(one_answer(b"one two")) as server:
        assert check(server.address, "send_expect", send="x", expect=["one", "two"]).ok
        result = check(server.address, "send_expect", send="x", expect=["two", "one"])
    assert (result.step, result.reason) == ("expect[1]", "closed after nothing")


def endless(sock: socket.socket) -> None:
    sock.recv(100)
    while True:
        sock.sendall(b"x" * 65536)


def trickle(sock: socket.socket) -> None:
    """A byte whenever the other side is waiting for one; it never gives up."""
    sock.settimeout(0.01)
    while True:
        sock.sendall(b"x")
        try:
            if not sock.recv(100):
                return
        except TimeoutError:
            continue


def slam(sock: socket.socket) -> None:
    sock.recv(100)
    reset(sock)


HOSTILE = {
    "endless": (endless, "expect[0]", 'not found in the first 64 KiB of "xxx'),
    "trickle": (trickle, "expect[0]", "no answer within 0.3 s"),
    "silent": (hold, "expect[0]", "no answer within 0.3 s"),
    "closed": (one_answer(b""), "expect[0]", "closed after nothing"),
    "cut": (one_answer(b"pon"), "expect[0]", 'closed after "pon"'),
    "garbage": (one_answer(bytes(range(256))), "expect[0]", r'closed after "\x00\x01'),
    "reset": (slam, "expect[0]", "connection reset by peer"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_answers_fail_with_step_and_reason(case: str) -> None:
    handle, step, reason = HOSTILE[case]
    with running(Server(handle)) as server:
        result = check(server.address, "send_expect", send="ping", expect="pong", timeout=0.3)
    assert not result.ok
    assert result.step == step
    assert result.reason.startswith(reason)
    assert result.latency_s < 2


def test_a_stopped_peer_that_never_reads_fails_at_the_send() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        result = check(address, "send_expect", send="x" * 10_000_000, expect="y", timeout=0.3)
    assert (result.step, result.reason) == ("send[0]", "no answer within 0.3 s")


def test_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
    result = check(address, "send_expect", send="x", expect="y")
    assert (result.step, result.reason) == ("connect", "connection refused")
