"""Real servers from Debian for the checks that talk: each on a free port of loopback, ended by its own pid.

None of them touches what Debian's packages start on their own: configuration, data and sockets are in a directory that
goes with the server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.programs import answers, free_port, require, run, without_preload
from tests.support.waiting import hang, wait_until


class Program:
    """A running server: its address, its directory, what it wrote."""

    def __init__(self, command: list[str], directory: Path, port: int, user: str = "") -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.directory = directory
        self._log = directory / "log"
        self._command, self._user = command, user or None
        self.start()

    def start(self) -> None:
        """At first, and again after `stop`: then with the same port and directory, and a new log."""
        user = self._user
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=without_preload(),
                cwd=self.directory, user=user, group=user, extra_groups=[] if user else None,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def error_log(self) -> str:
        """nginx's own; at its default level, error."""
        return (self.directory / "error.log").read_text()

    def wait_for(self, ready: Callable[[], bool]) -> None:
        assert wait_until(lambda: ready() or self.process.poll() is not None, 30), self.log
        assert self.process.poll() is None, self.log

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """With SIGSTOP for the server and its children, as a hung host looks: the kernel still accepts."""
        hang(self.process.pid)  # from here on no child comes, and none is reaped
        pids = [self.process.pid, *self.children]
        for pid in pids:
            hang(pid)
        try:
            yield
        finally:
            for pid in reversed(pids):  # the parent last: it reaps
                os.kill(pid, signal.SIGCONT)

    @property
    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def directory_for(name: str, user: str = "") -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix=f"l4lb-{name}-"))
    if user:
        shutil.chown(directory, user, user)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def running(
    name: str,
    command: Callable[[Path, int], list[str]],
    *,
    ready: Callable[[Program], bool] | None = None,
    end: signal.Signals = signal.SIGTERM,
) -> Iterator[Program]:
    with directory_for(name) as directory:
        port = free_port()
        program = Program(command(directory, port), directory, port)
        try:
            program.wait_for(lambda: ready(program) if ready else answers(port))
            yield program
        finally:
            program.stop(end)


NGINX = """
daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log {dir}/access.log; default_type text/plain;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d;
  scgi_temp_path {dir}/e;
  server {{
    listen 127.0.0.1:{port} {listen};
    {extra}
    location / {{ return 200 "all is well\\n"; }}
    location /broken {{ return 503 "down for repair\\n"; }}
    location /none {{ return 404 "none\\n"; }}
    location /moved {{ return 302 http://127.0.0.1:1/; }}
    location /host {{ return 200 "host=$http_host agent=$http_user_agent x=$http_x_check from=$remote_addr\\n"; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx_site(listen: str = "", extra: str = "") -> Iterator[Program]:
    """nginx with a few locations; `listen` is added to its listen directive, `extra` to its server."""

    def command(directory: Path, port: int) -> list[str]:
        text = NGINX.format(dir=directory, port=port, listen=listen, extra=extra)
        (directory / "conf").write_text(text)
        return [program, "-p", str(directory), "-c", str(directory / "conf"), "-e", str(directory / "error.log")]

    program = require("nginx")
    with running("site", command) as site:
        yield site


def certificate(directory: Path, name: str) -> tuple[str, str]:
    """A self-signed certificate of `name` and its key, as files."""
    cert, key = str(directory / "cert.pem"), str(directory / "key.pem")
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", cert,
    )  # fmt: skip
    return cert, key


def nginx_tls(certs: tuple[str, str], extra: str = "") -> contextlib.AbstractContextManager[Program]:
    """The same over TLS, with a certificate and its key."""
    return nginx_site("ssl", f"ssl_certificate {certs[0]}; ssl_certificate_key {certs[1]}; {extra}")


@contextlib.contextmanager
def redis(*options: str) -> Iterator[Program]:
    program = require("redis-server")

    def command(directory: Path, port: int) -> list[str]:
        arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        return [program, *arguments, "--loglevel", "notice", *options]

    with running("redis", command, ready=lambda server: "Ready to accept connections" in server.log) as server:
        yield server


@contextlib.contextmanager
def dns_server(*options: str) -> Iterator[Program]:
    """dnsmasq that knows what `options` say, and of example. no more than that."""
    program = require("dnsmasq")

    def command(directory: Path, port: int) -> list[str]:
        arguments = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--log-facility=-"]
        where = [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file=", "--user="]
        return [program, *arguments, *where, "--local=/example/", "--host-record=up.example,192.0.2.1", *options]

    with running("dns", command) as server:
        yield server


def postgres_program(name: str) -> str:
    """Debian keeps the programs of each version apart."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else require(name)


@contextlib.contextmanager
def postgres(auth: str = "trust", **settings: object) -> Iterator[Program]:
    """A cluster of its own, whose users from 127.0.0.1 authenticate by `auth`; only `postgres` exists."""
    user = "postgres" if os.geteuid() == 0 else ""
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    with directory_for("postgres", user) as directory:
        data, port = directory / "data", free_port()
        made = subprocess.run(
            [initdb, "-D", str(data), "-U", "postgres", "--auth", "trust", "--no-sync", "--locale", "C"],
            user=user or None, group=user or None, extra_groups=[] if user else None, cwd=directory,
            env=without_preload(), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        (data / "pg_hba.conf").write_text(f"host all all 127.0.0.1/32 {auth}\n")
        command = [server, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(directory), "-F"]
        command += [f"--{name}={value}" for name, value in settings.items()]
        program = Program(command, directory, port, user)
        try:
            program.wait_for(lambda: "ready to accept connections" in program.log)
            yield program
        finally:
            program.stop(signal.SIGINT)
