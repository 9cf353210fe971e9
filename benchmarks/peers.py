"""The load balancers that are compared, each as its users would start it, with one worker."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import configurations, newer
from benchmarks.compiled import compiled
from tests.support.programs import answers, free_port
from tests.support.waiting import wait_until

CHECKOUT = Path(__file__).parent.parent
DIRECT = "direct"  # no load balancer: clients talk to the backend itself
FLOOR = "floor"  # the bare loop of floor.c, which nobody can go below
OURS = ("l4lb", "before")


@dataclass(frozen=True)
class Tcp:
    """What l4lb alone is told: how many workers, and lines for its listener and its pool. `bulk`: whether the bare loop
    splices."""

    workers: int = 1
    listener: str = ""
    pool: str = ""
    bulk: bool = False


@dataclass(frozen=True)
class Udp:
    """`answers`: how many datagrams of either side a session has; 0: any number. `listener`: lines for l4lb's."""

    answers: int = 0
    listener: str = ""

    @property
    def for_nginx(self) -> str:
        return f"proxy_requests {self.answers}; proxy_responses {self.answers};" if self.answers else ""


@dataclass(frozen=True)
class Lineup:
    """Who is compared. `before`: another built checkout of l4lb, in the place of the other products."""

    before: Path | None = None

    def of(self, *others: str) -> tuple[str, ...]:
        """l4lb, then `others` and a direct connection; or l4lb and what it was before, alone."""
        return OURS if self.before else ("l4lb", *others, DIRECT)

    @property
    def streams(self) -> tuple[str, ...]:
        return self.of("nginx", "haproxy", FLOOR)

    @property
    def datagrams(self) -> tuple[str, ...]:
        """HAProxy's community edition has no generic UDP. The bare loop knows nothing of trains."""
        return self.of("nginx")

    @property
    def queries(self) -> tuple[str, ...]:
        """Of DNS: dnsdist knows nothing else."""
        return self.of("nginx", "dnsdist", FLOOR)

    def directory_of(self, name: str) -> Path:
        """From where `python -m l4lb` runs that one."""
        return self.before if name == "before" and self.before else CHECKOUT


@dataclass
class Peer:
    """A running load balancer in front of one backend. `server_pid`: of the backend, 0 where nobody asks what it takes.
    `pid` is 0 for a direct connection. Clients ask at `host`; `within` is the command that starts them where they reach
    it."""

    name: str
    port: int
    pid: int
    server_pid: int = 0
    host: str = "127.0.0.1"
    within: tuple[str, ...] = ()


def _nginx(template: str, port: int, backend: int, directory: Path, **more: str) -> str:
    module = newer.nginx_stream_module()
    load = f"load_module {module};" if module else ""
    return template.format(port=port, backend=backend, directory=directory, module=load, **more)


def _command(name: str, port: int, backend: int, directory: Path, service: Tcp | Udp) -> list[str]:
    """How to start the peer called `name`; its configuration goes into `directory`."""
    if name == FLOOR and isinstance(service, Udp):
        return [compiled("floor"), "udp1" if service.answers else "udp", str(port), str(backend)]
    if name == FLOOR:
        return [compiled("floor"), "bulk" if service.bulk else "small", str(port), str(backend)]
    file = directory / f"{name}-{port}.conf"
    place = {"port": port, "backend": backend}
    if name in OURS and isinstance(service, Udp):
        file.write_text(configurations.L4LB_UDP.format(**place, workers=1, **dataclasses.asdict(service)))
    elif name in OURS:
        file.write_text(configurations.L4LB.format(**place, **dataclasses.asdict(service)))
    elif name == "nginx" and isinstance(service, Udp):
        text = _nginx(configurations.NGINX_UDP, port, backend, directory, answers=service.for_nginx)
        file.write_text(text)
    elif name == "nginx":
        file.write_text(_nginx(configurations.NGINX, port, backend, directory))
    elif name == "dnsdist":
        file.write_text(configurations.DNSDIST.format(**place))
    else:
        file.write_text(configurations.HAPROXY.format(**place))
    arguments = {
        "nginx": ["-c", str(file), "-e", str(directory / "error.log")],
        "dnsdist": ["--supervised", "--disable-syslog", "-C", str(file)],
        "haproxy": ["-q", "-db", "-f", str(file)],
    }
    if name in OURS:
        return [sys.executable, "-m", "l4lb", "serve", "-c", str(file)]
    return [*newer.command(name), *arguments[name]]


@contextlib.contextmanager
def peer(
    name: str,
    backend: int,
    directory: Path,
    service: Tcp | Udp = Tcp(),
    *,
    probe: bool = True,
    lineup: Lineup = Lineup(),
    server_pid: int = 0,
) -> Iterator[Peer]:
    """Start one; `probe` waits until it accepts TCP, by a connection that the backend sees too."""
    if name == DIRECT:
        yield Peer(name, backend, 0, server_pid)
        return
    udp = isinstance(service, Udp)
    port = free_port()
    log = directory / f"{name}-{port}.log"
    with log.open("w") as output:
        command = _command(name, port, backend, directory, service)
        process = subprocess.Popen(command, cwd=lineup.directory_of(name), stdout=output, stderr=output)
        try:
            assert wait_until(lambda: listens(port, udp=udp) or process.poll() is not None), log.read_text()
            assert process.poll() is None, log.read_text()
            if probe and not udp:
                assert answers(port)
            yield Peer(name, port, process.pid, server_pid)
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def peers(
    names: Sequence[str],
    backend: int,
    directory: Path,
    service: Tcp | Udp = Tcp(),
    *,
    probe: bool = True,
    lineup: Lineup = Lineup(),
    server_pid: int = 0,
) -> Iterator[list[Peer]]:
    """All of `names` in front of one backend, l4lb first."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                peer(name, backend, directory, service, probe=probe, lineup=lineup, server_pid=server_pid)
            )
            for name in names
        ]


def listens(port: int, *, udp: bool = False) -> bool:
    """Whether something listens on 127.0.0.1:`port`, without talking to it (proc_net_tcp in the kernel's docs)."""
    wanted, state = f"0100007F:{port:04X}", "07" if udp else "0A"
    lines = Path("/proc/net/udp" if udp else "/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1] == wanted and line.split()[3] == state for line in lines)
