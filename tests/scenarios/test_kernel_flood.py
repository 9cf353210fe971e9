"""Floods from spoofed sources, by a packet generator, at listeners with ``engine = "kernel"``: what they take from real
clients, and from memory. A million packets in the long form (L4LB_SOAK=1)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.client import Client
from tests.scenarios.test_kernel_forwarding import said
from tests.scenarios.test_kernel_life import expect_all, sixty
from tests.scenarios.test_kernel_listener import World, world
from tests.support.bpf import memory_of_maps
from tests.support.flooding import SOURCES
from tests.support.namespaces import BACKEND, CLIENT, FRONT, Hosts
from tests.support.programs import without_preload
from tests.support.slow import first_and_slow
from tests.support.waiting import wait_until

SYNS = 1_000_000 if os.environ.get("L4LB_SOAK") else 200_000  # there is room for 65,536 handshakes
DATAGRAMS = 1_000_000 if os.environ.get("L4LB_SOAK") else 400_000  # ... and for 262,144 flows of UDP
MEMORY_MAX = 32 << 20  # that the process may take more: requests of the API, reading of flows
STEPS_MIN = 4  # a change of the tables to and fro, twice
WITHIN_S = 300.0


@pytest.fixture(autouse=True)
def routes_to_spoofed_sources(hosts: Hosts) -> Iterator[None]:
    """Answers to them lead to the client, who drops them."""
    with contextlib.ExitStack() as stack:
        for family, network in SOURCES.items():
            route = (network, "via", CLIENT[family])
            hosts.balancer.ip(f"-{family}", "route", "add", *route)
            stack.callback(hosts.balancer.ip, f"-{family}", "route", "del", *route)
        yield


def device_with(addresses: str, wanted: str) -> dict[str, str]:
    """Of what `ip -j addr` says: the device that has an address."""
    return next(one for one in json.loads(addresses) if wanted in (known.get("local") for known in one["addr_info"]))


@contextlib.contextmanager
def flooded(hosts: Hosts, protocol: str, *targets: tuple[str, int]) -> Iterator[subprocess.Popen[str]]:
    """By this generator, for as long as the block lasts."""
    device = device_with(hosts.client.ip("-j", "addr"), CLIENT[4])["ifname"]
    link = device_with(hosts.balancer.ip("-j", "addr"), FRONT[4])["address"]
    to = [word for host, port in targets for word in (host, str(port))]
    command = [*hosts.client.command, sys.executable, "-m", "tests.support.flooding", device, link, protocol, *to]
    with subprocess.Popen(
        command, env=without_preload(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        try:
            assert said(process) == "up"
            yield process
            assert process.stdin is not None
            process.stdin.close()
            assert int(said(process)) > 0
        finally:
            process.kill()


def packets_up(client: Client, *listeners: str) -> int:
    found = {one["name"]: one for one in client.status()["listeners"]}
    return sum(found[name]["in_kernel"]["traffic"]["packets_up"] for name in listeners)


def resident_bytes(pid: int) -> int:
    found = re.search(r"^VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


@contextlib.contextmanager
def no_memory_taken(made: World) -> Iterator[None]:
    pid = made.process.process.pid
    maps, process = memory_of_maps(pid), resident_bytes(pid)
    assert len(maps) > 10
    yield
    assert memory_of_maps(pid) == maps
    assert resident_bytes(pid) < process + MEMORY_MAX


def steps_until(
    flood: subprocess.Popen[str], count: Callable[[], int], enough: int, step: Callable[[int], None]
) -> int:
    """`step` again and again, a few times at least, until so many packets have come through. How often that was."""
    until, deadline, number = count() + enough, time.monotonic() + WITHIN_S, 0
    while number < STEPS_MIN or count() < until:
        assert flood.poll() is None
        assert time.monotonic() < deadline, f"{until - count()} packets are missing"
        step(number)
        number += 1
    return number


def change_tables(client: Client, number: int) -> None:
    """Nearly all of what was forgotten would go to the second backend from now on, or half of it to the first one."""
    for pool, host in (("web", BACKEND[4]), ("web6", f"[{BACKEND[6]}]")):
        client.pools[pool][f"{host}:8002"].set_weight((50, 1)[number % 2])


@pytest.mark.parametrize("attach", first_and_slow("tcx", "native"))
def test_syns_of_both_families_cost_no_connection(attach: str, hosts: Hosts, tmp_path: Path) -> None:
    """Sixty connections ask on while tables change: each keeps its backend. New clients come and are served. SYNs alone
    are no sessions, and neither maps nor process grow."""
    with world(hosts, tmp_path, attach) as made, Client(made.admin) as client:
        found = sixty(made)
        with no_memory_taken(made), flooded(hosts, "tcp", (FRONT[4], 80), (FRONT[6], 80)) as flood:

            def step(number: int) -> None:
                change_tables(client, number)
                expect_all(made, found)
                for family in (4, 6):
                    assert made.ask(f"{family}-new-{number}", family) in ("8001", "8002")

            count = steps_until(flood, lambda: packets_up(client, "web", "web6"), SYNS, step)
        expect_all(made, found)
        assert [made.listener(name)["sessions_total"] for name in ("web", "web6")] == [40 + count, 20 + count]


def query(made: World, name: str) -> str:
    """A datagram, or its answer, may be lost on the way, where queues are full."""
    return next((one for one in (made.query(name) for _ in range(5)) if one != "TimeoutError"), "")


@pytest.mark.parametrize("attach", first_and_slow("tcx", "native"))
def test_datagrams_push_out_flows_of_udp_and_nothing_else(attach: str, hosts: Hosts, tmp_path: Path) -> None:
    """Each datagram of an unknown source is a flow, for which one that has long been silent goes: a client may be
    forgotten. It keeps its backend all the same, by its hash, until the table changes. Connections are kept through
    changes too, as in a flood of SYNs; and neither maps nor process grow."""
    with world(hosts, tmp_path, attach) as made, Client(made.admin) as client:
        text = made.file.read_text()
        made.file.write_text(text.replace('policy = "random"', 'policy = "maglev"\nhash_key = "source_ip_port"'))
        client.reload()
        found, asked = sixty(made), {f"q{number}": query(made, f"q{number}") for number in range(20)}
        assert set(asked.values()) == {"8001", "8002"}
        with no_memory_taken(made), flooded(hosts, "udp", (FRONT[4], 53)) as flood:

            def step(number: int) -> None:
                change_tables(client, number)
                expect_all(made, found)
                name = f"q{number % 10}"  # the others are silent
                assert query(made, name) == asked[name]
                assert query(made, f"new-{number}") in ("8001", "8002")

            steps_until(flood, lambda: packets_up(client, "dns"), DATAGRAMS, step)
        # Counted anew, while none comes and goes: so many as there is room for.
        assert wait_until(lambda: client.listeners["dns"].status["sessions_active"] <= 1 << 18, 20)
        assert {name: query(made, name) for name in asked} == asked
        expect_all(made, found)
