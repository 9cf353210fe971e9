"""examples/gateway-tier as its readers run it, with a gateway killed under load."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from l4lb.client import Client
from l4lb.errors import AdminError
from tests.support.programs import answers, free_ports, require, run, without_preload
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external

EXAMPLE = Path("examples/gateway-tier").resolve()
CLIENTS = 4


@dataclass
class Tier:
    directory: Path
    port: int

    def gateways_up(self) -> list[str]:
        """The addresses of those that get sessions, by what l4lb's status says."""
        try:
            with Client(f"unix:{self.directory}/admin.sock") as client:
                (pool,) = client.pools.values()
                backends = pool.status["backends"]
        except AdminError:  # it has only begun to start
            return []
        return [one["address"] for one in backends if one["health"] == "up"]

    def log(self, number: int) -> str:
        return (self.directory / f"gateway-{number}" / "access.log").read_text()


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[Tier]:
    for program in ("nginx", "openssl"):
        require(program)
    port = free_ports(4)
    environment = without_preload() | {"L4LB": f"{sys.executable} -m l4lb"}
    command = [str(EXAMPLE / "run.sh"), str(tmp_path / "tier"), str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    made = Tier(tmp_path / "tier", port)
    try:
        assert wait_until(lambda: answers(port) or process.poll() is not None, 30)
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert wait_until(lambda: len(made.gateways_up()) == 3, 30), (tmp_path / "log").read_text()
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert wait_until(lambda: not answers(port), 20)


@dataclass
class Load:
    """Clients that ask again and again, each time in a session of its own. `failed` are the times at which those
    requests began that were not answered."""

    tier: Tier
    answered: int = 0
    failed: list[float] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def _ask(self, context: ssl.SSLContext) -> None:
        began = time.monotonic()
        try:
            with socket.create_connection(("127.0.0.1", self.tier.port), timeout=20) as plain:
                self.ports.append(plain.getsockname()[1])
                with context.wrap_socket(plain, server_hostname="api.example") as sock:
                    sock.sendall(b"GET /users/7 HTTP/1.0\r\nHost: api.example\r\n\r\n")
                    answer = b""
                    while piece := sock.recv(4096):
                        answer += piece
            assert b" 200 OK" in answer
            assert b"users, for 127.0.0.1 by gateway-" in answer
            self.answered += 1
        except (OSError, AssertionError):
            self.failed.append(began)

    def _run(self) -> None:
        context = ssl.create_default_context(cafile=str(self.tier.directory / "certificate.pem"))
        while not self._stop.is_set():
            self._ask(context)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(30)


def test_as_the_readme_says(tier: Tier) -> None:
    curl = ["curl", "-s", "--cacert", str(tier.directory / "certificate.pem")]
    curl += ["--resolve", f"api.example:{tier.port}:127.0.0.1", "-w", "%{local_port}"]
    for path, service in (("/orders/17", "orders"), ("/users/7", "users")):
        said = run(*curl, f"https://api.example:{tier.port}{path}")
        found = re.fullmatch(rf"{service}, for 127\.0\.0\.1 by gateway-(\d)\n(\d+)", said)
        assert found is not None, said
        line = f"127.0.0.1:{found[2]} GET {path} 200\n"
        assert wait_until(lambda found=found, line=line: line in tier.log(int(found[1])))


def test_one_gateway_is_killed_under_load(tier: Tier) -> None:
    """What it was answering is lost with it; nothing is after l4lb has found it down."""
    load = Load(tier)
    with load.running():
        assert wait_until(lambda: load.answered >= 50, 30), load
        assert load.failed == []
        os.kill(int((tier.directory / "gateway-2" / "nginx.pid").read_text()), signal.SIGKILL)
        assert wait_until(lambda: len(tier.gateways_up()) == 2, 30)
        detected, answered = time.monotonic(), load.answered
        assert wait_until(lambda: load.answered >= answered + 100, 30), load
    assert [began for began in load.failed if began > detected] == []
    assert len(load.failed) <= CLIENTS  # each had one request on its way
    assert f"127.0.0.1:{tier.port + 2}" not in tier.gateways_up()
    logged = {
        int(port) for number in (1, 3) for port in re.findall(r"^127\.0\.0\.1:(\d+) ", tier.log(number), re.MULTILINE)
    }
    assert set(load.ports[-50:]) <= logged  # each gateway knows its clients by their own addresses
