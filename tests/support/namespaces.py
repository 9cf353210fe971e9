"""Three hosts on this one: a client, a load balancer and a backend, each in a network namespace that is made here and
removed again. The client is reached from the backend through the load balancer alone.

    client 10.81.1.2, fd81:1::2 --- 10.81.1.1 balancer 10.81.2.1 --- 10.81.2.2, fd81:2::2 backend
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.programs import require, run, without_preload

CLIENT = {4: "10.81.1.2", 6: "fd81:1::2"}
FRONT = {4: "10.81.1.1", 6: "fd81:1::1"}
BACK = {4: "10.81.2.1", 6: "fd81:2::1"}
BACKEND = {4: "10.81.2.2", 6: "fd81:2::2"}


def rules_of_the_readme() -> str:
    """The commands by which the balancer takes in what backends answer to its clients' addresses."""
    found = re.search(r"```\n(nft add table.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@dataclass(frozen=True)
class Host:
    """A namespace. `command` is how a program is started in it."""

    name: str

    @property
    def command(self) -> list[str]:
        return [require("ip"), "netns", "exec", self.name]

    def run(self, *command: str) -> str:
        return run("ip", "netns", "exec", self.name, *command)

    @contextlib.contextmanager
    def python(self, code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A Python program that runs there; it ends with the block."""
        command = [*self.command, sys.executable, "-c", code, *arguments]
        with subprocess.Popen(command, env=without_preload(), stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


@dataclass(frozen=True)
class Hosts:
    client: Host
    balancer: Host
    backend: Host


def _link(one: Host, other: Host, addresses: dict[int, str], others: dict[int, str], kind: str) -> None:
    ends = f"l4t{os.getpid() % 100000}{kind}"
    run(
        "ip",
        "link",
        "add",
        f"{ends}a",
        "netns",
        one.name,
        "type",
        "veth",
        "peer",
        "name",
        f"{ends}b",
        "netns",
        other.name,
    )
    for host, end, mine in ((one, f"{ends}a", addresses), (other, f"{ends}b", others)):
        host.run("ip", "link", "set", end, "up")
        host.run("ip", "addr", "add", f"{mine[4]}/24", "dev", end)
        host.run("ip", "addr", "add", f"{mine[6]}/64", "dev", end, "nodad")


def _connect(hosts: Hosts) -> None:
    for host in (hosts.client, hosts.balancer, hosts.backend):
        host.run("ip", "link", "set", "lo", "up")
    _link(hosts.client, hosts.balancer, CLIENT, FRONT, "f")
    _link(hosts.balancer, hosts.backend, BACK, BACKEND, "b")
    for family in (4, 6):
        hosts.client.run("ip", f"-{family}", "route", "add", "default", "via", FRONT[family])
        hosts.backend.run("ip", f"-{family}", "route", "add", "default", "via", BACK[family])


@contextlib.contextmanager
def three_hosts() -> Iterator[Hosts]:
    """Skips the test, with the reason, where namespaces cannot be made."""
    require("ip")
    require("nft")
    if os.geteuid() != 0:
        pytest.skip("network namespaces can be made by root alone")
    hosts = Hosts(*(Host(f"l4lb-{os.getpid()}-{name}") for name in ("client", "balancer", "backend")))
    made: list[Host] = []
    try:
        for host in (hosts.client, hosts.balancer, hosts.backend):
            try:
                subprocess.run([require("ip"), "netns", "add", host.name], check=True, capture_output=True, text=True)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespace can be made: {error.stderr.strip()}")
            made.append(host)
        _connect(hosts)
        hosts.balancer.run("sh", "-e", "-c", rules_of_the_readme())
        yield hosts
    finally:
        for host in made:
            run("ip", "netns", "del", host.name)


_CLONE_NEWNET = 0x40000000  # linux/sched.h


def in_namespace(function: Callable[[], None]) -> None:
    """Run `function` on a thread that has a network namespace of its own, with its loopback up. Threads and programs
    that it starts are there too, and /proc/sys/net is that one's. Skips the test where namespaces cannot be made."""
    require("ip")
    if os.geteuid() != 0:
        pytest.skip("network namespaces can be made by root alone")
    outcome: list[BaseException] = []

    def inside() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET) < 0:
                pytest.skip(f"no network namespace can be made: {os.strerror(ctypes.get_errno())}")
            run("ip", "link", "set", "lo", "up")
            function()
        except BaseException as error:  # a skip is one
            outcome.append(error)

    thread = threading.Thread(target=inside, name="namespace")
    thread.start()
    thread.join()
    if outcome:
        raise outcome[0]


def set_sysctl(name: str, value: str) -> None:
    """Of the caller's namespace."""
    Path("/proc/sys", *name.split(".")).write_text(value, encoding="ascii")


@contextlib.contextmanager
def hosts_on_links(count: int, front: str, client: str) -> Iterator[tuple[Host, list[Host], list[tuple[str, str]]]]:
    """A balancer with that many links, at the other end of each a client; all links have the same two link-local
    addresses. The names of each link's ends come last: the client's, the balancer's."""
    require("ip")
    if os.geteuid() != 0:
        pytest.skip("network namespaces can be made by root alone")
    balancer = Host(f"l4lb-{os.getpid()}-links")
    clients = [Host(f"l4lb-{os.getpid()}-link{number}") for number in range(count)]
    ends = [(f"l4l{os.getpid() % 100000}{number}c", f"l4l{os.getpid() % 100000}{number}b") for number in range(count)]
    with contextlib.ExitStack() as stack:
        for host in (balancer, *clients):
            try:
                subprocess.run([require("ip"), "netns", "add", host.name], check=True, capture_output=True, text=True)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespace can be made: {error.stderr.strip()}")
            stack.callback(run, "ip", "netns", "del", host.name)
            host.run("ip", "link", "set", "lo", "up")
        for host, (here, there) in zip(clients, ends, strict=True):
            other = ("type", "veth", "peer", "name", there, "netns", balancer.name)
            run("ip", "link", "add", here, "netns", host.name, *other)
            for place, end, address in ((host, here, client), (balancer, there, front)):
                place.run("ip", "link", "set", end, "addrgenmode", "none")
                place.run("ip", "link", "set", end, "up")
                place.run("ip", "addr", "add", f"{address}/64", "dev", end, "nodad")
        yield balancer, clients, ends
