"""What becomes of TCP sessions at an upgrade when something differs in the new process: the file, the version, limits
that are reached; and sessions that are not yet relaying."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import l4lb as package
from l4lb import Client
from tests.scenarios.test_sessions_move import samples
from tests.scenarios.test_upgrade import end, gone, upgraded
from tests.support import proxy_twin
from tests.support.checking import address_of, loopback_socket
from tests.support.peers import connect, echo, hold, read_exactly, read_until_end, refused, serving
from tests.support.programs import L4lb, free_port, l4lb
from tests.support.slow import first_and_slow
from tests.support.waiting import wait_until
from tests.unit.control.reporting.test_statsd import receive

FILE = """
[global]
workers = 2
drain_timeout = "3s"
access_log = "{directory}/access.log"
[listeners.web]
bind = ["127.0.0.1:{port}", "unix:{directory}/web.sock"]
pool = "web"
{listener}
[pools.web]
backends = ["{backend}"]
health = {{ type = "none" }}
{pool}
"""


class Process:
    """A balancer of one listener and one pool, and who takes over from it."""

    def __init__(self, directory: Path, backend: str) -> None:
        self.directory = directory
        self.file = directory / "lb.toml"
        self.admin = f"unix:{directory}/admin.sock"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.backend = backend
        self.running: L4lb
        self.pids: list[int] = []

    def write(self, listener: str = "", pool: str = "", more: str = "") -> None:
        self.file.write_text(
            FILE.format(directory=self.directory, port=self.port, backend=self.backend, listener=listener, pool=pool)
            + more
        )

    def upgrade(self, *, ends: bool = True) -> None:
        self.pids.append(upgraded(self.running, self.pids[-1], self.admin))
        if ends:
            assert wait_until(lambda: gone(self.pids[-2])), self.running.log

    def files(self) -> int:
        """As few as it has had now: a health check and a request of the API have one for a moment."""
        return min(len(os.listdir(f"/proc/{self.pids[-1]}/fd")) for _ in range(50))

    def total(self, name: str) -> float:
        return samples(self.admin, name)

    def records(self) -> list[dict[str, str]]:
        lines = (self.directory / "access.log").read_text().splitlines()
        return [dict(re.findall(r"(\w+)=(\S+)", line)) for line in lines]


@contextlib.contextmanager
def started(process: Process, within: Sequence[str] = ()) -> Iterator[Process]:
    with l4lb("serve", "-c", str(process.file), "--admin", process.admin, within=within) as running:
        process.running = running
        running.wait_for("listening listener=web")
        process.pids = [running.process.pid]
        try:
            yield process
        finally:
            for pid in process.pids[1:]:
                end(pid)


@contextlib.contextmanager
def echoing(directory: Path, listener: str = "", pool: str = "", within: Sequence[str] = ()) -> Iterator[Process]:
    with serving(echo) as backend:
        process = Process(directory, backend.address)
        process.write(listener, pool)
        with started(process, within):
            yield process


def said(sock: socket.socket, text: bytes) -> bool:
    sock.sendall(text)
    return read_exactly(sock, len(text)) == text


def test_one_record_for_each_session_with_all_of_it(tmp_path: Path) -> None:
    with echoing(tmp_path) as process:
        socks = [connect(process.address), connect(f"unix:{tmp_path}/web.sock")]
        assert all(said(sock, b"12345") for sock in socks)
        with Client(process.admin) as client:
            before = {one["id"]: one for one in client.sessions()}
        counted = [process.total(f"l4lb_{name}") for name in ("sessions_total", "bytes_total", "sessions_active")]
        assert counted == [2, 20, 2]
        files = process.files()
        for _ in range(2):
            process.upgrade()
            assert wait_until(lambda: process.files() == files), process.files()
            assert all(said(sock, b"12345") for sock in socks)
            with Client(process.admin) as client:
                after = {one["id"]: one for one in client.sessions()}
            assert after.keys() == before.keys()
            for id_, one in after.items():
                for same in ("client", "local", "listener", "pool", "backend"):
                    assert one[same] == before[id_][same]
                assert one["age_s"] > before[id_]["age_s"]
        names = (
            "sessions_total",
            "bytes_total",
            "sessions_active",
            "backend_sessions_total",
            "backend_sessions_active",
            "backend_connect_seconds_count",
            "backend_first_byte_seconds_count",
            "backend_session_seconds_count",
        )
        assert [process.total(f"l4lb_{name}") for name in names] == [2, 60, 2, 2, 2, 2, 2, 0]
        new = connect(process.address)
        assert said(new, b"x")
        for sock in [*socks, new]:
            sock.close()
        assert wait_until(lambda: len(process.records()) == 3)
        long = [one for one in process.records() if one["bytes_up"] == "15"]
        assert {one["session_id"] for one in long} == before.keys()
        assert all(one["bytes_down"] == "15" and one["close_reason"] == "normal" for one in long)
        assert len({one["session_id"] for one in process.records()}) == 3
        assert wait_until(lambda: process.total("l4lb_sessions_active") == 0)
        assert [process.total(f"l4lb_{name}") for name in ("sessions_total", "session_closed_total")] == [3, 3]
        times = [process.total(f"l4lb_backend_{name}_seconds_count") for name in ("connect", "first_byte", "session")]
        assert times == [3, 3, 3]
        lasted_s = sum(float(one["duration_ms"]) for one in process.records()) / 1000
        counted_s = process.total("l4lb_backend_session_seconds_sum")
        assert 0.6 * lasted_s < counted_s < lasted_s + 0.1, "from the connect on, and not from an upgrade"


def test_limits_hold_across_it(tmp_path: Path) -> None:
    listener = "max_sessions = 3\nper_source = { sessions = 2 }"
    with serving(echo) as backend:
        process = Process(tmp_path, backend.address)
        process.write(listener, 'queue_size = 5\nqueue_timeout = "10m"')
        text = process.file.read_text()
        limited = f'{{ address = "{backend.address}", max_sessions = 2 }}'
        process.file.write_text(text.replace(f'"{backend.address}"', limited))
        with started(process):
            first, second = connect(process.address), connect(process.address)
            assert said(first, b"1")
            assert said(second, b"2")
            process.upgrade()
            with pytest.raises(ConnectionResetError), connect(process.address) as third:  # its source has two
                third.recv(1)
            other = socket.create_connection(("127.0.0.1", process.port), source_address=("127.0.0.9", 0))
            other.sendall(b"waits in the queue")
            assert wait_until(lambda: process.total("l4lb_queue_length") == 1)
            process.upgrade()
            assert process.total("l4lb_queue_length") == 1
            with pytest.raises(ConnectionResetError):  # max_sessions of the listener
                with socket.create_connection(("127.0.0.1", process.port), source_address=("127.0.0.8", 0)) as fourth:
                    fourth.recv(1)
            assert said(first, b"1")
            first.close()
            assert read_exactly(other, 18) == b"waits in the queue"
            with Client(process.admin) as client:
                sources = {one["source"]: one for one in client.sources()}
            assert sources["127.0.0.1"]["sessions_total"] == 2
            assert sources["127.0.0.1"]["limited"] == 1
            second.close()
            other.close()


def test_sessions_that_are_still_to_say_who_they_are(tmp_path: Path) -> None:
    header = proxy_twin.v2_header(
        (1, 1, 1), (socket.inet_aton("192.0.2.7"), 1234), (socket.inet_aton("192.0.2.8"), 80), [], with_crc32c=True
    )
    with echoing(tmp_path, 'accept_proxy = "v2"\nproxy_timeout = "5m"\nproxy_trusted = ["127.0.0.1"]') as process:
        with connect(process.address) as sock:
            sock.sendall(header[:20])
            assert wait_until(lambda: process.total("l4lb_sessions_active") == 1)
            process.upgrade()
            sock.sendall(header[20:] + b"hello")
            assert read_exactly(sock, 5) == b"hello"
            with Client(process.admin) as client:
                assert [one["client"] for one in client.sessions()] == ["192.0.2.7:1234"]


def test_a_connect_under_way_goes_on(tmp_path: Path) -> None:
    with socket.socket() as full:  # a backlog of one, which two clients fill
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = "{}:{}".format(*full.getsockname())
        with contextlib.ExitStack() as stack:
            fillers = [stack.enter_context(socket.socket()) for _ in range(2)]
            for one in fillers:
                one.setblocking(False)
                one.connect_ex(full.getsockname())
            process = Process(tmp_path, address)
            process.write(pool='connect_timeout = "5m"')
            stack.enter_context(started(process))
            sock = stack.enter_context(connect(process.address))
            sock.sendall(b"at last")
            assert wait_until(lambda: process.total("l4lb_backend_sessions_active") == 1)
            process.upgrade()
            found = b""
            full.settimeout(120)
            while not found.startswith(b"at last"):
                accepted = stack.enter_context(full.accept()[0])
                accepted.settimeout(0.3)
                with contextlib.suppress(TimeoutError):
                    found = accepted.recv(100)
            accepted.sendall(b"yes")
            assert read_exactly(sock, 3) == b"yes"


@pytest.mark.parametrize("way", ["drain", "reset", "keep"])
def test_a_listener_and_a_pool_that_the_new_file_does_not_name(tmp_path: Path, way: str) -> None:
    port = free_port()
    with serving(echo) as backend, echoing(tmp_path) as process:
        more = f"""
