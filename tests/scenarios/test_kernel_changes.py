"""Tables that change under traffic in the kernel: short sessions, connections that stay, and flows of UDP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.client import Client
from l4lb.remote import RemoteBackend
from tests.scenarios.test_kernel_life import busy, expect_all, sixty
from tests.scenarios.test_kernel_listener import World, world
from tests.scenarios.test_upgrade import gone, upgraded
from tests.support.namespaces import BACKEND, FRONT, Hosts
from tests.support.slow import first_and_slow
from tests.support.waiting import wait_until

CHANGES = 60
DNS6 = f"""
[listeners.dns6]
bind = "[{FRONT[6]}]:53"
protocol = "udp"
pool = "dns6"
engine = "kernel"
[pools.dns6]
policy = "random"
backends = ["[{BACKEND[6]}]:8001", "[{BACKEND[6]}]:8002"]
health = {{ type = "none" }}
"""
SECOND = {"web": BACKEND[4], "web6": f"[{BACKEND[6]}]", "dns": BACKEND[4], "dns6": f"[{BACKEND[6]}]"}


def each_second(client: Client, *pools: str) -> list[RemoteBackend]:
    """Of their backends."""
    return [client.pools[pool][f"{SECOND[pool]}:8002"] for pool in pools]


@pytest.mark.parametrize("attach", first_and_slow("tcx", "native"))
def test_short_sessions_while_large_tables_change(attach: str, hosts: Hosts, tmp_path: Path) -> None:
    """Nearly all slots of 65,537 get another backend each time, of both families in turn: no session fails."""
    with world(hosts, tmp_path, attach) as made, Client(made.admin) as client:
        made.file.write_text(made.file.read_text().replace("table_size = 251", "table_size = 65537"))
        client.reload()
        with busy(hosts.client) as one, busy(hosts.client, 6) as other:
            before = client.status()["snapshot_version"]
            digests = set()
            for number in range(CHANGES):
                for backend in each_second(client, "web", "web6"):
                    backend.set_weight((50, 1)[number % 2])
                digests.add(client.pools["web"].table_digest)
            assert client.status()["snapshot_version"] >= before + 2 * CHANGES
            assert len(digests) == 2
            assert min(one.end(), other.end()) > 20


def through(made: World, check: Callable[[], None]) -> None:
    """Everything that changes who is chosen, one after the other."""
    with Client(made.admin) as client:
        for weight in (50, 1, 50):
            for backend in each_second(client, *SECOND):
                backend.set_weight(weight)
            check()
        for backend in each_second(client, *SECOND):
            backend.drain()
        check()
        for family in (4, 6):
            assert {made.ask(f"{family}-new-{number}", family) for number in range(20)} == {"8001"}
            assert {made.query(f"{family}-qnew-{number}", family) for number in range(20)} == {"8001"}
        for backend in each_second(client, *SECOND):
            backend.ready()
        text = made.file.read_text()
        made.file.write_text(text.replace("table_size = 251", "table_size = 509").replace('"ring"', '"maglev"'))
        assert client.reload().pools[2] == 2
        check()


def test_connections_and_flows_of_udp_go_through_all_changes(hosts: Hosts, tmp_path: Path) -> None:
    """Sixty connections and forty flows of UDP, of both families: weights, drain, reload, upgrade."""
    with world(hosts, tmp_path) as made:
        made.file.write_text(made.file.read_text() + DNS6)
        with Client(made.admin) as client:
            client.reload()
        found = sixty(made)
        names = [f"{family}-q{number}" for family in (4, 6) for number in range(20)]
        asked = {name: made.query(name, int(name[0])) for name in names}
        assert set(asked.values()) == {"8001", "8002"}

        def check() -> None:
            expect_all(made, found)
            assert {name: made.query(name, int(name[0])) for name in asked} == asked

        through(made, check)
        pid = made.process.process.pid
        upgraded(made.process, pid, made.admin)
        check()
        assert wait_until(lambda: gone(pid))
        check()
