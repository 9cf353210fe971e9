"""`l4lb serve` under a service manager: what it is told, and what it must not be told. The manager's side is a socket
of the test's; systemd itself needs to be process 1."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from l4lb import Client
from tests.scenarios.test_upgrade import end, gone, upgraded, write
from tests.support.managing import Manager, managing
from tests.support.peers import connect, echo, serving
from tests.support.programs import answers, free_port, l4lb, require
from tests.support.tracing import standing_still, threads_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external


def asked(address: str) -> bytes:
    with connect(address) as sock:
        sock.sendall(b"?")
        return sock.recv(100)


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_reloading_and_stopping(abstract: bool, tmp_path: Path) -> None:
    file, port = tmp_path / "lb.toml", free_port()
    with serving(echo) as one, managing(tmp_path, abstract=abstract) as manager:
        write(file, port, [one.address])
        with l4lb("serve", "-c", str(file), environment=manager.environment()) as process:
            ready = manager.wait_for("READY")
            assert asked(f"127.0.0.1:{port}") == b"?", "ready means that it accepts"
            assert (ready.pid, ready.fields["MAINPID"]) == (process.process.pid, str(process.process.pid))
            assert ready.fields["STATUS"].startswith("running, 1 listeners, ")
            manager.wait_for("STATUS", "running, 1 listeners, 1 of 1 backends usable")
            before = time.clock_gettime(time.CLOCK_MONOTONIC)
            process.signal(signal.SIGHUP)
            reloading = manager.wait_for("RELOADING")
            assert int(reloading.fields["MONOTONIC_USEC"]) / 1e6 >= before
            manager.wait_for("READY", count=2)
            file.write_text("wrong = true\n")
            process.signal(signal.SIGHUP)
            manager.wait_for("READY", count=3)
            assert process.wait_for("reload failed")
            assert [key for one in manager.told for key in one.fields if key in ("READY", "RELOADING")] == [
                *["READY", "RELOADING"] * 2,
                "READY",
            ]
            with connect(f"127.0.0.1:{port}") as long:
                long.sendall(b"?")
                assert long.recv(10) == b"?"
                process.signal(signal.SIGTERM)
                stopping = manager.wait_for("STOPPING")
                assert int(stopping.fields["EXTEND_TIMEOUT_USEC"]) > 20_000_000, "longer than drain_timeout"
                manager.wait_for("STATUS", "draining, 1 sessions left")
            assert process.wait() == 0
    assert manager.count("WATCHDOG") == 0, "nobody asked for signs of life"


def test_one_that_cannot_start_is_never_ready(tmp_path: Path) -> None:
    with managing(tmp_path) as manager, socket.create_server(("127.0.0.1", 0)) as taken:
        flags = ("--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--backend", "127.0.0.1:1")
        with l4lb("serve", *flags, environment=manager.environment()) as process:
            assert process.wait() == 2
    assert manager.told == []


@pytest.mark.parametrize("thread", ["l4lb-worker-1", "l4lb-control"])
def test_signs_of_life_end_when_a_thread_hangs_and_come_again(thread: str, tmp_path: Path) -> None:
    with serving(echo) as one, managing(tmp_path) as manager:
        flags = ("--listen", "127.0.0.1:0", "--backend", one.address, "--workers", "2")
        with l4lb("serve", *flags, environment=manager.environment(0.8)) as process:
            manager.wait_for("WATCHDOG", count=3)
            with standing_still(threads_of(process.process.pid)[thread]):
                assert wait_until(lambda: _quiet(manager, 1.2), 20)
                if thread != "l4lb-control":
                    process.wait_for("workers stuck workers=1 reason=")
            manager.wait_for("WATCHDOG", count=manager.count("WATCHDOG") + 3)
            assert process.log.count("workers stuck") == (thread != "l4lb-control")


def _quiet(manager: Manager, seconds: float) -> bool:
    """Whether for that long no sign of life comes: to see that nothing happens takes time."""
    before = manager.count("WATCHDOG")
    return not wait_until(lambda: manager.count("WATCHDOG") > before, seconds)


def test_signs_of_life_come_at_half_of_the_time(tmp_path: Path) -> None:
    with serving(echo) as one, managing(tmp_path) as manager:
        flags = ("--listen", "127.0.0.1:0", "--backend", one.address)
        with l4lb("serve", *flags, environment=manager.environment(1.0)):
            started = time.monotonic()
            manager.wait_for("WATCHDOG", count=5)
            assert 1.8 < time.monotonic() - started < 10, "four halves of a second, and not at every look"


def test_after_an_upgrade_the_new_process_is_watched(tmp_path: Path) -> None:
    file, port, admin = tmp_path / "lb.toml", free_port(), f"unix:{tmp_path}/admin.sock"
    with serving(echo) as one, managing(tmp_path) as manager, contextlib.ExitStack() as stack:
        write(file, port, [one.address])
        environment = manager.environment(2.0)
        process = stack.enter_context(l4lb("serve", "-c", str(file), "--admin", admin, environment=environment))
        old = process.process.pid
        manager.wait_for("WATCHDOG")
        with connect(f"127.0.0.1:{port}") as long:
            long.sendall(b"?")
            assert long.recv(10) == b"?"
            new = upgraded(process, old, admin)
            stack.callback(end, new)
            ready = manager.wait_for("READY", pid=new)
            assert ready.fields["MAINPID"] == str(new)
            manager.wait_for("WATCHDOG", pid=new, count=2)
            told = list(manager.told)
            handing = next(at for at, said in enumerate(told) if said.fields.get("MAINPID") == str(new))
            assert told[handing].pid == old, "the old one, whom the manager believes, says who is next"
            assert {said.pid for said in told[:handing]} == {old}
            assert {said.pid for said in told[handing + 1 :]} == {new}, "the old one's drain is not the service's end"
        assert process.wait() == 0
        assert manager.count("STOPPING") == 0
        os.kill(new, signal.SIGTERM)
        manager.wait_for("STOPPING", pid=new)
        assert wait_until(lambda: gone(new), 20)


def test_an_upgrade_that_fails_changes_nothing_for_the_manager(tmp_path: Path) -> None:
    file, port = tmp_path / "lb.toml", free_port()
    with serving(echo) as one, managing(tmp_path) as manager:
        write(file, port, [one.address])
        with l4lb("serve", "-c", str(file), environment=manager.environment(1.0)) as process:
            manager.wait_for("WATCHDOG")
            file.write_text("wrong = true\n")
            process.signal(signal.SIGUSR2)
            process.wait_for("upgrade failed")
            manager.wait_for("WATCHDOG", count=manager.count("WATCHDOG") + 2)
            assert {said.pid for said in manager.told} == {process.process.pid}
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
            assert manager.count("STOPPING") == 1


ACTIVATED = """
[admin]
bind = "off"
[listeners.web]
bind = "fd:web"
pool = "web"
[listeners.other]
bind = "fd:other"
pool = "web"
[pools.web]
backends = ["{backend}"]
"""


def test_started_by_systemds_own_socket_activation(tmp_path: Path) -> None:
    file, port, path = tmp_path / "lb.toml", free_port(), tmp_path / "other.sock"
    with serving(echo) as one:
        file.write_text(ACTIVATED.format(backend=one.address))
        command = [require("systemd-socket-activate"), f"--listen=127.0.0.1:{port}", f"--listen={path}"]
        command += ["--fdname=web:other", "--setenv=PATH", sys.executable, "-m", "l4lb", "serve", "-c", str(file)]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(command, stderr=log, env=dict(os.environ))
        try:
            assert wait_until(path.exists)
            assert asked(f"127.0.0.1:{port}") == b"?", "the first connection starts it, and is served"
            assert asked(f"unix:{path}") == b"?"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert path.exists(), "the file is its maker's"
        finally:
            process.kill()
            process.wait()


def test_sockets_of_one_name_must_be_of_one_address(tmp_path: Path) -> None:
    file, ports = tmp_path / "lb.toml", [free_port(), free_port()]
    file.write_text(ACTIVATED.format(backend="127.0.0.1:1").replace("fd:other", "127.0.0.1:0"))
    command = [require("systemd-socket-activate"), *(f"--listen=127.0.0.1:{port}" for port in ports)]
    command += ["--fdname=web:web", "--setenv=PATH", sys.executable, "-m", "l4lb", "serve", "-c", str(file)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, env=dict(os.environ))
    try:
        assert wait_until(lambda: answers(ports[0]))
        assert process.wait(20) == 2
    finally:
        process.kill()
        process.wait()
    expected = f"fd:web: cannot listen: 2 sockets of that name, at 127.0.0.1:{ports[0]} and 127.0.0.1:{ports[1]}"
    assert expected in (tmp_path / "log").read_text()


def test_the_admin_socket_is_where_the_manager_made_a_directory(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    environment = {"RUNTIME_DIRECTORY": f"{tmp_path}/run:/elsewhere"}
    arguments = ("serve", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1")
    with l4lb(*arguments, environment=environment, admin=True) as process:
        process.wait_for(f"admin listening address=unix:{tmp_path}/run/admin.sock")
        with Client(f"unix:{tmp_path}/run/admin.sock") as client:
            assert client.status()["pid"] == process.process.pid