[listeners.old]
bind = "127.0.0.1:{port}"
pool = "old"
[pools.old]
backends = ["{backend.address}"]
health = {{ type = "none" }}
on_backend_removed = "{way}"
"""
        process.write(more=more)
        os.kill(process.pids[-1], signal.SIGHUP)
        process.running.wait_for("reloaded")
        with connect(f"127.0.0.1:{port}") as sock, connect(process.address) as kept:
            assert said(sock, b"hello")
            assert said(kept, b"hello")
            process.write()
            process.upgrade()
            if way != "reset":
                assert said(sock, b"still")
            assert wait_until(lambda: refused(f"127.0.0.1:{port}"))
            if way == "keep":
                time.sleep(4)
                assert said(sock, b"kept")
            else:  # at once, or after drain_timeout
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
                assert wait_until(lambda: [one["listener"] for one in process.records()] == ["old"])
                assert process.records()[0]["close_reason"] == ("admin" if way == "reset" else "drain")
                assert process.records()[0]["backend"] == backend.address
            assert said(kept, b"hello")


def test_a_version_that_knows_them_otherwise_leaves_them_to_the_old_process(tmp_path: Path) -> None:
    code = tmp_path / "code"
    shutil.copytree(Path(package.__file__).parent, code / "l4lb", ignore=shutil.ignore_patterns("__pycache__"))
    with echoing(tmp_path, within=["env", "-C", str(code)]) as process:
        sock = connect(process.address)
        assert said(sock, b"before")
        module = code / "l4lb" / "engine" / "tcp_migration.py"
        module.write_text(module.read_text().replace("tcp_migration.FORMAT", "tcp_migration.FORMAT + 1"))
        process.upgrade(ends=False)
        process.running.wait_for("sessions stay sessions=1 reason=.the new process has another version")
        assert said(sock, b"after")

        def predecessor() -> object:
            with Client(process.admin) as client:
                return client.status()["predecessor"]

        expected = {"pid": process.pids[0], "sessions_active": 1}
        assert wait_until(lambda: predecessor() == expected)
        with connect(process.address) as new:
            assert said(new, b"served")
        sock.close()
        assert wait_until(lambda: gone(process.pids[0]))
        assert wait_until(lambda: predecessor() is None)


def late_echo(wait: threading.Event) -> Callable[[socket.socket], None]:
    """Takes nothing before `wait` is set."""

    def answer(sock: socket.socket) -> None:
        sock.settimeout(None)
        wait.wait()
        echo(sock)

    return answer


def fill(sock: socket.socket) -> bytes:
    """Until it takes no more for a while; what it took."""
    sent = bytearray()
    sock.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while True:
            piece = struct.pack("!Q", len(sent)) * 128
            sent += piece[: sock.send(piece)]
    sock.settimeout(60)
    return bytes(sent)


@pytest.mark.parametrize("splice", first_and_slow("always", "off"))
def test_bytes_that_nobody_has_taken_yet_come_in_order(tmp_path: Path, splice: str) -> None:
    """First the backend does not read, then the client does not: chunks, and pipes with bytes in them."""
    wait = threading.Event()
    with serving(late_echo(wait)) as backend:
        process = Process(tmp_path, backend.address)
        process.write(f'splice = "{splice}"')
        with started(process), socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", process.port))
            sent = fill(sock)
            process.upgrade()
            wait.set()
            sent += fill(sock)
            process.upgrade()
            sending = threading.Thread(target=lambda: (sock.sendall(b"the end"), sock.shutdown(socket.SHUT_WR)))
            sending.start()
            got = read_until_end(sock)[0]
            sending.join()
            assert len(sent) > 1 << 20
            assert got == sent + b"the end"


def test_an_end_on_the_way(tmp_path: Path) -> None:
    """A client that has said all, whose backend answers in the next process; and one whose backend holds."""
    with serving(hold) as backend:
        process = Process(tmp_path, backend.address)
        process.write("half_close_timeout = '30s'")
        with started(process), connect(process.address) as sock:
            sock.sendall(b"all")
            sock.shutdown(socket.SHUT_WR)
            process.upgrade()
            assert sock.recv(1) == b""
            assert wait_until(lambda: len(process.records()) == 1)
            assert process.records()[0]["bytes_up"] == "3"


def test_what_goes_by_differences_takes_nothing_for_new(tmp_path: Path) -> None:
    """A StatsD server gets each session once, what was refused is told once, and no worker is busy with the past."""
    totals: dict[bytes, float] = {}
    with echoing(tmp_path) as process, loopback_socket() as receiver:
        process.write('deny = ["127.0.0.66"]')
        text = process.file.read_text()
        statsd = f'statsd = "{address_of(receiver)}"\nstatsd_interval = "200ms"\n[listeners.web]'
        process.file.write_text(text.replace("[listeners.web]", statsd))
        os.kill(process.pids[-1], signal.SIGHUP)
        process.running.wait_for("reloaded")
        assert wait_until(lambda: (receive(receiver, totals), b"l4lb.draining" in totals)[1])

        def sent() -> float:
            receive(receiver, totals)
            return totals.get(b"l4lb.sessions.web", 0)

        for count in (5, 10):
            for _ in range(3):
                with contextlib.suppress(ConnectionResetError), contextlib.closing(from_denied(process.port)) as sock:
                    sock.recv(1)
            for _ in range(2):
                with connect(process.address) as sock:
                    assert said(sock, b"hello")
            assert wait_until(lambda count=count: sent() == count), totals
            lines = count // 5  # one each time
            assert wait_until(lambda lines=lines: process.running.log.count("clients denied listener=web") == lines, 30)
            process.upgrade()
            assert process.total("l4lb_sessions_total") == count
            assert process.total("l4lb_worker_busy_ratio") < 1.5
        with connect(process.address) as sock:
            assert said(sock, b"hello")
        assert wait_until(lambda: sent() == 11), totals
        time.sleep(1.5)  # a look at what was refused, and some at what to send
        assert sent() == 11
        assert re.findall(r"clients denied .*reason=.sessions (\d+)", process.running.log) == ["3", "3"]


def from_denied(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=("127.0.0.66", 0))
