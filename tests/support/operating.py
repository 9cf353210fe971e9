"""What the tests of examples/ops need: backends that an operator's commands start and stop, visitors, and the scripts
run as programs."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from l4lb import Client
from tests.support.programs import L4lb, answers, free_port, l4lb, require, signal_to, without_preload
from tests.support.waiting import wait_until

SCRIPTS = Path("examples/ops").absolute()
SCRIPT_WITHIN_S = 90.0

# ---- backends ----

NGINX = """
daemon on; master_process off; pid {dir}/{port}.pid; error_log {dir}/{port}.log;
events {{ worker_connections 512; }}
http {{
  access_log off; default_type text/plain;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d;
  scgi_temp_path {dir}/e;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{port}\\n"; }} }}
}}
"""
COMMANDS = """
cd {dir}
start() {{ {nginx} -p {dir} -c {dir}/$1.conf -e {dir}/$1.log; }}
stop() {{ {nginx} -p {dir} -c {dir}/$1.conf -e {dir}/$1.log -s stop && while [ -e $1.pid ]; do sleep 0.02; done; }}
case $1 in
  start) start $2 ;;
  stop) stop $2 ;;
  restart) stop $2; [ -e $2.crashes ] || start $2 ;;
  kill) kill -KILL $(cat $2.pid) ;;
  hang) kill -STOP $(cat $2.pid) ;;
  wake) kill -CONT $(cat $2.pid) ;;
  new) port=$(head -n 1 ports); sed -i 1d ports; start $port && echo 127.0.0.1:$port ;;
