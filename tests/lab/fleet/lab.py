"""The fleet's lab from its start to its end. Whatever fails on the way, nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from l4lb import Client
from l4lb.errors import AdminError
from tests.lab import servers
from tests.lab.fleet import router
from tests.lab.fleet.network import BACKENDS, BALANCERS, SERVICE, Network, network, on_lan
from tests.lab.fleet.nodes import Nodes, configuration
from tests.lab.place import LabError, directory
from tests.lab.processes import Processes, processes
from tests.support.programs import without_preload
from tests.support.waiting import wait_until

Engine = Literal["proxy", "kernel"]
START_S = 90.0
_LEAVE_S = 30.0


@dataclass(frozen=True)
class FleetLab:
    engine: Engine
    spreading: router.Spreading
    network: Network
    nodes: Nodes
    started_s: float  # from the start of the announcers to three next hops

    @property
    def processes(self) -> Processes:
        return self.nodes.processes

    @property
    def next_hops(self) -> set[str]:
        return router.next_hops(self.network)

    def client(self, balancer: str) -> Client:
        return Client(self.nodes.admin(balancer))

    def pool(self, balancer: str) -> Any:
        with self.client(balancer) as client:
            return client.pools["web"].status

    @contextlib.contextmanager
    def load(self, kind: str, count: int, host: str = SERVICE) -> Iterator[Load]:
        """Runs during the block; `result` is there after it."""
        command = [*self.network.client.command, sys.executable, "-m", "tests.lab.fleet.load", kind, str(count), host]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=without_preload()) as process:
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    raise AssertionError("the clients could not begin")
                load = Load()
                yield load
                process.stdin.close()
                load.result.update(json.loads(process.stdout.read()))
                process.wait(_LEAVE_S)
            finally:
                process.kill()


class Load:
    """What clients had: see `tests.lab.fleet.load`."""

    def __init__(self) -> None:
        self.result: dict[str, Any] = {}

    @property
    def answered(self) -> int:
        return sum(self.result["answered"].values())

    @property
    def failed(self) -> int:
        return sum(self.result["failed"].values())


def wait(condition: Callable[[], object], what: str, deadline_s: float = START_S) -> float:
    """Until it holds; how long that took, in seconds. AssertionError with `what` when it does not."""
    began = time.monotonic()
    assert wait_until(condition, deadline_s), what
    return time.monotonic() - began


@contextlib.contextmanager
def fleet(name: str, engine: Engine, spreading: router.Spreading) -> Iterator[FleetLab]:
    """With everything up. LabError when it does not come up."""
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(directory(name, ("client", "router", "etcd", *BALANCERS, *BACKENDS)))
        try:
            hosts = stack.enter_context(network(name, BALANCERS if engine == "proxy" else BACKENDS))
        except pytest.skip.Exception as error:  # what tests would do
            raise LabError(error.msg) from None
        running = stack.enter_context(processes(own))
        try:
            yield FleetLab(engine, spreading, hosts, *_start(hosts, running, own, engine, spreading))
        except AssertionError as error:
            if ended := "\n".join(running.ended().values()):
                raise LabError(f"{error}\n{ended}") from error
            raise


def _start(
    hosts: Network, running: Processes, own: Path, engine: Engine, spreading: router.Spreading
) -> tuple[Nodes, float]:
    nodes = Nodes(hosts, running, own)
    nodes.start_etcd()
    for backend, host in hosts.backends.items():
        servers.start_backend(running, host, backend, own, on_lan(backend))
    router.start(running, hosts, own, spreading)
    wait(nodes.etcd_answers, "etcd does not answer")
    for backend in BACKENDS:
        nodes.put_backend(backend)
    file = own / "lb.toml"
    file.write_text(configuration(engine))
    nodes.fleet("config", "put", str(file))
    for balancer in BALANCERS:
        nodes.start_balancer(balancer)

    def up() -> bool:
        return bool(running.ended()) or all(_is_up(nodes, balancer) for balancer in BALANCERS)

    wait(up, "not all backends are up everywhere")
    assert not running.ended(), "not all programs run"
    for balancer in BALANCERS:
        nodes.start_announcing(balancer)
    started_s = wait(lambda: router.next_hops(hosts) == set(BALANCERS), "there are no three next hops")
    return nodes, started_s


def _is_up(nodes: Nodes, balancer: str) -> bool:
    with contextlib.suppress(AdminError), Client(nodes.admin(balancer)) as client:
        backends = client.pools["web"].status["backends"]
        return {one["id"] for one in backends if one["health"] == "up"} == set(BACKENDS)
    return False
