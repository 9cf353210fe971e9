"""Each errno of socket, bind, connect and send, injected into a running balancer, and what it makes of it: whom it
counts against, whether the client is served by another backend, what its session ends of, and whether a backend that
fails so is ejected or marked down. What the kernel gives of its own accord is in test_own_shortage.py."""

from __future__ import annotations

import errno
import itertools
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from l4lb import Client
from l4lb.model.states import ConnectFailure
from l4lb.model.verdicts import Verdict, shortage_of
from tests.support.datagrams import UdpServer, serving_udp
from tests.support.faults import CONTROL, DATAGRAM, STREAM, TCP, UDP, Faults
from tests.support.peers import Server, connect, one_answer, serving
from tests.support.programs import L4lb, l4lb
from tests.support.waiting import wait_until

PEER, PATH, OWN = Verdict.PEER, Verdict.PATH, Verdict.OWN
OTHER = ConnectFailure.OTHER
CONFIG = """
[global]
workers = 1
[admin]
bind = "unix:{dir}/admin.sock"
[listeners.alone]
bind = "127.0.0.1:0"
pool = "alone"
[listeners.both]
bind = "127.0.0.1:0"
pool = "both"
[listeners.sourced]
bind = "127.0.0.1:0"
pool = "sourced"
[listeners.udp]
bind = "127.0.0.1:0"
protocol = "udp"
pool = "udp"
idle_timeout = "10m"
[listeners.checked]
bind = "127.0.0.1:0"
pool = "checked"
[pools.alone]
backends = ["{meddled}"]
connect_attempts = 1
health = {{ type = "none" }}
[pools.both]
policy = "first"
backends = ["{meddled}", "{live}"]
health = {{ type = "none" }}
passive = {{ failures = 2, eject_for = "50ms", max_ejected_percent = 100 }}
[pools.sourced]
source_address = "127.0.0.9"
backends = ["{live}"]
connect_attempts = 1
health = {{ type = "none" }}
[pools.udp]
policy = "first"
backends = ["{udp_meddled}", "{udp_live}"]
health = {{ type = "none" }}
passive = {{ failures = 2, eject_for = "50ms", max_ejected_percent = 100 }}
[pools.checked]
backends = ["{checked}"]
health = {{ type = "tcp", interval = "30ms", fast_interval = "30ms", down_interval = "30ms", rise = 1, fall = 1 }}
"""


@dataclass
class Bench:
    """A running balancer, its faults and its backends: `meddled` is whom the faults are about, `live` is left alone."""

    process: L4lb
    faults: Faults
    client: Client
    meddled: Server
    live: Server
    udp_meddled: UdpServer
    udp_live: UdpServer
    checked: Server

    def failed(self, pool: str, address: str) -> dict[str, int]:
        found = next(one for one in self.client.pool(pool)["backends"] if one["id"] == address)
        return {reason: count for reason, count in found["failed"].items() if count}

    def paths(self, pool: str, address: str) -> dict[str, int]:
        """What the network has said of datagrams."""
        found = next(one for one in self.client.pool(pool)["backends"] if one["id"] == address)
        return dict(found["path_errors"])

    def closed(self, listener: str) -> dict[str, int]:
        found = next(one for one in self.client.ask("GET", "/v1/listeners") if one["name"] == listener)
        return {reason: count for reason, count in found["closed"].items() if count}

    def events(self, kind: str, pool: str) -> int:
        return len(re.findall(rf"{kind} pool={pool}", self.process.log))

    def backend(self, pool: str, address: str) -> dict[str, Any]:
        return next(one for one in self.client.pool(pool)["backends"] if one["id"] == address)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory: Path = tmp_path_factory.mktemp("errnos")
    with (
        serving(one_answer(b"live")) as live,
        serving(one_answer(b"meddled")) as meddled,
        serving(one_answer(b"checked")) as checked,
        serving_udp() as udp_live,
        serving_udp() as udp_meddled,
        Faults() as faults,
    ):
        addresses = {"live": live, "meddled": meddled, "checked": checked}
        addresses |= {"udp_live": udp_live, "udp_meddled": udp_meddled}
        file = directory / "lb.toml"
        file.write_text(CONFIG.format(dir=directory, **{name: one.address for name, one in addresses.items()}))
        admin = f"unix:{directory}/admin.sock"
        with l4lb("serve", "-c", str(file), "--admin", admin, environment=faults.environment) as process:
            process.wait_for("admin listening")
            with Client(admin) as client:
                client.status()  # from here on it has a connection
                yield Bench(process, faults, client, meddled, live, udp_meddled, udp_live, checked)


