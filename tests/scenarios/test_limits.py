"""Limits, time-outs and the queue: each ends a session with its own close reason, and none is ever exceeded."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from l4lb import Backend, LoadBalancer
from l4lb.config import GlobalConfig
from l4lb.model.states import CloseReason
from tests.support.balancing import address_of, balancing, closed, make_config, wait_closed, wait_idle
from tests.support.peers import (
    TCP_CLOSE,
    connect,
    echo,
    hold,
    one_answer,
    read_until_end,
    reset,
    serving,
    tcp_state,
)
from tests.support.programs import free_port, l4lb
from tests.support.waiting import wait_until


def is_reset(sock: socket.socket) -> bool:
    """Whether the balancer has reset this client."""
    return read_until_end(sock)[1]


def is_refused(address: str) -> bool:
    """Whether a new client is reset; that may show in the connect already."""
    try:
        with connect(address) as sock:
            return is_reset(sock)
    except ConnectionResetError:
        return True


class Gate:
    """An echo server that knows how many connections it had at once at most.

    One that the balancer has reset is gone in the kernel before the next arrives, though its thread may not know yet.
    """

    def __init__(self) -> None:
        self.most = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __call__(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.add(sock)
            self.most = max(self.most, sum(tcp_state(one) != TCP_CLOSE for one in self._open))
        try:
            while data := sock.recv(1 << 16):
                sock.sendall(data)
        finally:
            with self._lock:
                self._open.discard(sock)


def test_idle_timeout() -> None:
    with serving(hold) as server, balancing([server.address], listener={"idle_timeout": "100ms"}) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.sendall(b"x")
            assert is_reset(sock)
        wait_closed(balancer, CloseReason.IDLE_TIMEOUT)


@pytest.mark.parametrize("splice", ["auto", "always", "off"])
def test_a_peer_that_never_reads_ends_by_its_idle_timeout(splice: str) -> None:
    """Its window is zero: bytes wait in kernel, pipe or chunk, and go with the session."""

    def send(sock: socket.socket) -> None:
        sock.sendall(bytes(64 << 20))

    limits = {"idle_timeout": "300ms", "splice": splice}
    with serving(send) as server, balancing([server.address], listener=limits, workers=1) as balancer:
        with connect(address_of(balancer)) as sock:
            wait_closed(balancer, CloseReason.IDLE_TIMEOUT)
            received, was_reset = read_until_end(sock)
        worker = balancer.stats().workers[0]
    assert was_reset
    assert len(received) < 64 << 20
    assert (worker.pipes, worker.chunks) == (0, 0)


@pytest.mark.parametrize("splice", ["always", "off"])
@pytest.mark.parametrize("lost", ["client", "backend"])
def test_a_reset_in_the_middle_of_a_bulk_transfer(lost: str, splice: str) -> None:
    """The other side gets a true prefix and then the reset; nothing is kept."""
    data = random.Random(1).randbytes(48 << 20)
    part = 8 << 20

    def send(sock: socket.socket) -> None:
        sock.sendall(data[:part] if lost == "backend" else data)
        if lost == "backend":
            reset(sock)

    limits = {"splice": splice}
    with serving(send) as server, balancing([server.address], listener=limits, workers=1) as balancer:
        with connect(address_of(balancer)) as sock:
            if lost == "client":
                received = sock.recv(1 << 20)
                reset(sock)
                wait_closed(balancer, CloseReason.CLIENT_ABORT)
            else:
                received, was_reset = read_until_end(sock)
                assert was_reset
                wait_closed(balancer, CloseReason.BACKEND_ABORT)
        worker = balancer.stats().workers[0]
    assert received
    assert data.startswith(received)
    assert (worker.pipes, worker.chunks) == (0, 0)
    assert (worker.spliced_bytes > 0) == (splice == "always")


def test_a_busy_session_is_not_idle() -> None:
    with serving(echo) as server, balancing([server.address], listener={"idle_timeout": "1s"}) as balancer:
        with connect(address_of(balancer)) as sock:
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
        wait_closed(balancer, CloseReason.NORMAL)


def test_half_close_timeout() -> None:
    released = threading.Event()

    def hold_open(sock: socket.socket) -> None:
        sock.recv(1)
        released.wait(20)

    with serving(hold_open) as server:
        with balancing([server.address], listener={"half_close_timeout": "100ms"}) as balancer:
            with connect(address_of(balancer)) as sock:
                sock.sendall(b"x")
                sock.shutdown(socket.SHUT_WR)
                assert is_reset(sock)
            wait_closed(balancer, CloseReason.HALF_CLOSE_TIMEOUT)
        released.set()


def test_max_session_duration_ends_even_a_busy_session() -> None:
    with serving(echo) as server, balancing([server.address], listener={"max_session_duration": "200ms"}) as balancer:
        with connect(address_of(balancer)) as sock, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while True:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
        wait_closed(balancer, CloseReason.MAX_DURATION)


def test_connect_timeout_of_a_backend_that_drops_connects() -> None:
    """A listening socket whose queue is full lets a SYN fall; every attempt is on the same backend here."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(address)
        backends = [f"127.0.0.1:{address[1]}"]
        with balancing(backends, connect_timeout="100ms", connect_attempts=2) as balancer:
            with connect(address_of(balancer)) as sock:
                assert is_reset(sock)
            wait_closed(balancer, CloseReason.CONNECT_TIMEOUT)
            assert balancer.stats().pools["web"].backends[backends[0]].connect_failures == 2
        for filler in fillers:
            filler.close()


