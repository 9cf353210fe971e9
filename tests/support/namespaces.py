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


_IFF_UP = 1  # linux/if.h
_ETHTOOL_STXCSUM, _ETHTOOL_SGRO, _SIOCETHTOOL = 0x17, 0x2C, 0x8946  # linux/ethtool.h, linux/sockios.h
_SIOCSIFFLAGS = 0x8914


def _bring_loopback_up() -> None:
    with socket.socket() as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("=16sh14x", b"lo", _IFF_UP))


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

    def ip_each(self, *commands: str) -> None:
        """One after the other, by one program."""
        run("ip", "-n", self.name, "-batch", "-", stdin="\n".join(commands))

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


def remove(*names: str) -> None:
    """Namespaces that were made here, where they are there, with the programs that run in them: they would live on with
    those."""
    there = {_namespace(f"/run/netns/{name}"): name for name in names if os.path.exists(f"/run/netns/{name}")}
    for pid in filter(str.isdecimal, os.listdir("/proc")):  # some may not be looked at, not even by root
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if _namespace(f"/proc/{pid}/ns/net") in there:
                os.kill(int(pid), signal.SIGKILL)
    if there:
        run("ip", "-batch", "-", stdin="\n".join(f"netns del {name}" for name in there.values()))


def _namespace(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def namespaces(*names: str) -> Iterator[list[Host]]:
    """Hosts without a network. Skips the test, with the reason, where namespaces cannot be made."""
    require("ip")
    if os.geteuid() != 0:
        pytest.skip("network namespaces can be made by root alone")
    hosts = [Host(name) for name in names]
    with contextlib.ExitStack() as stack:
        stack.callback(remove, *names)
        add = "\n".join(f"netns add {name}" for name in names)
        made = subprocess.run([require("ip"), "-batch", "-"], input=add, capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
        for host in hosts:
            host._within(_bring_loopback_up)
        yield hosts


def link(one: Host, device: str, other: Host, its_device: str) -> None:
    """A cable between two hosts; its ends are down still."""
    end = ("type", "veth", "peer", "name", its_device, "netns", other.name)
    run("ip", "link", "add", device, "netns", one.name, *end)


def _up(device: str, addresses: dict[int, str]) -> list[str]:
    return [
        f"link set {device} up",
        f"addr add {addresses[4]}/24 dev {device}",
        f"addr add {addresses[6]}/64 dev {device} nodad",
    ]


def _by_way_of(gateways: dict[int, str]) -> list[str]:
    return [f"route add default via {gateway}" for gateway in gateways.values()]


def _connect(hosts: Hosts) -> None:
    front, back = (f"l4t{os.getpid() % 100000}{kind}" for kind in "fb")
    link(hosts.client, f"{front}a", hosts.balancer, f"{front}b")
    link(hosts.balancer, f"{back}a", hosts.backend, f"{back}b")
    hosts.balancer.ip_each(*_up(f"{front}b", FRONT), *_up(f"{back}a", BACK))
    hosts.client.ip_each(*_up(f"{front}a", CLIENT), *_by_way_of(FRONT))
    hosts.backend.ip_each(*_up(f"{back}b", BACKEND), *_by_way_of(BACK))


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
            _bring_loopback_up()
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
                generated = f"link set {end} addrgenmode none"
                place.ip_each(generated, f"link set {end} up", f"addr add {address}/64 dev {end} nodad")
        yield balancer, clients, ends