def ask(address: tuple[str, int]) -> bytes:
    """The answer to one client; empty when it was reset."""
    try:
        with connect(address) as sock:
            sock.sendall(b"x")
            return sock.recv(10)
    except (ConnectionResetError, BrokenPipeError):
        return b""


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}


CONNECT = [
    *((number, PEER, ConnectFailure.REFUSED) for number in (errno.ECONNREFUSED, errno.ENOENT)),
    (errno.ECONNRESET, PEER, ConnectFailure.RESET),
    *(
        (number, PATH, ConnectFailure.UNREACHABLE)
        for number in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EINVAL)
    ),
    *((number, PATH, ConnectFailure.UNREACHABLE) for number in (errno.EPROTO, errno.ENOPROTOOPT, errno.EMSGSIZE)),
    (errno.ETIMEDOUT, PATH, ConnectFailure.TIMEOUT),
    *((number, PATH, OTHER) for number in (errno.EPROTOTYPE, errno.ECONNABORTED)),
    *(
        (number, OWN, ConnectFailure.RESOURCES)
        for number in (errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EAGAIN, errno.EPERM, errno.EACCES)
    ),
]
EVERYWHERE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
NAMES = [errno.errorcode[number] for number, _, _ in CONNECT]


@pytest.mark.parametrize(("number", "verdict", "reason"), CONNECT, ids=NAMES)
def test_connect_to_the_only_backend(bench: Bench, number: int, verdict: Verdict, reason: ConnectFailure) -> None:
    address, before = bench.process.address("alone"), bench.failed("alone", bench.meddled.address)
    closed = bench.closed("alone")
    with bench.faults.injected("connect", number, address_port=bench.meddled.port) as rule:
        assert ask(address) == b""
        assert rule.hit == 1
    assert grown(before, bench.failed("alone", bench.meddled.address)) == {reason: 1}
    ended = "connect_failed" if verdict is not OWN else "resource_limit"
    assert wait_until(lambda: grown(closed, bench.closed("alone")).get(ended) == 1)
    assert ask(address) == b"meddled"


@pytest.mark.parametrize(("number", "verdict", "reason"), CONNECT, ids=NAMES)
def test_connect_where_another_backend_is_left(
    bench: Bench, number: int, verdict: Verdict, reason: ConnectFailure
) -> None:
    address, before = bench.process.address("both"), bench.failed("both", bench.meddled.address)
    ejected = bench.events("backend ejected", "both")
    with bench.faults.injected("connect", number, address_port=bench.meddled.port):
        assert [ask(address) for _ in range(4)] == [b"live"] * 4
        if verdict is not OWN:
            assert wait_until(lambda: bench.events("backend ejected", "both") > ejected)
        else:
            assert grown(before, bench.failed("both", bench.meddled.address)) == {reason: 4}
            assert not bench.backend("both", bench.meddled.address)["ejected"]
            assert bench.events("backend ejected", "both") == ejected
    assert set(grown(before, bench.failed("both", bench.meddled.address))) == {reason}
    if verdict is not OWN:
        assert wait_until(lambda: not bench.backend("both", bench.meddled.address)["ejected"])
        assert wait_until(lambda: ask(address) == b"meddled")
    assert ask(address) == b"meddled"  # after an own want: at once
    assert bench.failed("both", bench.live.address) == {}


