"""The byte stream: whatever either side does, what arrives is what was sent, in order, and nothing is left behind."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l4lb.model.states import CloseReason
from tests.support.balancing import address_of, balancing, closed, wait_closed, wait_idle
from tests.support.peers import (
    Server,
    connect,
    echo,
    read_all,
    read_until_end,
    reset,
    running,
    serving,
    wait_until_sent,
)
from tests.support.waiting import wait_until

SIZES = st.one_of(
    st.integers(1, 100), st.just(65535), st.just(65536), st.integers(1, 200_000), st.integers(1_000_000, 3_000_000)
)
ACTIONS = st.one_of(st.tuples(st.just("send"), SIZES), st.tuples(st.just("pause"), st.integers(1, 15)))


@dataclass
class Script:
    """What one side does: sends and pauses, then how it ends; `slow` reads little at a time."""

    actions: list[tuple[str, int]]
    end: str  # fin, or reset
    slow: bool

    @property
    def length(self) -> int:
        return sum(size for kind, size in self.actions if kind == "send")


SCRIPTS = st.builds(
    Script, st.lists(ACTIONS, max_size=5), st.sampled_from(["fin", "fin", "fin", "reset"]), st.booleans()
)


def payload(side: str, length: int) -> bytes:
    return random.Random(f"{side}{length}").randbytes(length)


class Side:
    """Runs a script on a socket while reading everything that comes."""

    def __init__(self, sock: socket.socket, script: Script, name: str) -> None:
        self.received = b""
        self.saw_reset = False
        self.done = threading.Event()
        self._sock = sock
        self._script = script
        self._data = payload(name, script.length)
        self._reader = threading.Thread(target=self._read)
        if script.slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)

    def _read(self) -> None:
        parts = []
        try:
            while data := self._sock.recv(10_000 if self._script.slow else 1 << 18):
                parts.append(data)
        except ConnectionResetError:
            self.saw_reset = True
        except OSError:
            pass  # this side itself has closed
        self.received = b"".join(parts)

    def run(self) -> None:
        """All of it, until this side's socket is closed."""
        try:
            self._run()
        finally:
            self.done.set()

    def _run(self) -> None:
        self._reader.start()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send()
        if self._script.end == "reset":
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RD)  # ends the reader, whose recv would hold the socket open
            self._reader.join()
            reset(self._sock)
            return
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._reader.join()
        self._sock.close()

    def _send(self) -> None:
        at = 0
        for kind, amount in self._script.actions:
            if kind == "pause":
                time.sleep(amount / 1000)
            else:
                self._sock.sendall(self._data[at : at + amount])
                at += amount


