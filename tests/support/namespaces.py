"""Three hosts on this one: a client, a load balancer and a backend, each in a network namespace that is made here and
removed again. The client is reached from the backend through the load balancer alone.

    client 10.81.1.2, fd81:1::2 --- 10.81.1.1 balancer 10.81.2.1 --- 10.81.2.2, fd81:2::2 backend
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support import entering, forking
from tests.support.programs import require, run

T = TypeVar("T")

CLIENT = {4: "10.81.1.2", 6: "fd81:1::2"}
FRONT = {4: "10.81.1.1", 6: "fd81:1::1"}
BACK = {4: "10.81.2.1", 6: "fd81:2::1"}
BACKEND = {4: "10.81.2.2", 6: "fd81:2::2"}
_RUNS_WITHIN_S = 60.0


def rules_of_the_page() -> str:
    """The commands of docs/client-address.md by which the balancer takes in what backends answer to its clients'
    addresses."""
    page = Path("docs/client-address.md").read_text(encoding="utf-8")
    found = re.search(r"```\w*\n(nft add table.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


_ETHTOOL_STXCSUM, _ETHTOOL_SGRO, _SIOCETHTOOL = 0x17, 0x2C, 0x8946  # linux/ethtool.h, linux/sockios.h


def _make_devices_cards() -> None:
    with socket.socket() as sock:
        for command, value in ((_ETHTOOL_STXCSUM, 0), (_ETHTOOL_SGRO, 1)):
            set_to = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
            for _, name in socket.if_nameindex():
                if name != "lo":
                    request = struct.pack("=16sQ16x", name.encode(), ctypes.addressof(set_to))
                    fcntl.ioctl(sock, _SIOCETHTOOL, request)


@dataclass(frozen=True)
class Host:
    """A namespace. `command` is how a program is started in it."""

    name: str

    @property
    def command(self) -> list[str]:
        return [require("ip"), "netns", "exec", self.name]

    def run(self, *command: str) -> str:
        return run("ip", "netns", "exec", self.name, *command)

    def ip(self, *arguments: str) -> str:
        return run("ip", "-n", self.name, *arguments)

    def make_devices_cards(self) -> None:
        """As network cards are to XDP, which sees what local senders leave to the hardware, of which there is none
        here: checksums that are not finished. And a veth device takes frames from XDP only where it may collect them
        (GRO)."""
        self._within(_make_devices_cards)

    def connect(self, address: str, port: int, timeout_s: float = 10.0) -> socket.socket:
        """A connection from there, for this process: a socket is where the thread was that made it. OSError when there
        is none."""
        return self._within(lambda: socket.create_connection((address, port), timeout=timeout_s))

    def python(self, code: str, *arguments: str) -> contextlib.AbstractContextManager[forking.Forked]:
        """A Python program that runs there; it ends with the block."""
        return forking.python(code, *arguments, network=self.name)

    def run_python(self, code: str, *arguments: str) -> str:
        """What it prints; fails when it does."""
        with self.python(code, *arguments) as process:
            said, _ = process.communicate(_RUNS_WITHIN_S)
            assert process.returncode == 0, said
            return said

    def _within(self, call: Callable[[], T]) -> T:
        """`call` on a thread that is there."""

        def inside() -> T:
            entering.network(self.name)
            return call()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(inside).result()


@dataclass(frozen=True)
class Hosts:
    client: Host
    balancer: Host
    backend: Host


def remove(name: str) -> None:
    """A namespace that was made here, if it is there, with the programs that run in it: it would live on with them."""
    if name not in run("ip", "netns", "list").split():
        return
    for pid in run("ip", "netns", "pids", name).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    run("ip", "netns", "del", name)


@contextlib.contextmanager
def namespaces(*names: str) -> Iterator[list[Host]]:
    """Hosts without a network. Skips the test, with the reason, where namespaces cannot be made."""
    require("ip")
    if os.geteuid() != 0:
        pytest.skip("network namespaces can be made by root alone")
    hosts = [Host(name) for name in names]
    with contextlib.ExitStack() as stack:
        for host in hosts:
            made = subprocess.run([require("ip"), "netns", "add", host.name], capture_output=True, text=True)
            if made.returncode != 0:
                pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
            stack.callback(remove, host.name)
            host.ip("link", "set", "lo", "up")
        yield hosts


def link(one: Host, device: str, other: Host, its_device: str) -> None:
    """A cable between two hosts; its ends are down still."""
    end = ("type", "veth", "peer", "name", its_device, "netns", other.name)
    run("ip", "link", "add", device, "netns", one.name, *end)


def _link(one: Host, other: Host, addresses: dict[int, str], others: dict[int, str], kind: str) -> None:
    ends = f"l4t{os.getpid() % 100000}{kind}"
    link(one, f"{ends}a", other, f"{ends}b")
    for host, end, mine in ((one, f"{ends}a", addresses), (other, f"{ends}b", others)):
        host.ip("link", "set", end, "up")
        host.ip("addr", "add", f"{mine[4]}/24", "dev", end)
        host.ip("addr", "add", f"{mine[6]}/64", "dev", end, "nodad")


def _connect(hosts: Hosts) -> None:
    _link(hosts.client, hosts.balancer, CLIENT, FRONT, "f")
    _link(hosts.balancer, hosts.backend, BACK, BACKEND, "b")
    for family in (4, 6):
        hosts.client.run("ip", f"-{family}", "route", "add", "default", "via", FRONT[family])
        hosts.backend.run("ip", f"-{family}", "route", "add", "default", "via", BACK[family])


@contextlib.contextmanager
def three_hosts() -> Iterator[Hosts]:
    """Skips the test, with the reason, where namespaces cannot be made."""
    require("nft")
    with namespaces(*(f"l4lb-{os.getpid()}-{name}" for name in ("client", "balancer", "backend"))) as made:
        hosts = Hosts(*made)
        _connect(hosts)
        hosts.balancer.run("sh", "-e", "-c", rules_of_the_page())
        yield hosts


def in_namespace(function: Callable[[], None]) -> None:
    """Run `function` on a thread that has a network namespace of its own, with its loopback up. Threads and programs
    that it starts are there too, and /proc/sys/net is that one's. Skips the test where namespaces cannot be made."""
    require("ip")
    if os.geteuid() != 0:
        pytest.skip("network namespaces can be made by root alone")
    outcome: list[BaseException] = []

    def inside() -> None:
        try:
            try:
                entering.new_network()
            except OSError as error:
                pytest.skip(f"no network namespace can be made: {error.strerror}")
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
    names = [f"l4lb-{os.getpid()}-links", *(f"l4lb-{os.getpid()}-link{number}" for number in range(count))]
    ends = [(f"l4l{os.getpid() % 100000}{number}c", f"l4l{os.getpid() % 100000}{number}b") for number in range(count)]
    with namespaces(*names) as (balancer, *clients):
        for host, (here, there) in zip(clients, ends, strict=True):
            link(host, here, balancer, there)
            for place, end, address in ((host, here, client), (balancer, there, front)):
                place.ip("link", "set", end, "addrgenmode", "none")
                place.ip("link", "set", end, "up")
                place.ip("addr", "add", f"{address}/64", "dev", end, "nodad")
        yield balancer, clients, ends