@pytest.mark.parametrize("call", ["socket", "connect"])
@pytest.mark.parametrize("number", EVERYWHERE, ids=errno.errorcode.get)
def test_what_is_short_for_every_backend_ends_the_session(bench: Bench, number: int, call: str) -> None:
    address, closed = bench.process.address("both"), bench.closed("both")
    before = bench.failed("both", bench.meddled.address)
    how = {"argument": socket.AF_INET | STREAM} if call == "socket" else {"address_port": bench.meddled.port}
    with bench.faults.injected(call, number, count=1, **how) as rule:
        assert ask(address) == b""
        assert rule.hit == 1
    assert wait_until(lambda: grown(closed, bench.closed("both")).get("resource_limit") == 1)
    assert grown(before, bench.failed("both", bench.meddled.address)) == {"resources": 1}
    assert ask(address) == b"meddled"


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EACCES, errno.EPERM])
def test_sockets_of_a_kind_that_cannot_be_had(bench: Bench, number: int) -> None:
    """Another backend may be of another kind."""
    address, before = bench.process.address("both"), bench.failed("both", bench.meddled.address)
    with bench.faults.injected("socket", number, count=1, argument=socket.AF_INET | STREAM):
        assert ask(address) == b"live"
    assert grown(before, bench.failed("both", bench.meddled.address)) == {"resources": 1}


BIND = [errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOMEM]


@pytest.mark.parametrize("number", BIND, ids=errno.errorcode.get)
def test_bind_to_the_source_address(bench: Bench, number: int) -> None:
    address, before = bench.process.address("sourced"), bench.failed("sourced", bench.live.address)
    closed = bench.closed("sourced")
    with bench.faults.injected("bind", number, kinds=TCP):
        assert [ask(address), ask(address)] == [b"", b""]
    assert grown(before, bench.failed("sourced", bench.live.address)) == {"resources": 2}
    assert wait_until(lambda: grown(closed, bench.closed("sourced")).get("resource_limit") == 2)
    assert ask(address) == b"live"


# ---- udp ----

_numbers = itertools.count()


def new_client(bench: Bench) -> socket.socket:
    """From an address that no session has yet: a port might be that of a client who has left."""
    number = next(_numbers)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.bind((f"127.2.{number // 250}.{1 + number % 250}", 0))
    sock.connect(bench.process.address("udp"))
    return sock


def heard(bench: Bench) -> str:
    """Who answered a new client's datagram; empty when nobody did."""
    with new_client(bench) as sock:
        data = b"%d" % next(_numbers)
        sock.send(data)
        try:
            assert sock.recv(100) == data
        except TimeoutError:
            return ""
    return "live" if data in bench.udp_live.received else "meddled"


def udp_is_as_before(bench: Bench) -> bool:
    """Backends are passed over for a second after they could not be asked, and may be ejected for as long."""
    if not wait_until(lambda: not bench.backend("udp", bench.udp_meddled.address)["ejected"]):
        return False
    return bool(wait_until(lambda: heard(bench) == "meddled", 10))


@pytest.mark.parametrize(
    ("number", "verdict", "reason"),
    [one for one in CONNECT if one[0] not in (errno.EAGAIN, errno.EADDRINUSE, errno.EADDRNOTAVAIL)],
    ids=errno.errorcode.get,
)
def test_udp_connect(bench: Bench, number: int, verdict: Verdict, reason: ConnectFailure) -> None:
    before, ejected = bench.failed("udp", bench.udp_meddled.address), bench.events("backend ejected", "udp")
    with bench.faults.injected("connect", number, address_port=bench.udp_meddled.port) as rule:
        assert [heard(bench) for _ in range(3)] == ["live"] * 3
        assert rule.hit
    assert set(grown(before, bench.failed("udp", bench.udp_meddled.address))) == {reason}
    assert verdict is not OWN or bench.events("backend ejected", "udp") == ejected
    assert bench.failed("udp", bench.udp_live.address) == {}
    assert udp_is_as_before(bench)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EADDRINUSE, errno.EADDRNOTAVAIL], ids=errno.errorcode.get)
def test_udp_connect_without_a_port_makes_room_and_is_tried_again(bench: Bench, number: int) -> None:
    assert heard(bench) == "meddled"
    before = bench.failed("udp", bench.udp_meddled.address)
    with bench.faults.injected("connect", number, count=1, address_port=bench.udp_meddled.port) as rule:
        assert heard(bench) == "meddled"
        assert rule.hit == 1
    assert grown(before, bench.failed("udp", bench.udp_meddled.address)) == {}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE], ids=errno.errorcode.get)
