"""Real programs from Debian, and `l4lb` itself as a process. Each is ended by its own pid."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import forking
from tests.support.waiting import hang, wait_until


def require(program: str) -> str:
    """The path of `program`; without it the test is skipped with the reason, and fails in CI."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is missing in CI: it belongs to `make deps`")
        pytest.skip(f"{program} is not installed (see `make deps`)")
    return path


def without_preload() -> dict[str, str]:
    """The environment for programs that are not built with the sanitizers, which `make asan` preloads."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def run(*command: str, stdin: str = "", timeout_s: float = 60.0) -> str:
    """What a program of Debian's prints; fails when it does, with what it said. Ctrl-C in the terminal is not for it:
    it may be part of cleaning up."""
    words, environment = [require(command[0]), *command[1:]], without_preload()
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=timeout_s, process_group=0, input=stdin or None
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def share_of(ports: range) -> range:
    """Those of `ports` that this process may take, where several run tests side by side (pytest-xdist): between the
    look and the program that binds a port, no other takes it."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    number %= count  # a worker that replaces one that crashed gets the next number
    size = len(ports) // count
    return ports[number * size : (number + 1) * size]


_given: collections.deque[int] = collections.deque(maxlen=500)  # what they are for may not be bound yet


def free_port() -> int:
    """Below the kernel's own range, so that no other test's connection takes it before the program binds it."""
    ports = share_of(range(10_000, 20_000))
    for port in random.sample(ports, len(ports)):
        if port not in _given:
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                _given.append(port)
                return port
    raise AssertionError("no free port")


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free on 127.0.0.1 and 127.0.0.2, below the kernel's own range."""
    for first in share_of(range(20_000, 30_000))[::count]:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                for port in range(first, first + count):
                    for host in ("127.0.0.1", "127.0.0.2"):
                        stack.enter_context(socket.create_server((host, port)))
                return first
    raise AssertionError("no free ports")


def answers(port: int, host: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


NGINX = """
daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type text/plain; keepalive_requests 1000000;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d;
  scgi_temp_path {dir}/e;
  server {{ listen 127.0.0.1:{port} backlog=4096{options}; location / {{ return 200 "{name}\\n"; }} }}
}}
"""


class Nginx:
    """A real nginx that answers every request with its name. `options` are more of nginx's for the listening socket."""

    def __init__(self, name: str, port: int = 0, options: str = "") -> None:
        self.name = name
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._dir = Path(tempfile.mkdtemp(prefix="l4lb-nginx-"))
        (self._dir / "conf").write_text(NGINX.format(dir=self._dir, port=self.port, name=name, options=options))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Nginx:
        program = require("nginx")
        command = [program, "-p", str(self._dir), "-c", str(self._dir / "conf"), "-e", str(self._dir / "error.log")]
        self._process = subprocess.Popen(command, env=without_preload())
        assert wait_until(lambda: answers(self.port)), (self._dir / "error.log").read_text()
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self._dir, ignore_errors=True)


@contextlib.contextmanager
def nginx(name: str, options: str = "") -> Iterator[Nginx]:
    server = Nginx(name, options=options)
    try:
        yield server.start()
    finally:
        server.stop()


@contextlib.contextmanager
def program(name: str, arguments: list[str], ready_port: int, log: Path) -> Iterator[None]:
    """A server of Debian's that runs in the foreground, once it accepts on `ready_port`; `log` gets what it says."""
    command = [require(name), *arguments]
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=without_preload(), stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: answers(ready_port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.kill()
        process.wait()


class L4lb:
    """`l4lb` as users start it: a process, its log, its memory. `within` is a command that starts commands."""

    def __init__(
        self,
        *arguments: str,
        max_files: int = 0,
        environment: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
        network: str = "",
        module: str = "l4lb",
        fresh: bool = False,
    ) -> None:
        """`environment` is added to the test's own; `network` names a network namespace to run in; `within` is a
        command that starts the one after it; `module` one that is run in l4lb's place; `fresh` starts an interpreter,
        as each of these three does, and all but a network namespace: see `tests.support.forking`."""
        self._arguments = arguments
        # Appended to: the process shares the file's position, which every look at the log moves.
        self._log = tempfile.TemporaryFile("a+")  # noqa: SIM115  # closed in `stop`
        self.process: subprocess.Popen[str] | forking.Forked
        plain = not (fresh or max_files or within or module != "l4lb")
        if plain and forking.takes(environment):
            self.process = forking.start(arguments, self._log.fileno(), environment, network=network)
            return
        command = [sys.executable, "-m", module, *arguments]
        if network:
            within = [require("ip"), "netns", "exec", network, *within]
        if max_files:
            command = ["sh", "-c", f'ulimit -n {max_files} && exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            [*within, *command],
            stderr=self._log,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    @property
    def log(self) -> str:
        """Read without moving the file's position, which is the writers' too."""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode()

    def wait_for(self, pattern: str, timeout_s: float = 60.0) -> re.Match[str]:
        """The first match of `pattern` in the log. A process that ended well may have one that goes on in its place
        and writes there."""
        found = wait_until(lambda: re.search(pattern, self.log) or self.process.poll(), timeout_s)
        match = re.search(pattern, self.log)
        assert found, self.log
        assert match is not None, self.log
        return match

    def address(self, listener: str = "default") -> tuple[str, int]:
        match = self.wait_for(rf"listening listener={listener} address=(\S+):(\d+)")
        return match[1], int(match[2])

    def memory_bytes(self) -> int:
        """Memory of the process's own: what it does not share with others."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return sum(int(count) for count in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE)) * 1024

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def hang(self) -> None:
        """Until SIGCONT, as a hung host looks."""
        hang(self.process.pid)

    def wait(self, timeout_s: float = 60.0) -> int:
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for pid in re.findall(r" upgraded pid=(\d+)", self.log):  # still there when its test has failed
            signal_to(int(pid), signal.SIGKILL, "\0".join(self._arguments))
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self._log.close()


@contextlib.contextmanager
def l4lb(
    *arguments: str,
    max_files: int = 0,
    environment: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
    network: str = "",
    admin: bool = False,
    module: str = "l4lb",
    fresh: bool = False,
) -> Iterator[L4lb]:
    """A running `l4lb`; without an admin API unless `arguments` ask for one, or `admin` for the default."""
    extra = () if admin or "--admin" in arguments or arguments[0] != "serve" else ("--admin", "off")
    options: dict[str, Any] = {"max_files": max_files, "environment": environment, "within": within, "network": network}
    process = L4lb(*arguments, *extra, **options, module=module, fresh=fresh)
    try:
        yield process
    finally:
        process.stop()


def signal_to(pid: int, number: signal.Signals, mark: str) -> bool:
    """To a process that was not started here, such as one that took over, if it is the one whose command line has
    `mark`: once it has ended, its number may be that of a process of somebody else. Whether it was there."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, number)
            return True
    return False
