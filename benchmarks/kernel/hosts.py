"""A client and a backend, joined by a link, and balancers that stand between them side by side: each is a network
namespace made here and removed again.

    client 10.84.0.1 ------------------------------------------ 10.84.0.2 backend      direct, and answers of DSR
           10.82.N.2 --- 10.82.N.1 balancer N 10.83.N.1 --- 10.83.N.2

Clients ask balancer N at 10.82.N.1. Each one that is compared has a balancer of its own: none sees another's packets,
and no program or rule of one costs another anything. What the backend sends from 10.83.N.2 goes back by balancer N, as
NAT and plain routing need it; what it sends from 10.82.N.1, which it has on its loopback for DSR, goes straight to the
client.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.support.namespaces import Host
from tests.support.programs import require, run

DIRECT_CLIENT, DIRECT_BACKEND = "10.84.0.1", "10.84.0.2"
SETTINGS = ("net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0", "net.ipv4.ip_forward=1")


@dataclass(frozen=True)
class Balancer:
    """`front` is where its clients ask, `backend` the backend's address behind it."""

    host: Host
    number: int

    @property
    def front(self) -> str:
        return f"10.82.{self.number}.1"

    @property
    def backend(self) -> str:
        return f"10.83.{self.number}.2"


@dataclass(frozen=True)
class Lab:
    client: Host
    backend: Host
    balancers: dict[str, Balancer]


def host_made(stack: contextlib.ExitStack, name: str) -> Host:
    host = Host(f"l4lb-{os.getpid()}-{name}")
    try:
        subprocess.run([require("ip"), "netns", "add", host.name], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made: {error.stderr.strip()}")
    stack.callback(run, "ip", "netns", "del", host.name)
    host.run("ip", "link", "set", "lo", "up")
    host.run("sysctl", "-qw", *SETTINGS)
    return host


def link(one: Host, other: Host, device: str, addresses: tuple[str, str], bits: int = 24) -> None:
    """A pair of veth devices of the same name, each with its address in a network of that prefix."""
    peer = ("type", "veth", "peer", "name", device, "netns", other.name)
    run("ip", "link", "add", device, "netns", one.name, *peer)
    for host, address in zip((one, other), addresses, strict=True):
        host.run("ip", "addr", "add", f"{address}/{bits}", "dev", device)
        host.run("ip", "link", "set", device, "up")


def _join(lab: Lab, balancer: Balancer) -> None:
    number = balancer.number
    link(lab.client, balancer.host, f"front{number}", (f"10.82.{number}.2", balancer.front))
    link(balancer.host, lab.backend, f"back{number}", (f"10.83.{number}.1", balancer.backend))
    lab.client.run("ip", "route", "add", f"10.83.{number}.0/24", "via", balancer.front)
    table = str(100 + number)
    lab.backend.run("ip", "rule", "add", "from", balancer.backend, "lookup", table)
    lab.backend.run("ip", "route", "add", "default", "via", f"10.83.{number}.1", "table", table)
    lab.backend.run("ip", "route", "add", f"10.82.{number}.0/24", "via", DIRECT_CLIENT)
    lab.backend.run("ip", "addr", "add", f"{balancer.front}/32", "dev", "lo")


@contextlib.contextmanager
def lab(names: Sequence[str]) -> Iterator[Lab]:
    """With a balancer for each name. Skips the test, with the reason, where namespaces cannot be made."""
    require("ip")
    if os.geteuid() != 0:
        pytest.skip("network namespaces can be made by root alone")
    with contextlib.ExitStack() as stack:
        client, backend = host_made(stack, "client"), host_made(stack, "backend")
        link(client, backend, "direct", (DIRECT_CLIENT, DIRECT_BACKEND))
        made = Lab(client, backend, {})
        for number, name in enumerate(names, 1):
            made.balancers[name] = Balancer(host_made(stack, f"balancer{number}"), number)
            _join(made, made.balancers[name])
        yield made