esac
"""


class Site:
    """nginx on several ports, each a daemon of its own. `command` is what an operator would type."""

    def __init__(self, directory: Path, count: int, spare: int = 0) -> None:
        nginx = require("nginx")
        self.directory = directory
        self._ports = sorted(free_port() for _ in range(count + spare))  # as the pool has them
        for port in self._ports:
            (directory / f"{port}.conf").write_text(NGINX.format(dir=directory, port=port))
        (directory / "ports").write_text("".join(f"{port}\n" for port in self._ports[count:]))
        (directory / "backend").write_text(COMMANDS.format(dir=directory, nginx=nginx))
        self.addresses = [f"127.0.0.1:{port}" for port in self._ports[:count]]
        self.spare = [f"127.0.0.1:{port}" for port in self._ports[count:]]

    def command(self, verb: str) -> str:
        return f"/bin/sh {self.directory}/backend {verb} {{port}}"

    def do(self, verb: str, address: str) -> None:
        port = address.rpartition(":")[2]
        command = self.command(verb).replace("{port}", port).split()
        subprocess.run(command, check=True, timeout=60, env=without_preload(), stdin=subprocess.DEVNULL)
        if verb == "start":
            assert wait_until(lambda: answers(int(port)))

    def crashes_when_started(self, address: str) -> None:
        (self.directory / f"{address.rpartition(':')[2]}.crashes").touch()

    def is_running(self, address: str) -> bool:
        return answers(int(address.rpartition(":")[2]))

    def pid(self, address: str) -> str:
        return (self.directory / f"{address.rpartition(':')[2]}.pid").read_text()

    def kill(self) -> None:
        for file in self.directory.glob("*.pid"):
            if text := file.read_text().strip():
                signal_to(int(text), signal.SIGKILL, str(self.directory))


@contextlib.contextmanager
def site(directory: Path, count: int, spare: int = 0) -> Iterator[Site]:
    made = Site(directory, count, spare)
    try:
        for address in made.addresses:
            made.do("start", address)
        yield made
    finally:
        made.kill()


# ---- the balancer ----

POOL = """
[pools.{name}]
backends = [{backends}]
connect_timeout = "5s"
[pools.{name}.health]
type = "{check}"
interval = "100ms"
fast_interval = "100ms"
down_interval = "100ms"
timeout = "5s"
fall = 1
rise = 1
[pools.{name}.passive]
failures = 0
"""


class Balancer:
    """`l4lb serve`, its file, and a client of its admin API."""

    def __init__(self, process: L4lb, client: Client, file: Path) -> None:
        self.client = client
        self.file = file
        self.address = process.address()

    def admin_states(self, pool: str = "web") -> dict[str, str]:
        return {one["id"]: one["admin_state"] for one in self.client.pool(pool)["backends"]}

    def backend(self, address: str, pool: str = "web") -> Any:
        return self.client.pools[pool][address].status


@contextlib.contextmanager
def balancer(directory: Path, pools: dict[str, list[str]], check: str = "http") -> Iterator[Balancer]:
    """A listener `default` that sends clients to the first of the pools, once all backends are up. A backend is an
    address, or a table."""
    text = f'# kept as it is\n[listeners.default]\nbind = "127.0.0.1:0"\npool = "{next(iter(pools))}"  # from here on\n'
    for name, backends in pools.items():
        listed = ", ".join(one if one.startswith("{") else f'"{one}"' for one in backends)
        text += POOL.format(name=name, backends=listed, check=check)
    file, admin = directory / "lb.toml", f"unix:{directory}/admin.sock"
    file.write_text(text)
    with l4lb("serve", "-c", str(file), "--admin", admin) as process, Client(admin) as client:
        made = Balancer(process, client, file)
        assert client.wait_ready(60)
        yield made


# ---- visitors ----


class Visitors:
    """Threads that make one request in each session, again and again. `failures` says what did not go well."""

    def __init__(self, address: tuple[str, int], count: int = 3) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._address = address
        self._ended = threading.Event()
        self._changed = threading.Lock()
        self._threads = [threading.Thread(target=self._visit) for _ in range(count)]

    def _visit(self) -> None:
        while not self._ended.wait(0.01):
            connection = http.client.HTTPConnection(*self._address, timeout=30)
            try:
                connection.request("GET", "/", headers={"Connection": "close"})
                failure = "" if connection.getresponse().read() else "empty"
            except (OSError, http.client.HTTPException) as error:
                failure = repr(error)
            finally:
                connection.close()
            with self._changed:
                self.answered += not failure
                self.failures += [failure] if failure else []

    def wait_for_more(self, count: int = 20) -> None:
        wanted = self.answered + count
        assert wait_until(lambda: self.answered >= wanted), self.failures[:3]

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


# ---- the scripts ----


class Script:
    """A script of examples/ops as a program. `output` has what it said on both streams."""

    def __init__(self, name: str, arguments: tuple[str, ...], balancer: Balancer) -> None:
        self._output = tempfile.TemporaryFile("a+")  # noqa: SIM115  # closed in `stop`
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / name), *arguments],
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
            env={**without_preload(), "L4LB_ADMIN": balancer.client.address}, cwd=balancer.file.parent,
        )  # fmt: skip

    @property
    def output(self) -> str:
        return os.pread(self._output.fileno(), os.fstat(self._output.fileno()).st_size, 0).decode()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output or self._process.poll() is not None, SCRIPT_WITHIN_S)
        assert text in self.output, self.output

    def interrupt(self) -> int:
        """Ctrl-C. Its exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(SCRIPT_WITHIN_S)

    def stop(self) -> None:
        """Where a test has failed, with as many signals as it takes to end the command that it runs, too."""
        wait_until(lambda: self._process.poll() is not None or self._process.terminate(), 10)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._output.close()


@contextlib.contextmanager
def script(name: str, *arguments: str, balancer: Balancer) -> Iterator[Script]:
    """While it runs."""
    started = Script(name, arguments, balancer)
    try:
        yield started
    finally:
        started.stop()


def run_script(name: str, *arguments: str, balancer: Balancer) -> tuple[int, str]:
    """To its end: its exit code, and what it said."""
    with script(name, *arguments, balancer=balancer) as started:
        code = started.wait()
        return code, started.output


def hold_sessions(stack: contextlib.ExitStack, address: tuple[str, int], count: int) -> None:
    """Sessions that are open until `stack` is closed, and say nothing."""
    for _ in range(count):
        stack.enter_context(socket.create_connection(address, timeout=30))


def hold_at_each(stack: contextlib.ExitStack, lb: Balancer) -> None:
    """The same, until each backend has at least one: workers choose on their own."""
    for held in range(1, 200):
        hold_sessions(stack, lb.address, 1)
        assert wait_until(lambda held=held: lb.client.pool("web")["sessions_active"] == held)
        if all(one["sessions_active"] for one in lb.client.pool("web")["backends"]):
            return
    raise AssertionError(lb.client.pool("web"))
