"""UDP between hosts, each a network namespace: addresses that are not the balancer's (TPROXY), and link-local ones."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb.proxy_protocol import parse
from tests.support import forking
from tests.support.commands import Commands
from tests.support.namespaces import BACKEND, CLIENT, FRONT, Host, Hosts, hosts_on_links, three_hosts
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
        with l4lb(*arguments, network=hosts.balancer.name) as process:
            process.wait_for("listening")
            said = hosts.client.run_python(ASK, address, "5353").splitlines()
            assert [line.partition(" for ")[0] for line in said] == ["question 0", "question 1", "question 2"]


def test_the_backend_sees_the_client(hosts: Hosts, tmp_path: Path) -> None:
    arguments = config(tmp_path, bind="0.0.0.0:5354", backend=where(4), pool='source_address = "client"')
    with hosts.backend.python(SERVE, BACKEND[4]) as backend:
        assert backend.stdout is not None
        assert backend.stdout.readline() == "ready\n"
        with l4lb(*arguments, network=hosts.balancer.name) as process:
            process.wait_for("listening")
            said = hosts.client.run_python(ASK, "10.81.1.1", "5354").splitlines()
            assert said == [f"question {number} for {CLIENT[4]}" for number in range(3)]


QUESTIONS = [b"question %d" % number for number in range(3)]
# At an address that several hear, so the answer may come from any; who it was from is told.
ASK_ALL = """
import socket, sys
found = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_DGRAM)[0]
sock = socket.socket(found[0], socket.SOCK_DGRAM)
sock.settimeout(20)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
if found[0] == socket.AF_INET:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[3]))
for number in range(3):
    sock.sendto(b"question %d" % number, found[4])
    data, peer = sock.recvfrom(1000)
    print(data.partition(b" for ")[0].hex(), peer[0], peer[1])
sock.settimeout(0.2)
try:
    print("twice", sock.recv(1000))
except TimeoutError:
    pass
"""


# Sockets of IPv6 get no multicast of IPv4 that they have not joined.
@pytest.mark.parametrize(
    ("asked", "bind"),
    [
        *((asked, bind) for asked in ("10.81.1.255", "255.255.255.255") for bind in ("0.0.0.0", "[::]")),
        ("224.0.0.1", "0.0.0.0"),
    ],
)
def test_asked_at_an_address_of_all_the_answer_is_from_the_hosts_own(
    hosts: Hosts, tmp_path: Path, asked: str, bind: str
) -> None:
    arguments = config(tmp_path, bind=f"{bind}:5356", backend=where(4), pool='send_proxy = "v2"')
    hosts.client.run("ip", "route", "replace", "255.255.255.255/32", "via", "10.81.1.1")
    hosts.client.run("ip", "route", "replace", "broadcast", "255.255.255.255", "dev", link_local(hosts.client, "fa")[1])
    with hosts.backend.python(SERVE, BACKEND[4]) as backend:
        assert backend.stdout is not None
        assert backend.stdout.readline() == "ready\n"
        with l4lb(*arguments, network=hosts.balancer.name) as process:
            process.wait_for("listening")
            said = hosts.client.run_python(ASK_ALL, asked, "5356", CLIENT[4])
    heard = [line.split() for line in said.splitlines()]
    assert [line[1:] for line in heard] == [[FRONT[4], "5356"]] * 3, said
    answers = [bytes.fromhex(line[0]) for line in heard]
    headers = [parse(data) for data in answers]
    assert [data[one.length :] for data, one in zip(answers, headers, strict=True)] == QUESTIONS
    assert {str(one.destination) for one in headers} == {f"{FRONT[4]}:5356"}


def test_asked_at_all_nodes_of_ipv6_the_answer_is_from_that_interface(hosts: Hosts, tmp_path: Path) -> None:
    arguments = config(tmp_path, bind="[::]:5357", backend=where(4))
    with hosts.backend.python(SERVE, BACKEND[4]) as backend:
        assert backend.stdout is not None
        assert backend.stdout.readline() == "ready\n"
        with l4lb(*arguments, network=hosts.balancer.name) as process:
            process.wait_for("listening")
            here = link_local(hosts.client, "fa")[1]
            there = link_local(hosts.balancer, "fb")[0]
            said = hosts.client.run_python(ASK_ALL, f"ff02::1%{here}", "5357", "").splitlines()
    heard = [line.split() for line in said]
    assert [bytes.fromhex(line[0]) for line in heard] == QUESTIONS
    assert {line[1].partition("%")[0] for line in heard} == {there}


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
        with l4lb(*arguments, network=hosts.balancer.name) as process:
            process.wait_for("listening")
            said = hosts.client.run_python(ASK, f"{address}%{here}", "5355").splitlines()
            assert [line.partition(" for ")[0] for line in said] == ["question 0", "question 1", "question 2"]


# ---- one address on two interfaces ----

# Holds its session: each line that comes is asked, and what is answered within a while told.
CALL = """
import socket, sys
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 4000, 0, socket.if_nametoindex(sys.argv[2])))
sock.connect((sys.argv[3], int(sys.argv[4]), 0, socket.if_nametoindex(sys.argv[2])))
sock.settimeout(5)
for number in range(3):
    sock.send(b"%s %d" % (sys.argv[5].encode(), number))
    print(sock.recv(1000).decode(), flush=True)
