"""Urgent data: it arrives in the stream, as an ordinary byte, and nothing that is sent around it is lost."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable

import pytest

from l4lb import LoadBalancer
from l4lb.model.states import CloseReason
from tests.support.balancing import address_of, balancing, wait_closed
from tests.support.peers import connect, hold, read_all, read_exactly, serving, wait_until_sent
from tests.support.waiting import wait_until

MODES = ["auto", "always", "off"]
DATA = random.Random(7).randbytes(12_000_000)
LATE_S = 0.3  # a reader that begins when its windows are full

Part = tuple[bytes, bool]  # what is sent, and whether its last byte is urgent

STREAMS: dict[str, list[Part]] = {
    "bulk": [(DATA, False), (b"!", True), (DATA[:300_000], False)],
    "first": [(b"!", True), (DATA[:1_000_000], False)],
    "last": [(DATA[:1_000_000], False), (b"!", True)],
    "alone": [(b"!", True)],
    "several": [
        (DATA[:200_000], False),
        (b"1", True),
        (b"2", True),
        (DATA[:70_000], False),
        (b"3", True),
        (b"4", True),
    ],
    "ends": [(DATA[: 1 << 20], True), (DATA[: 1 << 20], True), (DATA[:65536], True), (DATA[:65536], True)],
}


def whole(parts: list[Part]) -> bytes:
    return b"".join(data for data, _ in parts)


def send(sock: socket.socket, parts: list[Part]) -> None:
    for data, urgent in parts:
        sock.sendall(data[:-1] if urgent else data)
        if urgent:
            sock.send(data[-1:], socket.MSG_OOB)
    sock.shutdown(socket.SHUT_WR)


def relay_up(parts: list[Part], splice: str, late_s: float) -> bytes:
    """What a backend gets of a client that sends `parts`."""
    got: list[bytes] = []

    def take(sock: socket.socket) -> None:
        time.sleep(late_s)
        got.append(read_all(sock))

    with serving(take) as server, balancing([server.address], listener={"splice": splice}, workers=1) as balancer:
        with connect(address_of(balancer)) as sock:
            send(sock, parts)
            assert wait_until(lambda: got, 20)
        wait_closed(balancer, CloseReason.NORMAL)
    return got[0]


def relay_down(parts: list[Part], splice: str, late_s: float) -> bytes:
    """What a client gets of a backend that does."""

    def give(sock: socket.socket) -> None:
        sock.recv(1)
        send(sock, parts)
        hold(sock)

    with serving(give) as server, balancing([server.address], listener={"splice": splice}, workers=1) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.sendall(b"?")
            time.sleep(late_s)
            got = read_all(sock)
        wait_closed(balancer, CloseReason.NORMAL)
    return got


DIRECTIONS = {"up": relay_up, "down": relay_down}


@pytest.mark.parametrize("splice", MODES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("late_s", [0.0, LATE_S], ids=["fast", "late"])
@pytest.mark.parametrize("stream", STREAMS)
def test_all_of_a_stream_with_urgent_bytes_arrives(stream: str, late_s: float, direction: str, splice: str) -> None:
    parts = STREAMS[stream]
    relay: Callable[[list[Part], str, float], bytes] = DIRECTIONS[direction]
    assert relay(parts, splice, late_s) == whole(parts)


@pytest.mark.parametrize("splice", MODES)
def test_urgent_bytes_at_any_place_while_reader_and_sender_race(splice: str) -> None:
    """A megabyte and a little more, many times: the mark is met in the middle of a turn, at its end, and between."""
    choice = random.Random(splice)
    for _ in range(10):
        parts = [(DATA[: choice.randrange(1, 1_500_000)], choice.random() < 0.7) for _ in range(3)]
        assert relay_up(parts, splice, 0.0) == whole(parts)
        assert relay_down(parts, splice, 0.0) == whole(parts)


def urgent_greeting(sock: socket.socket) -> None:
    for byte in (b"1", b"2", b"3"):
        sock.send(byte, socket.MSG_OOB)
    sock.sendall(b"ready")
    hold(sock)


def test_a_backend_that_begins_with_urgent_bytes() -> None:
    with serving(urgent_greeting) as server, balancing([server.address], workers=1) as balancer:
        for _ in range(5):
            with connect(address_of(balancer)) as sock:
                assert read_exactly(sock, 8) == b"123ready"


@pytest.mark.parametrize("side", ["client", "backend"])
def test_urgent_bytes_of_an_idle_session_arrive_at_once(side: str) -> None:
    """No FIN and no byte follows them: nothing else would wake who waits at the mark."""
    peers: list[socket.socket] = []
    done = threading.Event()

    def answer(sock: socket.socket) -> None:
        sock.sendall(sock.recv(10))
        sock.sendall(sock.recv(10))
        peers.append(sock)
        done.wait(20)

    with serving(answer) as server, balancing([server.address], workers=1) as balancer:
        with connect(address_of(balancer)) as sock:
            for question in (b"a", b"b"):
                sock.sendall(question)
                assert sock.recv(10) == question
            assert wait_until(lambda: peers)
            sender, reader = (sock, peers[0]) if side == "client" else (peers[0], sock)
            for byte in (b"1", b"2", b"3"):
                sender.send(byte, socket.MSG_OOB)
            assert read_exactly(reader, 3) == b"123"
            sender.sendall(b"after")
            assert read_exactly(reader, 5) == b"after"
            done.set()


def test_a_flow_splices_again_behind_an_urgent_byte() -> None:
    def take(sock: socket.socket) -> None:
        sock.sendall(str(len(read_all(sock))).encode())

    def spliced(balancer: LoadBalancer) -> int:
        return balancer.stats().workers[0].spliced_bytes

    with serving(take) as server, balancing([server.address], listener={"splice": "always"}, workers=1) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.send(b"!", socket.MSG_OOB)
            wait_until_sent(sock)
            assert wait_until(lambda: balancer.stats().pools["web"].backends[server.address].bytes_up == 1)
            sock.sendall(DATA)
            sock.shutdown(socket.SHUT_WR)
            assert int(read_all(sock)) == 1 + len(DATA)
        wait_closed(balancer, CloseReason.NORMAL)
        assert spliced(balancer) > len(DATA) // 2


@pytest.mark.parametrize("splice", MODES)
def test_urgent_bytes_before_a_reset_arrive_with_all_before_it(splice: str) -> None:
    """The bytes that were here when the backend was reset are read to the end, over the mark."""
    parts = STREAMS["several"]
    taken = threading.Event()

    def give(sock: socket.socket) -> None:
        sock.recv(1)
        for data, urgent in parts:
            sock.send(data, socket.MSG_OOB) if urgent else sock.sendall(data)
        wait_until_sent(sock)
        assert taken.wait(20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serving(give) as server, balancing([server.address], listener={"splice": splice}, workers=1) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.sendall(b"?")
            assert read_exactly(sock, len(whole(parts))) == whole(parts)
            taken.set()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        wait_closed(balancer, CloseReason.BACKEND_ABORT)
