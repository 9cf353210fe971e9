"""Real programs that speak UDP, through l4lb."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import Config, Listener, LoadBalancer, Pool
from l4lb.config import AdminConfig
from tests.support.balancing import NO_CHECKS, address_of, balancing
from tests.support.dns import dig, dnsdist, recursor, taken
from tests.support.programs import free_port, require, run, without_preload
from tests.support.servers import Program, dns_server, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external

LONG = "--txt-record=long.example," + ",".join("x" * 250 for _ in range(12))


@contextlib.contextmanager
def both(backend: str, **options: Any) -> Iterator[tuple[LoadBalancer, str]]:
    """A TCP and a UDP listener on one port and one pool."""
    address = f"127.0.0.1:{free_port()}"
    listeners = {
        "tcp": Listener(bind=address, pool="both"),
        "udp": Listener(bind=address, protocol="udp", pool="both", **options),
    }
    pool = Pool(backends=[backend], health=NO_CHECKS)
    with LoadBalancer(Config(admin=AdminConfig(bind="off"), listeners=listeners, pools={"both": pool})) as balancer:
        yield balancer, address


# ---- DNS ----


def test_an_answer_that_is_truncated_is_asked_for_again_over_tcp() -> None:
    with dns_server(LONG) as server, both(server.address) as (balancer, address):
        assert "192.0.2.1" in dig(address, "up.example", "A", "+short")
        said = dig(address, "long.example", "TXT")
        assert "Truncated, retrying in TCP mode" in said
        assert said.count("x" * 250) == 12
        stats = balancer.stats()
        assert (stats.listeners["udp"].sessions_total, stats.listeners["tcp"].sessions_total) == (2, 1)
        assert not stats.listeners["udp"].dropped


@pytest.mark.parametrize("limits", [{}, {"udp_responses": 1}, {"udp_responses": 1, "udp_requests": 1}])
def test_dnsperf_loses_nothing(limits: dict[str, int], tmp_path: Path) -> None:
    queries = tmp_path / "queries"
    queries.write_text("up.example A\n" * 20_000)
    listener = {"protocol": "udp", **limits}
    with dns_server() as server, balancing([server.address], listener=listener) as balancer:
        host, _, port = address_of(balancer).rpartition(":")
        load = ["-d", str(queries), "-n", "1", "-c", "20", "-q", "50", "-t", "20"]
        said = run("dnsperf", "-s", host, "-p", port, *load, timeout_s=120)
        assert re.search(r"Queries completed:\s+20000 ", said), said
        assert re.search(r"Queries lost:\s+0 ", said), said
        assert re.search(r"Response codes:\s+NOERROR 20000 ", said), said
        stats = balancer.stats()
        assert not stats.listeners["web"].dropped
        backend = stats.pools["web"].backends[server.address]
        assert (backend.datagrams_up, backend.datagrams_down) == (20_000, 20_000)
        if limits.get("udp_requests"):
            assert stats.listeners["web"].sessions_total == 20_000


# ---- the PROXY protocol ----


def test_dnsdist_tells_the_client_and_the_recursor_hears_it() -> None:
    """dig, dnsdist, l4lb, pdns-recursor: the last one logs the first one's address."""
    with dns_server() as authority, recursor(authority) as last:
        listener = {"protocol": "udp", "accept_proxy": "v2", "proxy_trusted": ["127.0.0.0/8"]}
        with balancing([last.address], listener=listener, send_proxy="v2") as balancer:
            server = f'newServer({{address="{address_of(balancer)}", useProxyProtocol=true}}):setUp()\n'
            with dnsdist(server) as first:
                for source in ("127.0.0.9", "127.0.0.10", "127.0.0.9"):
                    assert dig(first.address, "up.example", "A", "+short", source=source) == "192.0.2.1\n"
                questions = re.findall(r'msg="Question".*remote="(\S+):\d+ \(proxied by', last.log)
                assert questions == ["127.0.0.9", "127.0.0.10", "127.0.0.9"], last.log
                assert not balancer.stats().listeners["web"].dropped


def test_dnsdist_behind_it_knows_the_client() -> None:
    rules = """setProxyProtocolACL({"127.0.0.0/8"})
clients = newNMG()
clients:addMask("127.0.0.9/32")
addAction(NetmaskGroupRule(clients), SpoofAction("192.0.2.9"))
addAction(AllRule(), SpoofAction("192.0.2.1"))
"""
    with dnsdist(rules) as server:
        with balancing([server.address], listener={"protocol": "udp"}, send_proxy="v2") as balancer:
            for source, answer in (("127.0.0.9", "192.0.2.9"), ("127.0.0.10", "192.0.2.1"), ("127.0.0.9", "192.0.2.9")):
                assert dig(address_of(balancer), "up.example", "A", "+short", source=source) == f"{answer}\n"


# ---- syslog ----

RSYSLOG = """
global(workDirectory="{dir}" maxMessageSize="16k")
module(load="imudp")
input(type="imudp" address="127.0.0.1" port="{port}" rcvbufSize="4m")
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{dir}/received" template="raw")
"""


@contextlib.contextmanager
def syslog_server() -> Iterator[Program]:
    program = require("rsyslogd")

    def command(directory: Path, port: int) -> list[str]:
        (directory / "conf").write_text(RSYSLOG.format(dir=directory, port=port))
        return [program, "-n", "-f", str(directory / "conf"), "-i", str(directory / "pid")]

    with running("rsyslog", command, ready=lambda server: taken(server.port)) as server:
        yield server


def test_what_logger_sends_is_received_whole(tmp_path: Path) -> None:
    lines = [f"{number} " + "m" * random.Random(number).randint(0, 7000) for number in range(300)]
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(syslog_server()) for _ in range(2)]
        balancer = stack.enter_context(balancing([one.address for one in servers], listener={"protocol": "udp"}))
        host, _, port = address_of(balancer).rpartition(":")
        for _ in servers:
            run(
                "logger",
                "-n",
                host,
                "-P",
                port,
                "-d",
                "--rfc3164",
                "-S",
                "8KiB",
                "-t",
                "soak",
                "-f",
                f"{tmp_path}/lines",
            )

        def received() -> list[list[str]]:
            files = [one.directory / "received" for one in servers]
            return [
                [line.partition(": ")[2] for line in file.read_text().splitlines()] for file in files if file.exists()
            ]

        assert wait_until(lambda: received() == [lines, lines], 20), [len(one) for one in received()]
        assert not balancer.stats().listeners["web"].dropped


# ---- iperf3 ----


@pytest.mark.alone
@pytest.mark.parametrize("reverse", [False, True])
def test_iperf3_loses_nothing_below_saturation(reverse: bool, tmp_path: Path) -> None:
    """Its control connection is TCP, to the same server."""
    port = free_port()
    with (tmp_path / "log").open("w") as log:
        command = [require("iperf3"), "-s", "-p", str(port), "-1", "--forceflush"]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=without_preload())
    try:
        assert wait_until(lambda: "listening" in (tmp_path / "log").read_text())
        with both(f"127.0.0.1:{port}") as (balancer, address):
            host, _, front = address.rpartition(":")
            load = ["-u", "-b", "20M", "-l", "1200", "-t", "2", "-J", *(["-R"] if reverse else [])]
            done = json.loads(run("iperf3", "-c", host, "-p", front, *load))["end"]["sum"]
            assert done["packets"] > 3000
            assert done["lost_packets"] == 0, done
            assert not balancer.stats().listeners["udp"].dropped
    finally:
        server.kill()
        server.wait()
