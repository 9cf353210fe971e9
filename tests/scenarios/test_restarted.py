"""`systemctl restart l4lb`, with systemd itself: the unit of contrib/systemd, and sessions that go through it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fleet
from tests.support.datagrams import UdpClient, serving_udp
from tests.support.etcd import etcd
from tests.support.peers import connect, echo, read_exactly, read_until_end, serving
from tests.support.programs import free_port
from tests.support.systemd import Systemd, booted
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external

UNIT = Path("contrib/systemd/l4lb.service").read_text()
SESSIONS = 2000 if os.environ.get("L4LB_SOAK") else 100
FILE = """
[global]
workers = 2
drain_timeout = "2s"
[listeners.web]
bind = ["127.0.0.1:{port}", "unix:/run/l4lb/web.sock"]
pool = "web"
[listeners.dns]
bind = "127.0.0.1:{udp}"
protocol = "udp"
pool = "dns"
[pools.web]
backends = ["{backend}"]
health = {{ type = "none" }}
[pools.dns]
backends = ["{server}"]
health = {{ type = "none" }}
"""
BUS = {
    "dbus.socket": """
[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/dbus/system_bus_socket
""",
    "dbus.service": """
[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile
""",
}


class Service:
    """l4lb as a service of `systemd`."""

    def __init__(self, systemd: Systemd, directory: Path, ports: tuple[int, int]) -> None:
        self.systemd = systemd
        self.file = directory / "lb.toml"
        self.address = f"127.0.0.1:{ports[0]}"
        self.udp = ("127.0.0.1", ports[1])
        self._log = directory / "l4lb.log"

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> str:
        return self.shows("MainPID")

    def shows(self, name: str) -> str:
        return self.systemd.shows("l4lb.service", name)

    def restart(self) -> None:
        before = self.pid
        self.systemd.run("systemctl", "restart", "l4lb.service")
        assert self.pid != before
        assert self.systemd.is_active("l4lb.service")


@contextlib.contextmanager
def serving_by_systemd(tmp_path: Path, **changes: str) -> Iterator[Service]:
    """By the unit of contrib/systemd, but for its program, its file, and these settings."""
    ports = free_port(), free_port()
    file, program = tmp_path / "lb.toml", Path(sys.executable).with_name("l4lb")
    text = UNIT.replace("/etc/l4lb/lb.toml", str(file))
    text = re.sub(r"^(Exec\w+)=l4lb ", rf"\1={program} ", text, flags=re.MULTILINE)
    text = re.sub(r"^(Wants|After)=.*", r"\1=dbus.service", text, flags=re.MULTILINE)
    text = text.replace("[Service]", f"DefaultDependencies=no\n[Service]\nStandardError=append:{tmp_path}/l4lb.log")
    # The file is in /tmp, and a Python of root's home may run the test.
    for name, value in {"PrivateTmp": "no", "ProtectHome": "no", "DynamicUser": "no", **changes}.items():
        text, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1
    with serving(echo) as backend, serving_udp() as server:
        file.write_text(FILE.format(port=ports[0], udp=ports[1], backend=backend.address, server=server.address))
        with booted(tmp_path, {"l4lb.service": text, **BUS}, "l4lb.service") as systemd:
            assert wait_until(lambda: systemd.is_active("l4lb.service"), 30), systemd.log
            yield Service(systemd, tmp_path, ports)


def answered(sock: socket.socket, text: bytes) -> bool:
    sock.sendall(text)
    return read_exactly(sock, len(text)) == text


class Transfer:
    """Sends numbers as long as it may, and keeps what comes back."""

    def __init__(self, address: str) -> None:
        self._sock = connect(address)
        self._stop = threading.Event()
        self._sent = 0
        self._got = bytearray()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def __enter__(self) -> Transfer:
        for thread in self._threads:
            thread.start()
        return self

    def _send(self) -> None:
        while not self._stop.is_set():
            self._sock.sendall(struct.pack("!1000Q", *range(self._sent, self._sent + 1000)))
            self._sent += 1000
            time.sleep(0.001)
        self._sock.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        while data := self._sock.recv(1 << 16):
            self._got += data

    def end(self) -> int:
        """How many numbers were sent; all came back, in order."""
        self.__exit__()
        assert bytes(self._got) == struct.pack(f"!{self._sent}Q", *range(self._sent))
        return self._sent

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._sock.close()


class Comers:
    """One client after the other."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self._answers: list[object] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Comers:
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with connect(self._address) as sock:
                    self._answers.append(answered(sock, b"new"))
            except OSError as error:
                self._answers.append(str(error))
            time.sleep(0.01)

    def end(self) -> int:
        """How many there were; each was answered."""
        self.__exit__()
        assert set(self._answers) == {True}
        return len(self._answers)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_sessions_go_on_and_nobody_is_refused(tmp_path: Path) -> None:
    """Also a transfer under way, and clients that come while no process runs: they wait."""
    with serving_by_systemd(tmp_path) as service, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(service.address)) for _ in range(SESSIONS)]
        client = stack.enter_context(UdpClient(service.udp))
        assert client.ask(b"one") == b"one"
        transfer = stack.enter_context(Transfer(service.address))
        comers = stack.enter_context(Comers(service.address))
        for turn in range(3):
            for number, sock in enumerate(socks):
                sock.sendall(b"%8d" % (number + turn))
            service.restart()
            assert all(read_exactly(sock, 8) == b"%8d" % (number + turn) for number, sock in enumerate(socks))
            assert client.ask(b"two") == b"two"
            assert wait_until(lambda: service.shows("NFileDescriptorStore") == "0")
        assert transfer.end() > 0
        assert comers.end() > 3
        assert service.log.count("sessions kept") == service.log.count("sessions moved") == 3
        assert "ended=0" in service.log


