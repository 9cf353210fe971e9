"""A lab from its start to its end: network, servers, balancers. Whatever fails on the way, nothing is left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from l4lb import Client
from l4lb.errors import AdminError
from tests.lab import balancers, network, servers, tunnels
from tests.lab.cells import MODES, Cell
from tests.lab.place import LabError, directory
from tests.lab.processes import Processes, processes
from tests.support.namespaces import Host
from tests.support.waiting import wait_until

BACKENDS = ("backend-1", "backend-2", "backend-3")
PROXIES = ("proxy-1", "proxy-2")
SERVICES = ("service-1", "service-2")
_START_S = 60.0


@dataclass(frozen=True)
class Lab:
    """`admin`: the admin API of each l4lb, by its host."""

    name: str
    cell: Cell
    directory: Path
    hosts: dict[str, Host]
    processes: Processes
    admin: dict[str, str]

    @property
    def client(self) -> Host:
        return self.hosts["client"]

    @property
    def service(self) -> str:
        return network.SERVICE[self.cell.family]

    @property
    def seen_client(self) -> str:
        """The address that backends see."""
        family = self.cell.family
        return network.on_lan("balancer", family) if MODES[self.cell.mode].full_nat else network.CLIENT[family]

    @property
    def url(self) -> str:
        return f"http://{network.bracketed(self.service)}"

    def up(self, pool: str, host: str = "balancer") -> set[str]:
        """The ids of the backends that were found up and get new clients. AdminError: nobody answers."""
        with Client(self.admin[host]) as client:
            backends = client.pools[pool].status["backends"]
            return {one["id"] for one in backends if one["usable"] and one["health"] == "up"}


@contextlib.contextmanager
def one_tier(name: str, cell: Cell) -> Iterator[Lab]:
    """Three backends behind a balancer. LabError when it does not come up."""
    with _base(name, cell, ("balancer", *BACKENDS)) as lab:
        mode = MODES[cell.mode]
        address = network.SERVICE[cell.family] if mode.at_service else ""
        for backend in BACKENDS:
            own = address or network.on_lan(backend, cell.family)
            servers.start_backend(lab.processes, lab.hosts[backend], backend, lab.directory, own)
        _start(lab, "balancer", balancers.front_configuration(cell, BACKENDS))
        _wait(lab, {("balancer", pool): BACKENDS for pool in ("web", "dns", "iperf")})
        yield lab


@contextlib.contextmanager
def two_tiers(name: str, cell: Cell) -> Iterator[Lab]:
    """Two services behind two proxies behind a balancer. LabError when it does not come up."""
    with _base(name, cell, ("balancer", *PROXIES, *SERVICES)) as lab:
        for service in SERVICES:
            servers.start_service(lab.processes, lab.hosts[service], service, lab.directory)
        for proxy in PROXIES:
            _start(lab, proxy, balancers.proxy_configuration(cell, SERVICES))
        _start(lab, "balancer", balancers.first_tier_configuration(cell, PROXIES))
        _wait(lab, {("balancer", "web"): PROXIES, **{(proxy, "web"): SERVICES for proxy in PROXIES}})
        yield lab


@contextlib.contextmanager
def _base(name: str, cell: Cell, members: tuple[str, ...]) -> Iterator[Lab]:
    topic = MODES[cell.mode].topic
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(directory(name, ("client", "router", "balancer", *BACKENDS, *PROXIES, *SERVICES)))
        try:
            hosts = stack.enter_context(network.network(name, members))
        except pytest.skip.Exception as error:  # what tests would do
            raise LabError(error.msg) from None
        network.prepare(hosts["router"], "router", "any", cell.family)
        network.prepare(hosts["balancer"], "balancer", "any", cell.family)
        network.prepare(hosts["balancer"], "balancer", topic, cell.family)
        lab = Lab(name, cell, own, hosts, stack.enter_context(processes(own)), {})
        _prepare_backends(lab, [member for member in members if member.startswith(("backend", "proxy"))])
        yield lab


def _prepare_backends(lab: Lab, names: list[str]) -> None:
    mode = MODES[lab.cell.mode]
    program = tunnels.build(lab.directory) if mode.encapsulation else None
    for name in names:
        network.prepare(lab.hosts[name], "backend", mode.topic, lab.cell.family)
        if program is not None:
            tunnels.open_tunnel(lab.processes, lab.hosts[name], name, program)


def _start(lab: Lab, host: str, configuration: str) -> None:
    lab.admin[host] = balancers.start_l4lb(lab.processes, lab.hosts[host], host, lab.directory, configuration)


def _wait(lab: Lab, wanted: dict[tuple[str, str], tuple[str, ...]]) -> None:
    """Until health checks have found the backends of each pool, by the host of its l4lb."""

    def settled() -> bool:
        with contextlib.suppress(AdminError):
            return all(lab.up(pool, host) >= set(names) for (host, pool), names in wanted.items())
        return False

    wait_until(lambda: lab.processes.ended() or settled(), _START_S)
    if ended := lab.processes.ended():
        raise LabError("\n".join(ended.values()))
    if not settled():
        missing = [_missing(lab, host, pool, names) for (host, pool), names in wanted.items()]
        said = [lab.processes.said(f"{host}-l4lb") for host in lab.admin]
        raise LabError("\n  ".join(["not all backends were found up within a minute", *filter(None, missing), *said]))


def _missing(lab: Lab, host: str, pool: str, names: tuple[str, ...]) -> str:
    """Which backends of the pool are not up; or why its host does not say. Empty: none."""
    try:
        absent = sorted(set(names) - lab.up(pool, host))
    except AdminError as error:
        return f"{host}: {error}"
    return f"{host}: pool {pool}: not up: {', '.join(absent)}" if absent else ""