@pytest.mark.parametrize("splice", ["auto", "always", "off"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(client_script=SCRIPTS, server_script=SCRIPTS)
def test_any_exchange_arrives_intact(splice: str, client_script: Script, server_script: Script) -> None:
    servers: list[Side] = []

    def serve(sock: socket.socket) -> None:
        side = Side(sock, server_script, "server")
        servers.append(side)
        side.run()

    with serving(serve) as server, balancing([server.address], workers=1, listener={"splice": splice}) as balancer:
        client = Side(connect(address_of(balancer)), client_script, "client")
        client.run()
        wait_idle(balancer)
        assert wait_until(lambda: all(side.done.is_set() for side in servers), 20)
        reasons = closed(balancer)
    if not servers:  # the client was gone before there was a backend
        assert client_script.end == "reset"
        return
    server_side = servers[0]
    up, down = payload("client", client_script.length), payload("server", server_script.length)
    assert up.startswith(server_side.received)
    assert down.startswith(client.received)
    if client_script.end == server_script.end == "fin":
        assert server_side.received == up
        assert client.received == down
        assert not client.saw_reset
        assert not server_side.saw_reset
        assert reasons == {CloseReason.NORMAL: 1}
    else:
        assert set(reasons) <= {CloseReason.NORMAL, CloseReason.CLIENT_ABORT, CloseReason.BACKEND_ABORT}


@pytest.mark.parametrize("lost", ["client", "backend"])
@pytest.mark.parametrize("size", [1, 65535, 3_000_000])
def test_what_was_sent_before_a_reset_arrives_and_then_the_reset(lost: str, size: int) -> None:
    """The resetting side waits until its bytes have left its own kernel; from there on they are the balancer's."""
    data = payload(lost, size)
    taken = threading.Event()
    outcome: list[tuple[bytes, bool]] = []

    def send_and_reset(sock: socket.socket) -> None:
        sock.sendall(data)
        wait_until_sent(sock)
        reset(sock)

    def read(sock: socket.socket) -> None:
        outcome.append(read_until_end(sock))
        taken.set()

    first, second = (read, send_and_reset) if lost == "client" else (send_and_reset, read)
    with serving(first) as server, balancing([server.address], workers=1) as balancer:
        sock = connect(address_of(balancer))
        second(sock)
        assert taken.wait(20)
        sock.close()
        reason = CloseReason.CLIENT_ABORT if lost == "client" else CloseReason.BACKEND_ABORT
        wait_closed(balancer, reason)
    received, was_reset = outcome[0]
    assert received == data
    assert was_reset


def test_a_reset_of_both_sides_ends_at_once_whatever_was_unsent() -> None:
    """The bytes that the client left for the backend can be delivered no more: nothing waits for them."""
    client_gone = threading.Event()

    def never_read(sock: socket.socket) -> None:
        assert client_gone.wait(20)
        reset(sock)

    server = Server(never_read, receive_buffer=4096)
    with running(server), balancing([server.address], workers=1) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.sendall(payload("unsent", 20_000))
            wait_until_sent(sock)
            assert wait_until(lambda: balancer.stats().pools["web"].backends[server.address].bytes_up == 20_000)
            reset(sock)
        time.sleep(0.1)  # the reset is known, and the unsent bytes keep the session
        assert balancer.stats().sessions_left == 1
        client_gone.set()
        wait_closed(balancer, CloseReason.CLIENT_ABORT)


@pytest.mark.parametrize("splice", ["auto", "always", "off"])
def test_client_half_closes_first_and_still_gets_its_answer(splice: str) -> None:
    def answer_after_fin(sock: socket.socket) -> None:
        sock.sendall(read_all(sock)[::-1])

    data = payload("x", 2_000_000)
    with serving(answer_after_fin) as server, balancing([server.address], listener={"splice": splice}) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == data[::-1]
        wait_closed(balancer, CloseReason.NORMAL)


def test_backend_half_closes_first_and_still_gets_the_rest() -> None:
    got: list[bytes] = []

    def greet_then_read(sock: socket.socket) -> None:
        sock.sendall(b"greeting")
        sock.shutdown(socket.SHUT_WR)
        got.append(read_all(sock))

    data = payload("y", 1_000_000)
    with serving(greet_then_read) as server, balancing([server.address]) as balancer:
        with connect(address_of(balancer)) as sock:
            assert read_all(sock) == b"greeting"
            sock.sendall(data)
        wait_closed(balancer, CloseReason.NORMAL)
        assert wait_until(lambda: got == [data])


def test_a_server_that_speaks_first_is_not_kept_waiting() -> None:
    """The handshake's last ACK is held back for the client's bytes, but not for long, and less so with experience."""

    def greet(sock: socket.socket) -> None:
        sock.sendall(b"220 ready\r\n")
        read_all(sock)

    waits = []
    with serving(greet) as server, balancing([server.address], workers=1) as balancer:
        for _ in range(8):
            began = time.monotonic()
            with connect(address_of(balancer)) as sock:
                assert sock.recv(100) == b"220 ready\r\n"
                waits.append(time.monotonic() - began)
    assert min(waits) < 0.1  # without the release it would be the delayed ACK's 200 ms


def test_one_byte_writes_and_64_kib_less_one() -> None:
    with serving(echo) as server, balancing([server.address]) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = threading.Thread(target=lambda: got.append(read_all(sock)))
            got: list[bytes] = []
            reader.start()
            for index in range(500):
                sock.send(bytes([index % 256]))
            block = payload("z", 65535)
            for _ in range(20):
                sock.sendall(block)
            sock.shutdown(socket.SHUT_WR)
            reader.join(20)
        assert got == [bytes(index % 256 for index in range(500)) + block * 20]
        wait_closed(balancer, CloseReason.NORMAL)


def test_urgent_data_stays_in_the_stream() -> None:
    with serving(echo) as server, balancing([server.address]) as balancer, connect(address_of(balancer)) as sock:
        sock.sendall(b"before")
        time.sleep(0.05)  # so that the urgent byte is a segment of its own
        sock.send(b"!", socket.MSG_OOB)
        sock.sendall(b"after")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) in (b"before!after", b"beforeafter")


def test_many_servers_one_after_another() -> None:
    """A balancer is made and closed many times in one process."""
    for _ in range(5):
        with serving(echo) as server, balancing([server.address]) as balancer, connect(address_of(balancer)) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
