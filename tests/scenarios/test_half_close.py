"""half_close = false: the first FIN ends both sides, after the bytes before it."""

from __future__ import annotations

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from l4lb.model.states import CloseReason
from tests.support.balancing import address_of, balancing, closed, make_config, wait_closed
from tests.support.peers import (
    Server,
    connect,
    dawdling,
    hold,
    read_all,
    read_exactly,
    read_until_end,
    reset,
    running,
    serving,
)
from tests.support.waiting import wait_until

MODES = ["auto", "always", "off"]
DATA = random.Random(5).randbytes(600_000)
OFF = {"half_close": False}


@pytest.mark.parametrize("splice", MODES)
@pytest.mark.parametrize("size", [5, len(DATA)])
def test_a_backend_that_ends_ends_its_client_which_has_all_of_it(size: int, splice: str) -> None:
    """The client sends to the end, and sees the FIN all the same."""
    ended = threading.Event()

    def give(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(DATA[:size])
        sock.shutdown(socket.SHUT_WR)
        read_until_end(sock)  # to the FIN or reset that the balancer makes of it
        ended.set()

    with serving(give) as server, balancing([server.address], listener={**OFF, "splice": splice}) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.sendall(b"?" + DATA[:1000])
            assert read_all(sock) == DATA[:size]
            assert ended.wait(20)
            wait_closed(balancer, CloseReason.NORMAL)


@pytest.mark.parametrize("splice", MODES)
@pytest.mark.parametrize("size", [5, len(DATA)])
def test_a_client_that_ends_ends_its_backend_which_has_all_of_it(size: int, splice: str) -> None:
    got: list[tuple[bytes, bool]] = []

    def take(sock: socket.socket) -> None:
        got.append(read_until_end(sock))

    with serving(take) as server, balancing([server.address], listener={**OFF, "splice": splice}) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.sendall(DATA[:size])
            sock.shutdown(socket.SHUT_WR)
            assert read_until_end(sock) == (b"", False)
            wait_closed(balancer, CloseReason.NORMAL)
        assert wait_until(lambda: got)
    assert got == [(DATA[:size], False)]


def test_a_sink_that_takes_the_rest_at_any_moment_is_no_abort() -> None:
    """It may be between two looks at its queue: one session in some thousands was reset for it."""

    def many(address: str) -> None:
        for _ in range(1500):
            with connect(address) as sock:
                sock.sendall(b"hello")
                sock.shutdown(socket.SHUT_WR)
                assert read_until_end(sock) == (b"", False)

    def take(sock: socket.socket) -> None:
        read_until_end(sock)

    with serving(take) as server, balancing([server.address], listener=OFF) as balancer:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(many, [address_of(balancer)] * 4))
        wait_closed(balancer, CloseReason.NORMAL, 6000)
        assert closed(balancer) == {CloseReason.NORMAL: 6000}


def test_a_slow_reader_is_waited_for_and_what_it_sends_is_not_in_its_way() -> None:
    """A reset by unread bytes would destroy what it has not read; one that must send first would never read."""
    read = threading.Event()

    def give(sock: socket.socket) -> None:
        sock.sendall(DATA)
        sock.shutdown(socket.SHUT_WR)
        read.wait(20)

    limits = {**OFF, "half_close_timeout": "600ms"}
    with serving(give) as server, balancing([server.address], listener=limits, workers=1) as balancer:
        with dawdling(address_of(balancer)) as sock:
            parts = []
            while data := sock.recv(12_000):
                parts.append(data)
                sock.send(b"more")
                time.sleep(0.03)
            read.set()
            assert b"".join(parts) == DATA
            wait_closed(balancer, CloseReason.NORMAL)


def test_one_that_takes_nothing_is_cut_and_not_waited_for_for_ever() -> None:
    def give(sock: socket.socket) -> None:
        sock.sendall(DATA[:80_000])

    limits = {**OFF, "half_close_timeout": "400ms"}
    with serving(give) as server, balancing([server.address], listener=limits, workers=1) as balancer:
        with dawdling(address_of(balancer)) as sock:
            wait_closed(balancer, CloseReason.HALF_CLOSE_TIMEOUT)
            assert read_until_end(sock)[1]


@pytest.mark.parametrize("size", [20_000, 80_000], ids=["closing", "relaying"])
def test_a_client_that_is_reset_before_it_took_all(size: int) -> None:
    """The FIN was forwarded already, or waits behind bytes that the kernel did not take yet."""

    def give(sock: socket.socket) -> None:
        sock.sendall(DATA[:size])

    with serving(give) as server, balancing([server.address], listener=OFF, workers=1) as balancer:
        with dawdling(address_of(balancer)) as sock:
            assert sock.recv(1)
            assert wait_until(lambda: [one["state"] for one in balancer.sessions()] == ["closing"] or size > 20_000)
            reset(sock)
        wait_closed(balancer, CloseReason.CLIENT_ABORT)


def test_what_was_read_for_the_side_that_ends_is_still_delivered() -> None:
    answered = threading.Event()

    def answer(sock: socket.socket) -> None:
        sock.sendall(sock.recv(100))
        answered.set()
        hold(sock)

    with serving(answer) as server, balancing([server.address], listener=OFF) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.sendall(b"question")
            assert read_exactly(sock, 8) == b"question"
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b""
        wait_closed(balancer, CloseReason.NORMAL)


def test_unix_sockets(tmp_path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "backend"))
    listening.listen()

    def give(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(DATA)
        sock.shutdown(socket.SHUT_WR)
        hold(sock)

    limits = {**OFF, "bind": f"unix:{tmp_path}/listener"}
    with running(Server(give, listening=listening)):
        with balancing([f"unix:{tmp_path}/backend"], listener=limits) as balancer:
            with connect(f"unix:{tmp_path}/listener") as sock:
                sock.sendall(b"?")
                assert read_all(sock) == DATA
            wait_closed(balancer, CloseReason.NORMAL)


def test_a_reload_changes_it_for_new_sessions() -> None:
    def answer_after_fin(sock: socket.socket) -> None:
        sock.sendall(read_all(sock)[::-1])

    def ask(address: str) -> tuple[bytes, bool]:
        with connect(address) as sock:
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            return read_until_end(sock)

    with serving(answer_after_fin) as server, balancing([server.address]) as balancer:
        address = address_of(balancer)
        assert ask(address) == (b"noitseuq", False)
        config = make_config([server.address], listener=OFF)
        balancer.reload(config)
        answer, was_reset = ask(address_of(balancer))
        assert answer in (b"", b"noitseuq")  # who is fast enough may still answer
        assert not was_reset
        assert set(closed(balancer)) == {CloseReason.NORMAL}
