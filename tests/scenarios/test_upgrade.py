"""SIGHUP and SIGUSR2 of `l4lb serve`: what a client notices of them, which is nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from l4lb import Client
from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, free_port, l4lb
from tests.support.waiting import wait_until

FILE = """
[global]
workers = {workers}
drain_timeout = "20s"
[listeners.web]
bind = ["127.0.0.1:{port}", "unix:{directory}/web.sock"]
pool = "web"
[pools.web]
backends = [{backends}]
[pools.web.health]
interval = "200ms"
"""


class Clients:
    """Two threads that connect, ask and are answered, one session after the other, over TCP and a unix socket."""

    def __init__(self, addresses: list[str]) -> None:
        self.answers = 0
        self.failed: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(address,)) for address in addresses]
        for thread in self._threads:
            thread.start()

    def _ask(self, address: str) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            text = f"{address} {number}".encode()
            try:
                with connect(address) as sock:
                    sock.sendall(text)
                    assert sock.recv(100) == text
            except Exception as error:
                self.failed.append(error)
            self.answers += 1

    def wait_for_more(self, count: int = 20) -> None:
        wanted = self.answers + count
        assert wait_until(lambda: self.answers >= wanted or self.failed)
        assert self.failed == []

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def clients(addresses: list[str]) -> Iterator[Clients]:
    running = Clients(addresses)
    try:
        yield running
    finally:
        running.stop()


def write(file: Path, port: int, backends: list[str], workers: int = 2) -> None:
    listed = ", ".join(f'"{address}"' for address in backends)
    file.write_text(FILE.format(port=port, directory=file.parent, backends=listed, workers=workers))


def pid_of(admin: str) -> int:
    with Client(admin) as client:
        return int(client.status()["pid"])


_BEGAN: dict[int, str] = {}  # of processes that took over: when, since a number is another's some time after its end


def _began(pid: int) -> str:
    """proc(5), stat: starttime. Empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return ""


def end(pid: int) -> None:
    """Kill a process that `upgraded` has told of, if it is there still."""
    with contextlib.suppress(ProcessLookupError):
        if _BEGAN.get(pid, _began(pid)) == _began(pid) != "":
            os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Ended: not there, or a zombie that its parent has not asked after."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # before, or while it is read
        return True


def upgraded(process: L4lb, old: int, admin: str) -> int:
    """Upgrade the process `old`; the new one's pid once it alone answers."""
    os.kill(old, signal.SIGUSR2)
    assert wait_until(lambda: pid_of(admin) != old), process.log
    new = next(pid for pid in iter(lambda: pid_of(admin), -1) if pid != old)
    _BEGAN[new] = _began(new)
    process.wait_for(rf"upgraded pid={new}\n(.*\n)*.*draining sessions=")  # and the old one does not
    return new


def test_sighup_reloads_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    file, port = tmp_path / "lb.toml", free_port()
    with serving(echo) as one, serving(echo) as two:
        write(file, port, [one.address])
        admin = f"unix:{tmp_path}/admin.sock"
        with l4lb("serve", "-c", str(file), "--admin", admin) as process, contextlib.ExitStack() as stack:
            process.wait_for("backend up")
            running = stack.enter_context(clients([f"127.0.0.1:{port}", f"unix:{tmp_path}/web.sock"]))
            write(file, port, [one.address, two.address])
            process.signal(signal.SIGHUP)
            process.wait_for("reloaded")
            process.wait_for(f"backend up .*{two.address}")
            file.write_text("[pools.web]\npolicy = 'magelv'\n")
            process.signal(signal.SIGHUP)
            process.wait_for(rf"reload failed reason=\"{re.escape(str(file))}:2: pools.web.policy: .*did you mean")
            process.wait_for("reload failed .*listeners: no listener")
            with Client(admin) as client:
                assert len(client.pool("web")["backends"]) == 2
            running.wait_for_more()
            running.stop()
            process.signal(signal.SIGTERM)
            assert process.wait() == 0


def test_upgrades_lose_no_connection_and_keep_what_was_known(tmp_path: Path) -> None:
    file, port = tmp_path / "lb.toml", free_port()
    admin, address = f"unix:{tmp_path}/admin.sock", f"127.0.0.1:{port}"
    with serving(echo) as one, serving(echo) as two, contextlib.ExitStack() as stack:
        write(file, port, [one.address])
        process = stack.enter_context(l4lb("serve", "-c", str(file), "--admin", admin))
        process.wait_for("backend up")
        pids = [process.process.pid]
        running = stack.enter_context(clients([address, f"unix:{tmp_path}/web.sock"]))
        long = stack.enter_context(connect(address))
        long.sendall(b"first")
        assert long.recv(100) == b"first"
        for workers in (1, 3, 2):
            write(file, port, [one.address, two.address], workers)
            pids.append(upgraded(process, pids[-1], admin))
            stack.callback(end, pids[-1])
            running.wait_for_more()
            with Client(admin) as client:
                status = client.status()
                assert len(status["workers"]) == workers
                assert status["state"] == "running"
            long.sendall(b"of the first process")
            assert long.recv(100) == b"of the first process"
        assert wait_until(lambda: all(gone(pid) for pid in pids[:-1])), "their sessions have moved"
        assert process.wait() == 0
        long.close()
        running.stop()
        assert running.failed == []
        os.kill(pids[-1], signal.SIGTERM)
        assert wait_until(lambda: gone(pids[-1]))
        assert not (tmp_path / "web.sock").exists()
        assert not (tmp_path / "admin.sock").exists()


def test_a_new_process_that_cannot_start_leaves_everything_as_it_was(tmp_path: Path) -> None:
    file, port = tmp_path / "lb.toml", free_port()
    admin = f"unix:{tmp_path}/admin.sock"
    with serving(echo) as one, contextlib.ExitStack() as stack:
        write(file, port, [one.address])
        process = stack.enter_context(l4lb("serve", "-c", str(file), "--admin", admin))
        process.wait_for("backend up")
        running = stack.enter_context(clients([f"127.0.0.1:{port}", f"unix:{tmp_path}/web.sock"]))
        file.write_text("[pools.web]\npolicy = 'magelv'\n")
        process.signal(signal.SIGUSR2)
        process.wait_for("upgrade failed reason=.*could not start.*did you mean")
        running.wait_for_more()
        assert pid_of(admin) == process.process.pid
        assert (tmp_path / "web.sock").exists()
        running.stop()
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