def test_what_is_not_kept_drains(tmp_path: Path) -> None:
    """At a restart after which no process would run; and at a stop."""
    with serving_by_systemd(tmp_path) as service:
        good = service.file.read_text()
        with connect(service.address) as sock:
            assert answered(sock, b"hello")
            service.file.write_text(good + "wrong = 1\n")
            service.systemd.run("systemctl", "restart", "l4lb.service", check=False)
            assert read_until_end(sock) == (b"", True)  # after drain_timeout
        assert re.search(r"sessions not kept sessions=1 reason=.*wrong", service.log), service.log
        service.file.write_text(good)
        service.systemd.run("systemctl", "reset-failed", "l4lb.service")
        service.systemd.run("systemctl", "start", "l4lb.service")
        with connect(service.address) as sock:
            assert answered(sock, b"hello")
            service.systemd.run("systemctl", "stop", "l4lb.service")
            assert read_until_end(sock) == (b"", True)
        assert "sessions kept" not in service.log


def test_a_node_of_a_fleet_stays_registered(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("l4lb")
    with etcd() as server:
        fleet.put_config(server, fleet.config_text())
        start = f"{program} serve -c {fleet.url(server)} --node a"
        with serving_by_systemd(tmp_path, ExecStart=start) as service:
            assert wait_until(lambda: fleet.created(server, "a"))
            made = fleet.created(server, "a")
            service.restart()
            pid = service.pid
            assert wait_until(lambda: f'"pid":{pid},' in server.ctl("get", f"{fleet.PREFIX}/nodes/a"))
            assert fleet.created(server, "a") == made
            assert service.log.count("sessions kept") == 1


def test_a_unit_that_keeps_nothing(tmp_path: Path) -> None:
    with serving_by_systemd(tmp_path, FileDescriptorStoreMax="0") as service, connect(service.address) as sock:
        assert answered(sock, b"hello")
        service.restart()
        assert read_until_end(sock) == (b"", True)
        assert "kept" not in service.log


PROBE = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
from l4lb.net.systemd.service_manager import restarts_and_keeps
open("{directory}/up", "w").close()
signal.sigwait([signal.SIGTERM])
with open("{directory}/said", "a") as file:
    print(os.getuid() != 0, restarts_and_keeps(), file=file)
"""


def test_a_service_without_privileges_is_told_by_the_bus(tmp_path: Path) -> None:
    """As the unit runs it: a user of its own, who may ask systemd only over D-Bus."""
    with tempfile.TemporaryDirectory(prefix="l4lb-probe-", dir="/var/tmp") as name:
        directory = Path(name)
        for part in ("net", "model"):
            shutil.copytree(f"l4lb/{part}", directory / "l4lb" / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy("l4lb/errors.py", directory / "l4lb")
        (directory / "probe.py").write_text(PROBE.format(directory=directory))
        for made in [directory, *directory.rglob("*")]:
            made.chmod(0o777)
        keys = "User=nobody\nFileDescriptorStoreMax=2\nNotifyAccess=main\n"
        unit = f"[Unit]\nDefaultDependencies=no\nAfter=dbus.service\nWants=dbus.service\n[Service]\n{keys}"
        unit += f"ExecStart=/usr/bin/python3 {directory}/probe.py\nStandardError=append:{tmp_path}/probe.log\n"
        up = directory / "up"
        with booted(tmp_path, {"probe.service": unit, **BUS}, "probe.service") as systemd:
            assert wait_until(up.exists, 30), systemd.log
            up.unlink()
            systemd.run("systemctl", "restart", "probe.service")
            assert wait_until(up.exists, 30), (tmp_path / "probe.log").read_text()
            systemd.run("systemctl", "stop", "probe.service")
            assert (directory / "said").read_text().splitlines() == ["True True", "True False"]