sock.settimeout(0.3)
try:
    print("another's", sock.recv(1000).decode(), flush=True)
except TimeoutError:
    pass
print("done", flush=True)
sys.stdin.read()
"""
SCOPED = """
[admin]
bind = "unix:{directory}/admin.sock"
[global]
log_format = "json"
access_log = "{directory}/access.log"
[listeners.web]
bind = "[::]:5358"
protocol = "udp"
pool = "web"
[listeners.tcp]
bind = "[::]:5358"
pool = "tcp"
[pools.web]
backends = ["127.0.0.1:8000"]
[pools.tcp]
backends = ["127.0.0.1:8000"]
health = {{ type = "none" }}
"""
SERVE_BOTH = """
import socket, threading
stream = socket.create_server(("127.0.0.1", 8000))
def accept():
    kept = []
    while True:
        kept.append(stream.accept())
threading.Thread(target=accept, daemon=True).start()
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 8000))
print("ready", flush=True)
while True:
    data, peer = sock.recvfrom(65535)
    sock.sendto(data, peer)
"""
CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
sock.bind((sys.argv[1], 4000, 0, socket.if_nametoindex(sys.argv[2])))
sock.connect((sys.argv[3], 5358, 0, socket.if_nametoindex(sys.argv[2])))
print("connected", flush=True)
sys.stdin.read()
"""


def test_one_link_local_address_on_two_interfaces_is_two_clients(tmp_path: Path) -> None:
    """Both have fe80::77 and port 4000, each on a link of its own."""
    (tmp_path / "lb.toml").write_text(SCOPED.format(directory=tmp_path))
    admin = f"unix:{tmp_path}/admin.sock"

    def told() -> list[dict[str, str]]:
        return list(json.loads(Commands(admin).ok("session", "list", "--json")))

    with contextlib.ExitStack() as stack:
        balancer, clients, ends = stack.enter_context(hosts_on_links(2, "fe80::1", "fe80::77"))
        backend = stack.enter_context(balancer.python(SERVE_BOTH))
        assert backend.stdout is not None
        assert backend.stdout.readline() == "ready\n"
        serving = ("serve", "-c", str(tmp_path / "lb.toml"), "--workers", "1")
        process = stack.enter_context(l4lb(*serving, network=balancer.name, admin=True))
        process.wait_for("listening")
        for number, (client, (here, _)) in enumerate(zip(clients, ends, strict=True)):
            asking = stack.enter_context(client.python(CALL, "fe80::77", here, "fe80::1", "5358", f"c{number}"))
            assert asking.stdout is not None
            assert [asking.stdout.readline() for _ in range(4)] == [*(f"c{number} {n}\n" for n in range(3)), "done\n"]
            stream = stack.enter_context(client.python(CONNECT, "fe80::77", here, "fe80::1"))
            assert stream.stdout is not None
            assert stream.stdout.readline() == "connected\n"
        shown = told()
        expected = sorted(f"[fe80::77%{there}]:4000" for _, there in ends)
        for protocol in ("udp", "tcp"):
            assert sorted(one["client"] for one in shown if one["protocol"] == protocol) == expected
        killing = ("session", "kill", "--admin", admin, "--source", expected[0])
        assert forking.run(*killing, network=balancer.name).returncode == 0
        assert wait_until(lambda: [one["client"] for one in told()] == [expected[1]] * 2)
        log = tmp_path / "access.log"
        assert wait_until(lambda: log.exists() and len(log.read_text().splitlines()) == 2)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert {line["client"] for line in lines} == {expected[0].partition("]")[0].lstrip("[")}