def test_connect_attempts_never_repeat_a_backend_while_another_is_left() -> None:
    with serving(one_answer(b"alive")) as server:
        dead = [f"127.0.0.1:{free_port()}" for _ in range(4)]
        with balancing([*dead, server.address], connect_attempts=5, workers=1) as balancer:
            for _ in range(20):
                with connect(address_of(balancer)) as sock:
                    sock.sendall(b"x")
                    assert sock.recv(10) == b"alive"
            failures = {id_: one.connect_failures for id_, one in balancer.stats().pools["web"].backends.items()}
    assert failures[server.address] == 0
    assert all(failures[one] <= 20 for one in dead)


def test_all_backends_dead_is_connect_failed_and_none_usable_is_no_backend() -> None:
    with balancing([f"127.0.0.1:{free_port()}"], connect_attempts=3) as balancer:
        assert is_refused(address_of(balancer))
        wait_closed(balancer, CloseReason.CONNECT_FAILED)
    drained = Backend(address="127.0.0.1:1", admin_state="drain")
    with balancing([drained]) as balancer:
        assert is_refused(address_of(balancer))
        wait_closed(balancer, CloseReason.NO_BACKEND)


def test_listener_max_sessions_refuses_with_a_reset_and_frees_places() -> None:
    with serving(echo) as server, balancing([server.address], listener={"max_sessions": 2}) as balancer:
        with connect(address_of(balancer)) as one, connect(address_of(balancer)) as two:
            for sock in (one, two):
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
            assert is_refused(address_of(balancer))
            wait_closed(balancer, CloseReason.RESOURCE_LIMIT)
        wait_idle(balancer)
        with connect(address_of(balancer)) as again:
            again.sendall(b"x")
            assert again.recv(1) == b"x"