def test_udp_without_a_file_descriptor_makes_room(bench: Bench, number: int) -> None:
    assert heard(bench) == "meddled"
    with bench.faults.injected("socket", number, count=1, argument=socket.AF_INET | DATAGRAM) as rule:
        assert heard(bench) == "meddled"
        assert rule.hit == 1


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get)
def test_udp_without_memory_drops_the_datagram(bench: Bench, number: int) -> None:
    ejected = bench.events("backend ejected", "udp")
    before = bench.failed("udp", bench.udp_meddled.address)
    with bench.faults.injected("socket", number, argument=socket.AF_INET | DATAGRAM):
        with new_client(bench) as sock:
            sock.send(b"lost")
            assert wait_until(lambda: grown(before, bench.failed("udp", bench.udp_meddled.address)) == {"resources": 1})
    assert bench.events("backend ejected", "udp") == ejected
    assert heard(bench) == "meddled"


def test_udp_send_that_a_firewall_forbids_goes_to_another_backend(bench: Bench) -> None:
    before, ejected = bench.failed("udp", bench.udp_meddled.address), bench.events("backend ejected", "udp")
    said = bench.paths("udp", bench.udp_meddled.address)
    with bench.faults.injected("send", errno.EPERM, kinds=UDP, peer_port=bench.udp_meddled.port):
        assert [heard(bench) for _ in range(3)] == ["live"] * 3
    assert set(grown(before, bench.failed("udp", bench.udp_meddled.address))) == {"resources"}
    assert bench.paths("udp", bench.udp_meddled.address) == said, "a firewall of this host is not the network"
    assert bench.events("backend ejected", "udp") == ejected
    assert udp_is_as_before(bench)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get)
def test_udp_send_that_finds_no_room_loses_that_datagram_alone(bench: Bench, number: int) -> None:
    before = bench.failed("udp", bench.udp_meddled.address)
    with new_client(bench) as sock:
        with bench.faults.injected("send", number, count=1, kinds=UDP, peer_port=bench.udp_meddled.port) as rule:
            sock.send(b"lost")
            assert wait_until(lambda: rule.hit == 1)
        sock.send(b"found")
        assert sock.recv(10) == b"found"
    assert grown(before, bench.failed("udp", bench.udp_meddled.address)) == {}


@pytest.mark.parametrize("number", [errno.EMSGSIZE, errno.EPROTO], ids=errno.errorcode.get)
def test_udp_send_that_tells_of_an_earlier_datagram_is_made_again(bench: Bench, number: int) -> None:
    before = bench.failed("udp", bench.udp_meddled.address)
    with new_client(bench) as sock:
        sock.send(b"earlier")
        assert sock.recv(10) == b"earlier"
        with bench.faults.injected("send", number, count=1, kinds=UDP, peer_port=bench.udp_meddled.port) as rule:
            sock.send(b"this")
            assert sock.recv(10) == b"this"
            assert rule.hit == 1
    assert grown(before, bench.failed("udp", bench.udp_meddled.address)) == {}


# ---- health checks ----


@pytest.mark.parametrize(("number", "verdict", "_reason"), CONNECT, ids=NAMES)
def test_checks_that_cannot_connect(bench: Bench, number: int, verdict: Verdict, _reason: ConnectFailure) -> None:
    checked = bench.checked.address
    assert wait_until(lambda: bench.backend("checked", checked)["health"] == "up")
    with bench.faults.injected("connect", number, threads=CONTROL, address_port=bench.checked.port) as rule:
        if verdict is OWN:
            assert wait_until(lambda: rule.hit >= 3)
            assert bench.backend("checked", checked)["health"] == "up"
        else:
            assert wait_until(lambda: bench.backend("checked", checked)["health"] == "down")
    assert wait_until(lambda: bench.backend("checked", checked)["health"] == "up")


@pytest.mark.parametrize("number", [*EVERYWHERE, errno.EPERM, errno.EAFNOSUPPORT], ids=errno.errorcode.get)
def test_checks_that_get_no_socket(bench: Bench, number: int) -> None:
    checked = bench.checked.address
    assert shortage_of(number, socket.AF_INET)
    assert wait_until(lambda: bench.backend("checked", checked)["health"] == "up")
    downs = bench.events("backend down", "checked")
    with bench.faults.injected("socket", number, threads=CONTROL, argument=socket.AF_INET | STREAM) as rule:
        assert wait_until(lambda: rule.hit >= 3)
    assert bench.backend("checked", checked)["health"] == "up"
    assert bench.events("backend down", "checked") == downs
    bench.process.wait_for("checks not made")
