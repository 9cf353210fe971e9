"""What the network says of datagrams to backends: no answer is lost behind it, none reaches another client, and who
cannot be reached is passed over."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb.model.states import CloseReason, ConnectFailure, PathError
from tests.scenarios.test_udp import PLAIN, balancing_udp, dropped
from tests.support.balancing import address_of, closed
from tests.support.commands import Commands
from tests.support.datagrams import UdpClient, UdpServer, serving_udp, silent
from tests.support.icmp import say_icmp
from tests.support.namespaces import BACKEND, Hosts, three_hosts
from tests.support.programs import L4lb, l4lb, require
from tests.support.waiting import wait_until

# What makes the kernel report which error, by type and code: linux/icmp.h, linux/icmpv6.h.
SAID = {
    "net_prohibited": (3, 9, PathError.NET_UNREACHABLE),
    "host_prohibited": (3, 10, PathError.HOST_UNREACHABLE),
    "admin_prohibited": (3, 13, PathError.HOST_UNREACHABLE),
    "precedence_cutoff": (3, 15, PathError.HOST_UNREACHABLE),
    "host_unknown": (3, 7, PathError.HOST_UNREACHABLE),
    "host_isolated": (3, 8, PathError.NET_UNREACHABLE),
    "protocol_unreachable": (3, 2, PathError.PROTOCOL),
    "parameter_problem": (12, 0, PathError.PROTOCOL),
    "frag_needed": (3, 4, PathError.TOO_LARGE),
}
SAID_V6 = {
    "admin_prohibited": (1, 1, PathError.PROHIBITED),
    "policy_fail": (1, 5, PathError.PROHIBITED),
    "parameter_problem": (4, 0, PathError.PROTOCOL),
}
# Where backends are: the kernel remembers for minutes which path is narrow, and no other test is to meet that.
HOST = {4: "127.66.6.6", 6: "::1"}
CASES = [*((4, name) for name in SAID), *((6, name) for name in SAID_V6)]
RESPONSES = PLAIN.replace('pool = "web"\n', 'pool = "web"\nudp_responses = {responses}\nidle_timeout = "{idle}"\n', 1)


def said_of(family: int, name: str) -> tuple[int, int, PathError]:
    return (SAID if family == 4 else SAID_V6)[name]


def say(server: UdpServer, family: int, name: str, peer: tuple[str, int] | None = None) -> None:
    """Of the datagrams that came to `server` from `peer`, the last one if not told."""
    kind, code, _ = said_of(family, name)
    of = peer or list(server.clients)[-1]
    say_icmp(kind, code, of, server.sock.getsockname()[:2], 1280 if name == "frag_needed" else 0)


@contextlib.contextmanager
def serving(file: Path, backend: str, responses: int = 0, idle: str = "30s") -> Iterator[L4lb]:
    file.write_text(RESPONSES.format(backend=backend, responses=responses, idle=idle))
    with l4lb("serve", "-c", str(file), "--workers", "1") as process:
        yield process


@contextlib.contextmanager
def stopped(process: L4lb) -> Iterator[None]:
    process.hang()
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_an_answer_behind_an_error_arrives_at_once(tmp_path: Path, family: int, name: str) -> None:
    with serving_udp(silent, HOST[family]) as server:
        with serving(tmp_path / "lb.toml", server.address) as process, UdpClient(process.address("web")) as client:
            client.send(b"?")
            assert wait_until(lambda: server.received)
            peer = next(iter(server.clients))
            for number in range(3):
                with stopped(process):
                    say(server, family, name, peer)
                    server.sock.sendto(b"%d" % number, peer)
                assert client.receive() == b"%d" % number


def test_many_errors_and_many_answers_in_any_order_all_arrive(tmp_path: Path) -> None:
    with serving_udp(silent, HOST[4]) as server:
        with serving(tmp_path / "lb.toml", server.address) as process, UdpClient(process.address("web")) as client:
            client.send(b"?")
            assert wait_until(lambda: server.received)
            peer = next(iter(server.clients))
            for _ in range(5):
                for number in range(200):
                    server.sock.sendto(b"%d" % number, peer)
                    say(server, 4, "admin_prohibited", peer)
                assert [client.receive() for _ in range(200)] == [b"%d" % number for number in range(200)]


@pytest.mark.parametrize("name", ["host_prohibited", "frag_needed"])
@pytest.mark.parametrize(("responses", "idle"), [(1, "30s"), (2, "2s"), (0, "200ms")])
def test_no_answer_reaches_another_client(tmp_path: Path, name: str, responses: int, idle: str) -> None:
    """Each client's socket to the backend has an error and an answer too many when the process goes on, and is to
    serve the next client."""
    with serving_udp(silent, HOST[4]) as server:
        with serving(tmp_path / "lb.toml", server.address, responses, idle) as process:
            for number in range(12):
                mine = b"for client %d" % number
                with UdpClient(process.address("web")) as client, UdpClient(process.address("web")) as other:
                    client.send(mine)
                    assert wait_until(lambda mine=mine: server.received[-1:] == [mine])
                    peer = server.last_peer
                    with stopped(process):
                        say(server, 4, name, peer)
                        for _ in range(2):
                            server.sock.sendto(mine, peer)
                        other.send(b"other")
                    assert client.receive() == mine
                    assert wait_until(lambda: server.received[-1:] == [b"other"])
                    server.sock.sendto(b"for other", server.last_peer)
                    assert other.receive() == b"for other"
                    assert other.hears_nothing(0.01)


@pytest.mark.parametrize("name", ["host_prohibited", "frag_needed", "protocol_unreachable"])
def test_a_datagram_that_meets_the_error_of_an_earlier_one_is_sent_all_the_same(tmp_path: Path, name: str) -> None:
    """The process is stopped, so that its send meets the error before its read does."""
    with serving_udp(host=HOST[4]) as server:
        with serving(tmp_path / "lb.toml", server.address) as process, UdpClient(process.address("web")) as client:
            client.ask(b"?")
            for count in (1, 3):  # by send, by sendmmsg
                asked = [b"%d" % number for number in range(count)]
                with stopped(process):
                    for data in asked:
                        client.send(data)
                    say(server, 4, name)
                assert [client.receive() for _ in asked] == asked


@pytest.mark.parametrize(("family", "name"), CASES)
def test_errors_are_counted_by_kind_and_end_no_session(family: int, name: str) -> None:
    with serving_udp(host=HOST[family]) as server:
        with balancing_udp([server.address], workers=1) as balancer, UdpClient(address_of(balancer)) as client:
            client.ask(b"?")
            say(server, family, name)
            kind = said_of(family, name)[2]
            assert wait_until(lambda: balancer.stats().pools["web"].backends[server.address].path_errors == {kind: 1})
            assert client.ask(b"still here") == b"still here"
            assert not closed(balancer)
            assert not dropped(balancer)
            assert len(server.clients) == 1
            shown = balancer.status()["pools"][0]["backends"][0]
            assert shown["path_errors"] == {kind: 1}


@pytest.mark.parametrize("name", ["host_prohibited", "net_prohibited"])
def test_who_cannot_be_reached_is_passed_over(name: str) -> None:
    made = {one.address: one for one in (UdpServer(silent, HOST[4]), UdpServer(silent, HOST[4]))}
    try:
        with balancing_udp([*made], workers=1) as balancer, UdpClient(address_of(balancer)) as client:
            client.send(b"first")
            assert wait_until(lambda: any(one.received for one in made.values()))
            gone = next(one for one in made.values() if one.received)
            other = next(one for one in made.values() if one is not gone)
            say(gone, 4, name)
            stats = lambda: balancer.stats().pools["web"].backends[gone.address]  # noqa: E731
            assert wait_until(lambda: stats().path_errors)
            assert stats().failed == {ConnectFailure.UNREACHABLE: 1}
            client.send(b"second")
            assert wait_until(lambda: other.received == [b"second"])
            for number in range(3):
                with UdpClient(address_of(balancer)) as another:
                    another.send(b"%d" % number)
                    assert wait_until(lambda number=number: other.received[-1:] == [b"%d" % number])
            assert gone.received == [b"first"]
            gone.sock.sendto(b"late", next(iter(gone.clients)))  # the old session still waits for its answers
            assert client.receive() == b"late"
    finally:
        for one in made.values():
            one.stop()


def test_the_only_backend_is_kept_however_unreachable() -> None:
    with serving_udp(host=HOST[4]) as server, balancing_udp([server.address], workers=1) as balancer:
        with UdpClient(address_of(balancer)) as client:
            for number in range(5):
                assert client.ask(b"%d" % number) == b"%d" % number
                say(server, 4, "admin_prohibited")
            assert balancer.stats().listeners["web"].sessions_total == 1


def test_a_backend_that_refuses_behind_another_error_is_left() -> None:
    one, two = (UdpServer(lambda _, name=name: [name], HOST[4]) for name in (b"one", b"two"))
    made = {b"one": one, b"two": two}
    try:
        with balancing_udp([one.address, two.address], workers=1) as balancer:
            with UdpClient(address_of(balancer)) as client:
                mine = client.ask(b"?")
                say(made[mine], 4, "frag_needed")
                made[mine].stop()
                client.send(b"meets the closed port")
                assert wait_until(lambda: closed(balancer) == {CloseReason.BACKEND_ABORT: 1})
                assert client.ask(b"?") != mine
    finally:
        for server in (one, two):
            server.stop()


# ---- by real firewalls and routes, between hosts ----

SERVE = """
import socket, sys
host = sys.argv[1]
sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((host, int(sys.argv[2])))
print("ready", flush=True)
while True:
    data, peer = sock.recvfrom(65535)
    sock.sendto(sys.argv[2].encode(), peer)
