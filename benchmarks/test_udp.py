"""UDP beside nginx stream: DNS queries in long sessions and in one each, and trains of datagrams."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import trains
from benchmarks.comparing import Bar
from benchmarks.conftest import Compare
from benchmarks.load import dnsperf
from benchmarks.peers import Lineup, Udp, listens, peers_udp, program
from tests.support.programs import free_port
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


@pytest.fixture(scope="session")
def dns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an NSD that has one zone."""
    port, directory = free_port(), tmp_path_factory.mktemp("nsd")
    (directory / "zone").write_text(ZONE)
    (directory / "nsd.conf").write_text(NSD.format(port=port, directory=directory))
    with (directory / "log").open("w") as log:
        server = subprocess.Popen([program("nsd"), "-d", "-c", str(directory / "nsd.conf")], stdout=log, stderr=log)
        try:
            assert wait_until(lambda: listens(port, udp=True) or server.poll() is not None), log.name
            assert server.poll() is None, (directory / "log").read_text()
            yield port
        finally:
            server.terminate()
            server.wait()


@pytest.fixture(scope="session")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("dnsperf") / "queries"
    file.write_text("".join(f"host{number}.example.test A\n" for number in range(1000)))
    return file


@pytest.mark.parametrize("answers", [0, 1], ids=["long sessions", "one session a query"])
def test_dns(
    compare: Compare, dns: int, queries: Path, tmp_path: Path, seconds: int, answers: int, lineup: Lineup
) -> None:
    program("dnsperf")
    cpu, rate = (0.33, 2.4) if answers else (0.8, 1.0)
    bars = (Bar("CPU us", cpu), Bar("queries/s", rate, higher_is_better=True))
    title = f"DNS, 50 clients, {'one session a query' if answers else 'long sessions'}"
    with peers_udp(dns, tmp_path, Udp(answers), lineup) as running:
        seen = compare(title, bars, running, lambda one: dnsperf(one, queries, 50, seconds))
    assert seen.total("l4lb", "failed") == 0


def test_trains(compare: Compare, tmp_path: Path, seconds: int, lineup: Lineup) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        stack.enter_context(trains.echo_server(port))
        assert wait_until(lambda: listens(port, udp=True))
        running = stack.enter_context(peers_udp(port, tmp_path, Udp(), lineup))
        title = "trains of 1,200-byte datagrams, one flow, both ways (unit: GB)"
        seen = compare(title, (Bar("CPU us", 0.3),), running, lambda one: trains.run(one, seconds))
    assert seen.total("l4lb", "failed") == 0