@pytest.mark.parametrize("level", ["process", "listener"])
def test_max_sessions_of_process_and_listener_are_never_exceeded_under_churn(level: str) -> None:
    """Two workers and forty clients at once; who finds no place is reset, and every place comes back."""
    gate, limit = Gate(), 7
    outcomes: Counter[bool] = Counter()
    with serving(gate) as server:
        config = make_config([server.address], listener={"max_sessions": limit if level == "listener" else 0})
        if level == "process":
            config = config.model_copy(update={"global_": GlobalConfig(workers=2, max_sessions=limit)})

        def client(seed: int, address: str) -> None:
            choice = random.Random(seed)
            for _ in range(25):
                with contextlib.suppress(ConnectionError), connect(address) as sock:
                    sock.sendall(b"x")
                    served = sock.recv(1) == b"x"
                    outcomes[served] += 1
                    if served and choice.random() < 0.3:
                        reset(sock)

        with LoadBalancer(config) as balancer:
            threads = [threading.Thread(target=client, args=(seed, address_of(balancer))) for seed in range(40)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            wait_idle(balancer)
            refused = closed(balancer)[CloseReason.RESOURCE_LIMIT]
            assert refused + outcomes[True] >= 900  # a client that gave up at once may be neither
            with connect(address_of(balancer)) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
    assert 1 < gate.most <= limit
    assert refused > 0


def test_backend_max_sessions_is_never_exceeded_under_churn() -> None:
    gates = [Gate(), Gate(), Gate()]
    limits = [3, 5, 2]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving(gate)) for gate in gates]
        backends = [
            Backend(address=server.address, max_sessions=limit) for server, limit in zip(servers, limits, strict=True)
        ]
        queue = {"queue_size": 100, "queue_timeout": "10s"}
        balancer = stack.enter_context(balancing(backends, workers=2, policy="least_sessions", **queue))
        answered: list[int] = []

        def client(seed: int) -> None:
            choice = random.Random(seed)
            for _ in range(25):
                with connect(address_of(balancer)) as sock:
                    if choice.random() < 0.2:
                        continue  # leaves without a word, perhaps from the queue
                    sock.sendall(b"x")
                    if choice.random() < 0.8:
                        assert sock.recv(1) == b"x"
                        answered.append(1)

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_idle(balancer)
        assert balancer.stats().pools["web"].waiting == 0
        assert CloseReason.QUEUE_TIMEOUT not in closed(balancer)
        assert len(answered) > 400
    assert [gate.most <= limit for gate, limit in zip(gates, limits, strict=True)] == [True] * 3
    assert sum(gate.most for gate in gates) >= 5


def test_queue_serves_in_order_and_gives_the_place_of_a_client_that_leaves() -> None:
    with serving(echo) as server:
        backends = [Backend(address=server.address, max_sessions=1)]
        with balancing(backends, workers=1, queue_size=2, queue_timeout="10s") as balancer:
            first = connect(address_of(balancer))
            first.sendall(b"1")
            assert first.recv(1) == b"1"
            waiting = [connect(address_of(balancer)) for _ in range(2)]
            assert wait_until(lambda: balancer.stats().pools["web"].waiting == 2)
            assert is_refused(address_of(balancer))
            wait_closed(balancer, CloseReason.QUEUE_FULL)
            reset(waiting[0])
            wait_closed(balancer, CloseReason.CLIENT_ABORT)
            assert balancer.stats().pools["web"].waiting == 1
            first.close()
            waiting[1].sendall(b"2")
            assert waiting[1].recv(1) == b"2"
            waiting[1].close()


def test_queue_timeout() -> None:
    with serving(echo) as server:
        backends = [Backend(address=server.address, max_sessions=1)]
        with balancing(backends, queue_size=5, queue_timeout="100ms") as balancer:
            with connect(address_of(balancer)) as first:
                first.sendall(b"1")
                assert first.recv(1) == b"1"  # it has the place
                with connect(address_of(balancer)) as second:
                    assert is_reset(second)
            wait_closed(balancer, CloseReason.QUEUE_TIMEOUT)


def test_a_place_freed_on_one_worker_serves_who_waits_on_another() -> None:
    with serving(echo) as server:
        backends = [Backend(address=server.address, max_sessions=1)]
        with balancing(backends, workers=2, queue_size=50, queue_timeout="20s") as balancer:
            clients = [connect(address_of(balancer)) for _ in range(20)]
            assert wait_until(lambda: balancer.stats().pools["web"].waiting == 19)
            for sock in clients:
                sock.sendall(b"x")
            pending = set(clients)

            def served() -> bool:
                for sock in list(pending):
                    sock.settimeout(0.001)
                    with contextlib.suppress(TimeoutError):
                        assert sock.recv(1) == b"x"
                        sock.close()
                        pending.discard(sock)
                return not pending

            assert wait_until(served, 20)


def test_session_rate() -> None:
    limits = {"session_rate": "20/s", "session_burst": 5}
    with serving(one_answer(b"ok")) as server, balancing([server.address], listener=limits) as balancer:
        served = 0
        began = time.monotonic()
        for _ in range(40):
            with contextlib.suppress(ConnectionResetError, BrokenPipeError), connect(address_of(balancer)) as sock:
                sock.sendall(b"x")
                served += sock.recv(10) == b"ok"
        allowed = 5 + 20 * (time.monotonic() - began)
        assert 5 <= served <= allowed + 1
        wait_closed(balancer, CloseReason.RATE_LIMITED, 40 - served)