"""
ASK = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("10.81.1.1", int(sys.argv[1])))
sock.settimeout(0.2)
heard = []
while len(heard) < 8:
    sock.send(b"?")
    try:
        heard.append(sock.recv(100).decode())
    except OSError:
        heard.append("-")
print(*heard)
"""
# Until a session is at the first backend; then in this one for good.
GO_ON = """
import socket, sys, time
heard = b""
while heard != b"7001":
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("10.81.1.1", int(sys.argv[1])))
    sock.settimeout(0.2)
    sock.send(b"?")
    heard = sock.recv(100)
print(heard.decode(), flush=True)
while True:
    sock.send(b"?")
    try:
        print(sock.recv(100).decode(), flush=True)
    except OSError:
        pass
    time.sleep(0.01)
"""
CONFIG = """
[admin]
bind = "{admin}"
[listeners.web]
bind = "0.0.0.0:{port}"
protocol = "udp"
pool = "web"
[pools.web]
backends = ["{host}:7001", "{host}:7002"]
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with three_hosts() as three:
        yield three


@pytest.mark.external
@pytest.mark.parametrize(
    ("family", "reject", "kind"),
    [
        (4, "icmp type host-prohibited", "host_unreachable"),
        (4, "icmp type admin-prohibited", "host_unreachable"),
        (4, "icmp type net-prohibited", "net_unreachable"),
        (6, "icmpv6 type admin-prohibited", "prohibited"),
    ],
)
def test_a_backend_behind_a_firewall_that_rejects(
    hosts: Hosts, tmp_path: Path, family: int, reject: str, kind: str
) -> None:
    host = BACKEND[family]
    rule = f"udp dport 7001 reject with {reject}"
    rules = f"table inet l4lbreject {{\nchain input {{\ntype filter hook input priority 0;\n{rule}\n}}\n}}\n"
    subprocess.run([*hosts.backend.command, require("nft"), "-f", "-"], input=rules, text=True, check=True)
    try:
        file = tmp_path / "lb.toml"
        admin = f"unix:{tmp_path}/admin.sock"
        shown = f"[{host}]" if family == 6 else host
        file.write_text(CONFIG.format(admin=admin, port=5370, host=shown))
        with hosts.backend.python(SERVE, host, "7001") as one, hosts.backend.python(SERVE, host, "7002") as two:
            for server in (one, two):
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
            with l4lb("serve", "-c", str(file), "--workers", "1", network=hosts.balancer.name, admin=True) as process:
                process.wait_for("listening")
                for _ in range(2):  # round robin: one of them begins at the one that is shut
                    heard = hosts.client.run_python(ASK, "5370").split()
                    assert heard.count("7002") >= 7, heard
                status = Commands(admin).ok("status")
                assert re.search(rf"\b\d+ {kind}\b", status), status
    finally:
        hosts.backend.run("nft", "delete", "table", "inet", "l4lbreject")


@pytest.mark.external
def test_a_route_that_goes_away_under_a_session(hosts: Hosts, tmp_path: Path) -> None:
    """send(2) says so, of each datagram again: the client goes elsewhere."""
    file = tmp_path / "lb.toml"
    file.write_text(CONFIG.format(admin="off", port=5371, host="10.81.9.1").replace("10.81.9.1:7002", "10.81.2.2:7002"))
    hosts.backend.run("ip", "addr", "add", "10.81.9.1/32", "dev", "lo")
    hosts.balancer.run("ip", "route", "add", "10.81.9.1/32", "via", "10.81.2.2")
    try:
        with (
            hosts.backend.python(SERVE, "10.81.9.1", "7001") as one,
            hosts.backend.python(SERVE, BACKEND[4], "7002") as two,
        ):
            for server in (one, two):
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
            with l4lb("serve", "-c", str(file), "--workers", "1", network=hosts.balancer.name) as process:
                process.wait_for("listening")
                with hosts.client.python(GO_ON, "5371") as client:
                    assert client.stdout is not None
                    assert client.stdout.readline() == "7001\n"
                    hosts.balancer.run("ip", "route", "replace", "unreachable", "10.81.9.1/32")
                    assert wait_until(lambda: client.stdout.readline() == "7002\n")
    finally:
        hosts.balancer.run("ip", "route", "del", "10.81.9.1/32")
        hosts.backend.run("ip", "addr", "del", "10.81.9.1/32", "dev", "lo")
