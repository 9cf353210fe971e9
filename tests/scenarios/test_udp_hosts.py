"""UDP between hosts, each a network namespace: addresses that are not the balancer's (TPROXY), and link-local ones."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.namespaces import BACKEND, CLIENT, Host, Hosts, three_hosts
from tests.support.programs import l4lb, require
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external

SERVE = """
import socket, sys
host = sys.argv[1]
sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((host, 8000))
print("ready", flush=True)
while True:
    data, peer = sock.recvfrom(65535)
    sock.sendto(data + b" for " + peer[0].encode(), peer)
"""
# Connected, so that only what comes from the address and port that was asked is heard.
ASK = """
import socket, sys
found = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_DGRAM)[0]
sock = socket.socket(found[0], socket.SOCK_DGRAM)
sock.settimeout(20)
sock.connect(found[4])
for number in range(3):
    sock.send(b"question %d" % number)
    print(sock.recv(1000).decode())
"""
CONFIG = """
[listeners.web]
bind = "{bind}"
protocol = "udp"
pool = "web"
{listener}
[pools.web]
backends = ["{backend}"]
{pool}
"""
TPROXY = """table {family} l4lbudp {{
  chain prerouting {{
    type filter hook prerouting priority mangle
    {family} daddr {net} udp dport 5353 tproxy to :5353 meta mark set 1 accept
  }}
}}
"""
FOREIGN = {4: ("203.0.113.7", "203.0.113.0/24", "ip"), 6: ("2001:db8:7::7", "2001:db8:7::/64", "ip6")}


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with three_hosts() as three:
        yield three


def config(directory: Path, **fields: str) -> list[str]:
    file = directory / "lb.toml"
    file.write_text(CONFIG.format(**{"listener": "", "pool": "", **fields}))
    return ["serve", "-c", str(file)]


def where(family: int) -> str:
    return f"[{BACKEND[family]}]:8000" if family == 6 else f"{BACKEND[family]}:8000"


@pytest.mark.parametrize("family", [4, 6])
def test_a_transparent_listener_answers_from_the_address_that_was_asked(
    hosts: Hosts, tmp_path: Path, family: int
) -> None:
    address, net, kind = FOREIGN[family]
    rules = TPROXY.format(family=kind, net=net)
    subprocess.run([*hosts.balancer.command, require("nft"), "-f", "-"], input=rules, text=True, check=True)
    bind = "[::]:5353" if family == 6 else "0.0.0.0:5353"
    arguments = config(tmp_path, bind=bind, backend=where(family), listener="transparent = true")
    with hosts.backend.python(SERVE, BACKEND[family]) as backend:
        assert backend.stdout is not None
        assert backend.stdout.readline() == "ready\n"
        with l4lb(*arguments, within=hosts.balancer.command) as process:
            process.wait_for("listening")
            said = hosts.client.run(sys.executable, "-c", ASK, address, "5353").splitlines()
            assert [line.partition(" for ")[0] for line in said] == ["question 0", "question 1", "question 2"]


def test_the_backend_sees_the_client(hosts: Hosts, tmp_path: Path) -> None:
    arguments = config(tmp_path, bind="0.0.0.0:5354", backend=where(4), pool='source_address = "client"')
    with hosts.backend.python(SERVE, BACKEND[4]) as backend:
        assert backend.stdout is not None
        assert backend.stdout.readline() == "ready\n"
        with l4lb(*arguments, within=hosts.balancer.command) as process:
            process.wait_for("listening")
            said = hosts.client.run(sys.executable, "-c", ASK, "10.81.1.1", "5354").splitlines()
            assert said == [f"question {number} for {CLIENT[4]}" for number in range(3)]


def link_local(host: Host, kind: str) -> tuple[str, str]:
    """The link-local address of that end of the link to the client, once nobody else was found to have it, and the
    interface."""

    def found() -> re.Match[str] | None:
        shown = host.run("ip", "-6", "-o", "addr", "show", "scope", "link", "-tentative")
        return re.search(rf"(\w+{kind})\s+inet6 (fe80::[0-9a-f:]+)/", shown)

    assert wait_until(found, 20)
    match = found()
    assert match is not None
    return match[2], match[1]


@pytest.mark.parametrize("bound", ["all", "one"])
def test_link_local_addresses(hosts: Hosts, tmp_path: Path, bound: str) -> None:
    """They mean something on one interface only, by which answers must leave. The backend is reached over IPv4."""
    address, interface = link_local(hosts.balancer, "fb")
    _, here = link_local(hosts.client, "fa")
    bind = "[::]:5355" if bound == "all" else f"[{address}%{interface}]:5355"
    with hosts.backend.python(SERVE, BACKEND[4]) as backend:
        assert backend.stdout is not None
        assert backend.stdout.readline() == "ready\n"
        arguments = config(tmp_path, bind=bind, backend=where(4))
        with l4lb(*arguments, within=hosts.balancer.command) as process:
            process.wait_for("listening")
            said = hosts.client.run(sys.executable, "-c", ASK, f"{address}%{here}", "5355").splitlines()
            assert [line.partition(" for ")[0] for line in said] == ["question 0", "question 1", "question 2"]