@pytest.mark.parametrize("splice", ["auto", "always", "off"])
@pytest.mark.parametrize("key", ["bandwidth_down", "total_bandwidth_down"])
def test_bandwidth_down(key: str, splice: str) -> None:
    size = 2_000_000

    def send(sock: socket.socket) -> None:
        sock.sendall(bytes(size))

    limits = {key: "4MB/s", "splice": splice}
    with serving(send) as server, balancing([server.address], listener=limits) as balancer:
        began = time.monotonic()
        with connect(address_of(balancer)) as sock:
            received, was_reset = read_until_end(sock)
        took = time.monotonic() - began
        wait_closed(balancer, CloseReason.NORMAL)
    assert (len(received), was_reset) == (size, False)
    assert 0.35 <= took <= 15  # half a second at the rate, less the burst


def test_bandwidth_up_of_all_sessions_together() -> None:
    with serving(hold) as server:
        with balancing([server.address], listener={"total_bandwidth_up": "2MB/s"}, workers=2) as balancer:
            began = time.monotonic()
            clients = [connect(address_of(balancer)) for _ in range(4)]
            senders = [threading.Thread(target=sock.sendall, args=(bytes(300_000),)) for sock in clients]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
            assert wait_until(lambda: balancer.stats().pools["web"].bytes_up == 1_200_000, 10)
            assert 0.4 <= time.monotonic() - began <= 15
            for sock in clients:
                sock.close()


def test_records_tell_how_every_session_went() -> None:
    with serving(one_answer(b"hello")) as server, balancing([server.address], workers=2) as balancer:
        forwarder, wake_fd = balancer.plane.forwarder, os.eventfd(0)
        forwarder.keep_records(wake_fd)
        for _ in range(10):
            with connect(address_of(balancer)) as sock:
                sock.sendall(b"hi")
                assert sock.recv(10) == b"hello"
        wait_idle(balancer)
        records = forwarder.take_records(100)
        histogram = balancer.stats().listeners["web"].session_time
    os.close(wake_fd)
    assert len(records) == 10
    assert histogram.count == 10
    for record in records:
        assert (record.listener, record.pool, record.backend) == ("web", "web", server.address)
        assert (record.bytes_up, record.bytes_down, record.attempts) == (2, 5, 1)
        assert record.client == "127.0.0.1"
        assert record.close_reason is CloseReason.NORMAL
        assert 0 < record.connect_s < record.duration_s < 5


def test_round_robin_is_exact_across_workers() -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving(hold)) for _ in range(3)]
        balancer = stack.enter_context(balancing([server.address for server in servers], workers=3))
        clients = [stack.enter_context(connect(address_of(balancer))) for _ in range(30)]
        assert wait_until(lambda: [server.accepted for server in servers] == [10, 10, 10])
        workers = [worker.sessions_active for worker in balancer.stats().workers]
        assert sum(workers) == len(clients)
        assert max(workers) - min(workers) <= 3, workers


def test_out_of_file_descriptors_pauses_and_resumes_while_sessions_live_on(tmp_path: Path) -> None:
    """With 64 descriptors most clients wait in the kernel's queue until others have gone."""
    text = """
[global]
workers = 1
max_sessions = 1000
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{}"]
"""
    with serving(echo) as server:
        file = tmp_path / "lb.toml"
        file.write_text(text.format(server.address))
        with l4lb("serve", "-c", str(file), max_files=64) as process:
            address = process.address("web")
            process.wait_for("backend up")
            clients = []
            for _ in range(40):
                with contextlib.suppress(ConnectionResetError):  # the one for whom there is no second descriptor
                    clients.append(connect(address))
            assert len(clients) >= 38
            process.wait_for("accepting paused", 10)
            first = clients[0]
            first.sendall(b"x")
            assert first.recv(1) == b"x"
            for sock in clients:
                sock.close()
            with connect(address) as sock:
                sock.sendall(b"y")
                assert sock.recv(1) == b"y"
