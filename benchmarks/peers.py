"""The load balancers that are compared, each as its users would start it, with one worker."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.programs import answers, free_port
from tests.support.waiting import wait_until

L4LB = """[global]
workers = {workers}
log_level = "warning"

[admin]
bind = "off"

[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
{listener}

[pools.web]
backends = ["127.0.0.1:{backend}"]
{pool}

[pools.web.health]
type = "none"
"""

L4LB_UDP = """[global]
workers = {workers}
log_level = "warning"

[admin]
bind = "off"

[listeners.web]
bind = "127.0.0.1:{port}"
protocol = "udp"
pool = "web"
udp_requests = {answers}
udp_responses = {answers}
{listener}

[pools.web]
backends = ["127.0.0.1:{backend}"]
"""

NGINX = """daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {directory}/pid;
error_log {directory}/error.log;
{module}
events {{
    worker_connections 20000;
    multi_accept on;
}}
stream {{
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        proxy_pass 127.0.0.1:{backend};
    }}
}}
"""

NGINX_UDP = """daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {directory}/pid;
error_log {directory}/error.log;
{module}
events {{
    worker_connections 20000;
    multi_accept on;
}}
stream {{
    server {{
        listen 127.0.0.1:{port} udp rcvbuf=4m sndbuf=4m;
        proxy_pass 127.0.0.1:{backend};
        proxy_timeout 30s;
        {answers}
    }}
}}
"""

# maxconn and maxpipes: both together must fit into the descriptors that the machine allows.
HAPROXY = """global
    nbthread 1
    maxconn 8500
    maxpipes 200
    tune.pipesize 1048576
defaults
    mode tcp
    timeout client 10m
    timeout server 10m
    timeout connect 5s
    option splice-auto
frontend web
    bind 127.0.0.1:{port} backlog 4096
    default_backend web
backend web
    server one 127.0.0.1:{backend}
"""

CHECKOUT = Path(__file__).parent.parent
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@dataclass(frozen=True)
class Options:
    """Of l4lb alone: how many workers, and lines for its listener and its pool."""

    workers: int = 1
    listener: str = ""
    pool: str = ""


@dataclass(frozen=True)
class Lineup:
    """Who is compared. `before`: another built checkout of l4lb, in the place of the other products."""

    before: Path | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        return ("l4lb", "before") if self.before else ("l4lb", "nginx", "haproxy")

    @property
    def datagrams(self) -> tuple[str, ...]:
        """HAProxy's community edition has no generic UDP."""
        return ("l4lb", "before") if self.before else ("l4lb", "nginx")

    def directory_of(self, name: str) -> Path:
        """From where `python -m l4lb` runs that one."""
        return self.before if name == "before" and self.before else CHECKOUT


@dataclass
class Peer:
    """A running load balancer in front of one backend."""

    name: str
    port: int
    pid: int


def program(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed (see `make deps`)")
    return path


@dataclass(frozen=True)
class Udp:
    """`answers`: how many datagrams of either side a session has; 0: any number. `listener`: lines for l4lb's."""

    answers: int = 0
    listener: str = ""

    @property
    def for_nginx(self) -> str:
        return f"proxy_requests {self.answers}; proxy_responses {self.answers};" if self.answers else ""


def _command_udp(name: str, port: int, backend: int, directory: Path, udp: Udp) -> list[str]:
    file = directory / f"{name}-udp-{port}.conf"
    if name in ("l4lb", "before"):
        file.write_text(L4LB_UDP.format(port=port, backend=backend, workers=1, **dataclasses.asdict(udp)))
        return [sys.executable, "-m", "l4lb", "serve", "-c", str(file)]
    module = f"load_module {STREAM_MODULE};" if STREAM_MODULE.exists() else ""
    text = NGINX_UDP.format(port=port, backend=backend, directory=directory, module=module, answers=udp.for_nginx)
    file.write_text(text)
    return [program("nginx"), "-c", str(file), "-e", str(directory / "error.log")]


def _command(name: str, port: int, backend: int, directory: Path, options: Options) -> list[str]:
    """How to start the peer called `name`; its configuration goes into `directory`."""
    file = directory / f"{name}-{port}.conf"
    if name in ("l4lb", "before"):
        file.write_text(L4LB.format(port=port, backend=backend, **dataclasses.asdict(options)))
        return [sys.executable, "-m", "l4lb", "serve", "-c", str(file)]
    if name == "nginx":
        module = f"load_module {STREAM_MODULE};" if STREAM_MODULE.exists() else ""
        file.write_text(NGINX.format(port=port, backend=backend, directory=directory, module=module))
        return [program("nginx"), "-c", str(file), "-e", str(directory / "error.log")]
    file.write_text(HAPROXY.format(port=port, backend=backend))
    return [program("haproxy"), "-q", "-db", "-f", str(file)]


@contextlib.contextmanager
def peer(
    name: str,
    backend: int,
    directory: Path,
    *,
    probe: bool = True,
    options: Options = Options(),
    lineup: Lineup = Lineup(),
) -> Iterator[Peer]:
    """Start one; `probe` waits until it accepts, by a connection that the backend sees too."""
    port = free_port()
    log = directory / f"{name}-{port}.log"
    with log.open("w") as output:
        command = _command(name, port, backend, directory, options)
        process = subprocess.Popen(command, cwd=lineup.directory_of(name), stdout=output, stderr=output)
        try:
            assert wait_until(lambda: listens(port) or process.poll() is not None), log.read_text()
            assert process.poll() is None, log.read_text()
            if probe:
                assert answers(port)
            yield Peer(name, port, process.pid)
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def peers_udp(backend: int, directory: Path, udp: Udp, lineup: Lineup = Lineup()) -> Iterator[list[Peer]]:
    """All that are compared in front of a UDP backend, l4lb first."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(peer_udp(name, backend, directory, udp, lineup)) for name in lineup.datagrams]


@contextlib.contextmanager
def peer_udp(name: str, backend: int, directory: Path, udp: Udp, lineup: Lineup = Lineup()) -> Iterator[Peer]:
    port = free_port()
    log = directory / f"{name}-udp-{port}.log"
    with log.open("w") as output:
        command = _command_udp(name, port, backend, directory, udp)
        process = subprocess.Popen(command, cwd=lineup.directory_of(name), stdout=output, stderr=output)
        try:
            assert wait_until(lambda: listens(port, udp=True) or process.poll() is not None), log.read_text()
            assert process.poll() is None, log.read_text()
            yield Peer(name, port, process.pid)
        finally:
            process.kill()
            process.wait()


def listens(port: int, *, udp: bool = False) -> bool:
    """Whether something listens on 127.0.0.1:`port`, without talking to it (proc_net_tcp in the kernel's docs)."""
    wanted, state = f"0100007F:{port:04X}", "07" if udp else "0A"
    lines = Path("/proc/net/udp" if udp else "/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1] == wanted and line.split()[3] == state for line in lines)


@contextlib.contextmanager
def peers(backend: int, directory: Path, *, probe: bool = True, lineup: Lineup = Lineup()) -> Iterator[list[Peer]]:
    """All that are compared, l4lb first."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(peer(name, backend, directory, probe=probe, lineup=lineup)) for name in lineup.streams
        ]
