"""UDP beside nginx stream, and dnsdist: DNS queries in long sessions and in one each; trains of datagrams."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import trains
from benchmarks.comparing import ADDED, OWN, Bar
from benchmarks.conftest import Compare
from benchmarks.load import dnsperf, paced
from benchmarks.peers import Lineup, Udp, listens, peers
from tests.support.programs import free_port, require
from tests.support.waiting import wait_until

NSD = """server:
  ip-address: 127.0.0.1@{port}
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "{directory}"
  pidfile: "{directory}/nsd.pid"
  xfrdfile: "{directory}/xfrd.state"
  zonelistfile: "{directory}/zone.list"
  cookie-secret-file: "{directory}/cookies"
  xfrdir: "{directory}"
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: example.test
  zonefile: zone
"""
ZONE = """$ORIGIN example.test.
$TTL 60
@ IN SOA ns hostmaster 1 3600 600 86400 60
@ IN NS ns
ns IN A 127.0.0.1
* IN A 192.0.2.1
"""


@dataclass(frozen=True)
class Server:
    port: int
    pid: int


@pytest.fixture(scope="session")
def dns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An NSD that has one zone."""
    port, directory = free_port(), tmp_path_factory.mktemp("nsd")
    (directory / "zone").write_text(ZONE)
    (directory / "nsd.conf").write_text(NSD.format(port=port, directory=directory))
    with (directory / "log").open("w") as log:
        server = subprocess.Popen([require("nsd"), "-d", "-c", str(directory / "nsd.conf")], stdout=log, stderr=log)
        try:
            assert wait_until(lambda: listens(port, udp=True) or server.poll() is not None), log.name
            assert server.poll() is None, (directory / "log").read_text()
            yield Server(port, server.pid)
        finally:
            server.terminate()
            server.wait()


@pytest.fixture(scope="session")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("dnsperf") / "queries"
    file.write_text("".join(f"host{number}.example.test A\n" for number in range(1000)))
    return file


def bars_of(answers: int) -> tuple[Bar, Bar]:
    """The bars of `answers` to a session: own and everybody's CPU time."""
    return (Bar(OWN, 0.38), Bar(ADDED, 0.33)) if answers else (Bar(OWN, 0.9), Bar(ADDED, 0.65))


def name_of(answers: int) -> str:
    return f"DNS, 50 clients, {'one session a query' if answers else 'long sessions'}"


@pytest.mark.parametrize("answers", [0, 1], ids=["long sessions", "one session a query"])
def test_dns(
    compare: Compare, dns: Server, queries: Path, tmp_path: Path, seconds: int, answers: int, lineup: Lineup
) -> None:
    require("dnsperf")
    bars = (*bars_of(answers), Bar("queries/s", 1.0, higher_is_better=True))
    names = lineup.queries
    with peers(names, dns.port, tmp_path, Udp(answers), lineup=lineup, server_pid=dns.pid) as running:
        seen = compare(name_of(answers), bars, running, lambda one: dnsperf(one, queries, 50, seconds))
    assert seen.total("l4lb", "failed") == 0


@pytest.mark.parametrize(("answers", "rate"), [(0, 10_000), (0, 40_000), (1, 5_000), (1, 20_000)])
def test_dns_at_a_rate(
    compare: Compare, dns: Server, tmp_path: Path, seconds: int, answers: int, rate: int, lineup: Lineup
) -> None:
    bars = (*bars_of(answers), Bar("p99 us", 1.0))
    title = f"{name_of(answers)}, {rate:,} a second"
    with peers(lineup.queries, dns.port, tmp_path, Udp(answers), lineup=lineup, server_pid=dns.pid) as running:
        seen = compare(title, bars, running, lambda one: paced(one, "dns", 50, rate, seconds))
    assert seen.total("l4lb", "failed") == 0


def test_trains(compare: Compare, tmp_path: Path, seconds: int, lineup: Lineup) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        pid = stack.enter_context(trains.echo_server(port))
        assert wait_until(lambda: listens(port, udp=True))
        running = stack.enter_context(peers(lineup.datagrams, port, tmp_path, Udp(), lineup=lineup, server_pid=pid))
        title = "trains of 1,200-byte datagrams, one flow, both ways (unit: GB)"
        seen = compare(title, (Bar(OWN, 0.3),), running, lambda one: trains.run(one, seconds))
    assert seen.total("l4lb", "failed") == 0
