"""UDP across upgrades: the new process goes on with the sessions, and nobody notices."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from l4lb import Client
from tests.scenarios.test_upgrade import end, pid_of
from tests.support.datagrams import UdpClient, UdpServer, serving_udp
from tests.support.programs import L4lb, free_port, l4lb
from tests.support.quic import quic_peers
from tests.support.slow import first_and_slow
from tests.support.soaking import Crowd
from tests.support.waiting import wait_until

FILE = """
[global]
workers = {workers}
drain_timeout = "20s"
[listeners.web]
bind = ["127.0.0.1:{port}", "[::1]:{port}"]
protocol = "udp"
pool = "web"
{listener}
[pools.web]
backends = [{backends}]
{pool}
"""
LEAST = 'policy = "least_sessions"'
QUIC = 'policy = "maglev"\nhash_key = "quic_cid"'


class Backend(Protocol):
    @property
    def address(self) -> str: ...


class Instance:
    """`l4lb serve` on UDP, upgraded as often as wanted, each time to other workers and backends if need be."""

    def __init__(self, directory: Path, servers: Sequence[Backend], listener: str, pool: str) -> None:
        self._file, self._listener, self._pool = directory / "lb.toml", listener, pool
        self.port, self.admin = free_port(), f"unix:{directory}/admin.sock"
        self.write(servers)
        self._stack = contextlib.ExitStack()
        self.process: L4lb = self._stack.enter_context(l4lb("serve", "-c", str(self._file), "--admin", self.admin))
        self.process.wait_for("admin listening")

    def write(self, servers: Sequence[Backend], workers: int = 2) -> None:
        listed = ", ".join(f'"{one.address}"' for one in servers)
        extra = {"listener": self._listener, "pool": self._pool}
        text = FILE.format(workers=workers, port=self.port, backends=listed, **extra)
        self._file.write_text(text)

    def upgrade(self) -> None:
        """Until only the new process answers."""
        with Client(self.admin, timeout=60) as client:
            pid = client.upgrade()
        self._stack.callback(end, pid)
        assert wait_until(lambda: pid_of(self.admin) == pid, 20)

    def sessions(self) -> int:
        with Client(self.admin) as client:
            return int(client.status()["sessions_active"])

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def instance(directory: Path, servers: Sequence[Backend], listener: str = "", pool: str = LEAST) -> Iterator[Instance]:
    made = Instance(directory, servers, listener, pool)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def servers() -> Iterator[list[UdpServer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(serving_udp()) for _ in range(3)]


def peers(servers: list[UdpServer]) -> list[set[tuple[str, int]]]:
    return [set(one.clients) for one in servers]


def test_sessions_go_on_with_their_backends_from_the_same_port(tmp_path: Path, servers: list[UdpServer]) -> None:
    """By a number of workers that differs, so that a session is with another one too; more than a message has room
    for."""
    with instance(tmp_path, servers) as balancer, contextlib.ExitStack() as stack:
        hosts = ["127.0.0.1", "::1"]
        clients = [stack.enter_context(UdpClient((hosts[n % 2], balancer.port))) for n in range(300)]
        for number, client in enumerate(clients):
            assert client.ask(b"first %d" % number) == b"first %d" % number
        before = peers(servers)
        for workers in (1, 3, 2):
            balancer.write(servers, workers)
            balancer.upgrade()
            assert wait_until(lambda: balancer.sessions() == 300)
            for number, client in enumerate(clients):
                client.send(b"%d of %d" % (number, workers))
            for number, client in enumerate(clients):
                assert client.receive() == b"%d of %d" % (number, workers)
            assert peers(servers) == before
        assert wait_until(lambda: balancer.process.process.poll() == 0, 20), "nothing keeps the first one"


def test_no_datagram_is_lost_or_overtakes_another(tmp_path: Path, servers: list[UdpServer]) -> None:
    with instance(tmp_path, servers) as balancer:
        crowd = Crowd(f"127.0.0.1:{balancer.port}", 100, window=4, window_bytes=8000, seed=5)
        failed: list[Exception] = []
        over = threading.Event()

        def exchange() -> None:
            try:
                while not over.is_set():
                    crowd.exchange(crowd.sent + 100, patience_s=30)
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=exchange)
        thread.start()
        try:
            for workers in (2, 1, 3):
                balancer.write(servers, workers)
                asked = crowd.sent
                balancer.upgrade()
                assert wait_until(lambda asked=asked: crowd.sent > asked + 1000 or failed)
        finally:
            over.set()
            thread.join()
        assert failed == []

        def settled() -> bool:
            crowd.hear(0.01)
            return crowd.received == crowd.sent

        assert wait_until(settled), (crowd.sent, crowd.received)
        assert sum(len(one.clients) for one in servers) == 100
        crowd.close()


@pytest.mark.parametrize("listener", first_and_slow("udp_requests = 1", "udp_requests = 1\nudp_responses = 1"))
def test_every_question_of_a_session_of_its_own_is_answered(
    tmp_path: Path, servers: list[UdpServer], listener: str
) -> None:
    """Sessions that wait for their answer stay with the process that asked. Not too many questions: each session has a
    port of this host, of which there are 28,000, until it is idle for too long."""
    with instance(tmp_path, servers, listener) as balancer:
        failed: list[Exception] = []
        asked = [0]
        over = threading.Event()

        def ask() -> None:
            with UdpClient(("127.0.0.1", balancer.port)) as client:
                while not over.is_set() and not failed:
                    try:
                        assert client.ask(b"%d" % asked[0]) == b"%d" % asked[0]
                    except Exception as error:
                        failed.append(error)
                    asked[0] += 1
                    time.sleep(0.001)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            for _ in range(3):
                before = asked[0]
                balancer.upgrade()
                assert wait_until(lambda before=before: asked[0] > before + 200 or failed)
        finally:
            over.set()
            thread.join()
        assert failed == []


def test_a_quic_client_that_moves_after_an_upgrade_keeps_its_connection(tmp_path: Path) -> None:
    """What connection ids taught the first process, the last one knows."""
    with quic_peers() as quic, quic.serving("a", "b", "c") as named:
        with instance(tmp_path, list(named.values()), pool=QUIC) as balancer:
            with contextlib.ExitStack() as stack:
                address = f"127.0.0.1:{balancer.port}"
                clients = [stack.enter_context(quic.connect(address)) for _ in range(10)]
                mine = [client.ask() for client in clients]
                for _ in range(2):
                    balancer.upgrade()
                    for client, name in zip(clients, mine, strict=True):
                        client.move()
                        assert client.ask() == name


def test_limits_by_source_count_the_sessions_that_moved(tmp_path: Path, servers: list[UdpServer]) -> None:
    limits = "per_source = { sessions = 3 }"
    with instance(tmp_path, servers, limits) as balancer, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(UdpClient(("127.0.0.1", balancer.port))) for _ in range(4)]
        for client in clients[:3]:
            assert client.ask(b"first") == b"first"
        balancer.upgrade()
        assert wait_until(lambda: balancer.sessions() == 3)
        with Client(balancer.admin) as admin:
            (source,) = admin.sources()
            assert (source["source"], source["sessions_active"]) == ("127.0.0.1", 3)
            clients[3].send(b"one more")
            assert wait_until(lambda: admin.listeners["web"].status["dropped"] == {"max_sessions": 1}, 20)
        for client in clients[:3]:
            assert client.ask(b"again") == b"again"


def test_sessions_of_what_the_new_file_does_not_name_end(tmp_path: Path, servers: list[UdpServer]) -> None:
    with instance(tmp_path, servers) as balancer, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(UdpClient(("127.0.0.1", balancer.port))) for _ in range(30)]
        for client in clients:
            client.ask(b"x")
        gone, *left = servers
        mine = len(gone.clients)
        assert mine
        balancer.write(left)
        balancer.upgrade()
        balancer.process.wait_for(f"sessions moved sessions={30 - mine} ended={mine}")
        before = gone.clients.total()
        for client in clients:
            assert client.ask(b"y") == b"y"
        assert gone.clients.total() == before
        assert sum(len(one.clients) for one in left) == 30


def test_a_new_process_that_cannot_start_leaves_udp_as_it_was(tmp_path: Path, servers: list[UdpServer]) -> None:
    with instance(tmp_path, servers) as balancer, UdpClient(("127.0.0.1", balancer.port)) as client:
        assert client.ask(b"before") == b"before"
        before = peers(servers)
        balancer.write([])
        with contextlib.suppress(Exception), Client(balancer.admin) as admin:
            admin.upgrade()
        balancer.process.wait_for("upgrade failed reason=.*could not start")
        assert client.ask(b"after") == b"after"
        assert peers(servers) == before
        with UdpClient(("127.0.0.1", balancer.port)) as other:
            assert other.ask(b"new") == b"new"
