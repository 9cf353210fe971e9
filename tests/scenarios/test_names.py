"""Backends that are given by name: each is one backend, at the first address of the name that takes connections. A name
that does not resolve is a backend that is down, and never a reason not to start or to reload."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.rcode
import pytest

from l4lb import LoadBalancer
from l4lb.config import HealthConfig
from l4lb.control.state.events import Event
from l4lb.offline import explain_pool
from tests.support.balancing import address_of, make_config
from tests.support.commands import Commands
from tests.support.datagrams import UdpClient, serving_udp
from tests.support.names import Table, dns_answering, resolving_by
from tests.support.peers import connect, echo, one_answer, serving
from tests.support.programs import free_port, l4lb
from tests.support.waiting import wait_until

FAST = HealthConfig(
    type="tcp", interval="100ms", fast_interval="100ms", down_interval="100ms", timeout="10s", rise=1, fall=1
)
DEAD, ALIVE, OTHER = "127.0.0.3", "127.0.0.1", "127.0.0.2"


@contextlib.contextmanager
def balancing(table: Table, backends: list[Any], **options: Any) -> Iterator[tuple[LoadBalancer, list[Event]]]:
    with LoadBalancer(make_config(backends, **options), lookup=table) as balancer:
        heard: list[Event] = []
        balancer.plane.events.subscribe(heard.append)
        yield balancer, heard


def backend(balancer: LoadBalancer, key: str) -> Any:
    found = [one for pool in balancer.status()["pools"] for one in pool["backends"] if one["id"] == key]
    return found[0]


def at(balancer: LoadBalancer, key: str) -> str:
    return str(backend(balancer, key)["resolved"]["address"])


def asked(address: str) -> bytes:
    with contextlib.suppress(ConnectionError), connect(address) as sock:
        sock.sendall(b"?")
        return sock.recv(100)
    return b""


def test_a_name_that_does_not_resolve_is_down_until_it_does() -> None:
    table = Table()
    with serving(one_answer(b"by name")) as named, serving(one_answer(b"other")) as other:
        key = f"db.example:{named.port}"
        with balancing(table, [key, other.address]) as (balancer, heard):
            for _ in range(4):
                assert asked(address_of(balancer)) == b"other"
            said = backend(balancer, key)
            reason = "name db.example does not resolve: NXDOMAIN"
            assert (said["health"], said["usable"], said["passed_over"]) == ("down", False, reason)
            assert said["resolved"] == {"address": "", "answer": [], "error": "NXDOMAIN"}
            table.hosts["db.example"] = [ALIVE]
            assert wait_until(lambda: backend(balancer, key)["usable"])
            assert backend(balancer, key)["health"] == "up"
            assert {asked(address_of(balancer)) for _ in range(4)} == {b"by name", b"other"}
            assert [event.kind for event in heard] == ["backend_resolved"]


@pytest.mark.parametrize("more", [{}, {"when_all_down": "use_all"}, {"panic_threshold": 50}])
def test_no_rule_about_health_connects_to_a_name_without_an_address(more: dict[str, Any]) -> None:
    with balancing(Table(), ["db.example:1"], health=FAST, **more) as (balancer, _):
        assert asked(address_of(balancer)) == b""
        assert backend(balancer, "db.example:1")["connect_failures"] == 0
        assert balancer.status()["pools"][0]["usable"] == 0


def test_a_name_server_that_is_silent_holds_neither_start_nor_reload_nor_loop() -> None:
    table = Table(hosts={"db.example": [ALIVE], "more.example": [ALIVE]})
    table.held = {"db.example": threading.Event(), "more.example": threading.Event()}
    with serving(one_answer(b"other")) as other, serving(one_answer(b"db")) as db:
        key = f"db.example:{db.port}"
        try:
            with balancing(table, [key, other.address]) as (balancer, _):
                assert asked(address_of(balancer)) == b"other"
                assert backend(balancer, key)["passed_over"].endswith("it has not been looked up yet")
                more = balancer.config.pools["web"].model_copy(
                    update={"backends": [*make_config(["more.example:1"]).pools["web"].backends]}
                )
                wanted = balancer.config.model_copy(
                    update={"pools": {"web": balancer.config.pools["web"], "more": more}}
                )
                balancer.reload(wanted)
                assert list(balancer.pools) == ["web", "more"]
                table.held["db.example"].set()
                assert wait_until(lambda: backend(balancer, key)["usable"])
        finally:
            for held in table.held.values():
                held.set()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("checked", [True, False])
def test_the_first_address_that_takes_connections_is_used_and_kept(checked: bool, protocol: str) -> None:
    table = Table(hosts={"db.example": [DEAD, ALIVE]})
    server: Any = serving(echo, ALIVE) if protocol == "tcp" else serving_udp(host=ALIVE, port=free_port())
    with server as running, contextlib.ExitStack() as stack:
        if checked and protocol == "udp":  # something that a check can connect to
            stack.enter_context(serving(echo, ALIVE, running.port))
        key = f"db.example:{running.port}"
        options: dict[str, Any] = {"listener": {"protocol": protocol}, **({"health": FAST} if checked else {})}
        with balancing(table, [key], **options) as (balancer, heard):

            def works() -> bool:
                if protocol == "tcp":
                    return asked(address_of(balancer)) == b"?"
                with contextlib.closing(UdpClient(address_of(balancer), 0.3)) as client:
                    with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                        return client.ask(b"?") == b"?"
                    return False

            assert wait_until(works, 20)
            assert at(balancer, key) == f"{ALIVE}:{running.port}"
            asked_before, moves = table.asked["db.example"], sum(event.kind == "backend_resolved" for event in heard)
            assert wait_until(lambda: table.asked["db.example"] > asked_before + 1)
            assert works(), "the first is in the answer still, and this one works"
            assert at(balancer, key) == f"{ALIVE}:{running.port}"
            assert sum(event.kind == "backend_resolved" for event in heard) == moves <= 1  # it may move before we hear


def test_all_addresses_dead_is_down_and_the_first_that_comes_back_serves() -> None:
    table = Table(hosts={"db.example": [DEAD, OTHER, "::1"]})
    port = free_port()
    with balancing(table, [f"db.example:{port}"], health=FAST) as (balancer, heard):
        key = f"db.example:{port}"
        assert wait_until(lambda: len({e.fields["address"] for e in heard if e.kind == "backend_resolved"}) == 3), (
            "each"
        )
        assert backend(balancer, key)["health"] == "down"
        assert sum(event.kind == "backend_up" for event in heard) == 0
        with serving(one_answer(b"six"), "::1", port):
            assert wait_until(lambda: asked(address_of(balancer)) == b"six")


def test_another_address_takes_new_sessions_and_old_ones_go_on() -> None:
    table = Table(hosts={"db.example": [ALIVE]})
    port = free_port()
    with serving(echo, ALIVE, port), serving(one_answer(b"new"), OTHER, port):
        key = f"db.example:{port}"
        with balancing(table, [key]) as (balancer, _), connect(address_of(balancer)) as old:
            old.sendall(b"1")
            assert old.recv(10) == b"1"
            table.hosts["db.example"] = [OTHER]
            assert wait_until(lambda: asked(address_of(balancer)) == b"new")
            old.sendall(b"2")
            assert old.recv(10) == b"2"
            assert backend(balancer, key)["sessions_total"] == balancer.stats().pools["web"].sessions_total >= 2


def test_the_same_answer_in_another_order_changes_nothing() -> None:
    table = Table(hosts={"db.example": [ALIVE, OTHER]})
    with serving(echo) as server, balancing(table, [f"db.example:{server.port}"]) as (balancer, heard):
        version = balancer.status()["snapshot_version"]
        table.hosts["db.example"] = [OTHER, ALIVE]
        count = table.asked["db.example"]
        assert wait_until(lambda: table.asked["db.example"] > count + 2)
        assert balancer.status()["snapshot_version"] == version
        assert heard == []
        assert at(balancer, f"db.example:{server.port}") == server.address


def test_a_look_up_that_fails_later_takes_nothing_away() -> None:
    table = Table(hosts={"db.example": [ALIVE]})
    with serving(echo) as server, balancing(table, [f"db.example:{server.port}"], health=FAST) as (balancer, heard):
        key = f"db.example:{server.port}"
        del table.hosts["db.example"]
        assert wait_until(lambda: backend(balancer, key)["resolved"]["error"] == "NXDOMAIN")
        assert asked(address_of(balancer)) == b"?"
        assert backend(balancer, key)["resolved"] == {"address": server.address, "answer": [ALIVE], "error": "NXDOMAIN"}
        assert wait_until(lambda: table.asked["db.example"] > 3)
        stale = [event for event in heard if event.kind == "name_stale"]
        assert [event.fields["reason"] for event in stale] == ["NXDOMAIN: its last answer stays"]
        changed = make_config([{"address": key, "weight": 5}], health=FAST)
        balancer.reload(changed)
        assert asked(address_of(balancer)) == b"?", "a reload that keeps the name keeps its address"
        assert backend(balancer, key)["health"] == "up"


def test_added_and_removed_at_runtime_by_its_name() -> None:
    table = Table(hosts={"db.example": [ALIVE]})
    with serving(one_answer(b"db")) as server, balancing(table, ["127.0.0.1:1"]) as (balancer, _):
        key = f"db.example:{server.port}"
        balancer.pools["web"].add(key)
        balancer.pools["web"]["127.0.0.1:1"].drain()
        assert asked(address_of(balancer)) == b"db"
        balancer.pools["web"].add("none.example:1")
        assert backend(balancer, "none.example:1")["passed_over"].endswith("does not resolve: NXDOMAIN")
        balancer.pools["web"].remove("none.example:1")
        count = table.asked["none.example"]
        assert list(balancer.pools["web"]) == ["127.0.0.1:1", key]
        before = table.asked["db.example"]
        assert wait_until(lambda: table.asked["db.example"] > before + 2)
        assert table.asked["none.example"] <= count + 1, "nobody wants to know of it any more"


def test_tables_and_explanations_go_by_the_name() -> None:
    """So they are equal on every node, whatever the name resolves to there, and without looking it up."""
    names = ["a.example:1", "b.example:1", "c.example:1"]
    digests, chosen = set(), set()
    for hosts in ([ALIVE], [OTHER]):
        table = Table(hosts={name.partition(":")[0]: hosts for name in names})
        with balancing(table, names, policy="maglev") as (balancer, _):
            digests.add(balancer.status()["pools"][0]["table_digest"])
            chosen.add(balancer.explain("web", "192.0.2.7")["chosen"])
    offline = explain_pool(make_config(names, policy="maglev"), "web", "192.0.2.7")
    assert digests == {offline["table_digest"]}
    assert chosen == {offline["chosen"]}


# ---- the process, and real answers ----

FILE = """
[global]
workers = 1
[admin]
bind = "unix:{directory}/admin.sock"
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
[pools.web]
backends = ["db.example:{backend}", "hosts.example:{backend}"]
policy = "first"
health.type = "none"
"""


def status_of(directory: Path) -> dict[str, Any]:
    said = json.loads(Commands(f"unix:{directory}/admin.sock").ok("status", "--json"))
    return {one["id"].partition(":")[0]: one for pool in said["pools"] for one in pool["backends"]}


def test_by_dns_and_hosts_with_every_kind_of_failure_and_through_an_upgrade(tmp_path: Path) -> None:
    port = free_port()
    with dns_answering() as dns_, serving(echo, ALIVE) as server, serving(one_answer(b"two"), OTHER, server.port):
        file = tmp_path / "lb.toml"
        file.write_text(FILE.format(directory=tmp_path, port=port, backend=server.port))
        within = resolving_by(dns_.host, tmp_path)
        dns_.silent.add("db.example")
        with l4lb("serve", "-c", str(file), within=within, admin=True) as process:
            process.address("web")
            process.wait_for("backend down .*name hosts.example does not resolve: NXDOMAIN")
            process.wait_for("backend down .*name db.example does not resolve: no answer from the name server")
            dns_.silent.clear()
            dns_.rcodes["db.example"] = dns.rcode.SERVFAIL
            process.wait_for("backend down .*name db.example does not resolve: SERVFAIL")
            dns_.rcodes.clear()
            dns_.records["db.example"] = [ALIVE]
            assert wait_until(lambda: asked(f"127.0.0.1:{port}") == b"?", 20)
            dns_.records["db.example"] = [OTHER]  # TTL 1
            assert wait_until(lambda: asked(f"127.0.0.1:{port}") == b"two", 20)
            (tmp_path / "hosts").write_text("127.0.0.1 localhost\n127.0.0.1 hosts.example\n")
            assert wait_until(lambda: status_of(tmp_path)["hosts.example"]["usable"], 40)
            dns_.silent.add("db.example")
            process.signal(signal.SIGUSR2)
            new = int(process.wait_for(r"upgraded pid=(\d+)", 30)[1])
            try:
                assert process.wait() == 0
                for _ in range(5):
                    assert asked(f"127.0.0.1:{port}") == b"two", "the new process knows what the old one knew"
                process.wait_for("name stale name=db.example", 30)
            finally:
                os.kill(new, signal.SIGTERM)
            assert wait_until(lambda: not Path(f"/proc/{new}").exists(), 20)


def test_several_addresses_of_both_families_in_the_systems_order(tmp_path: Path) -> None:
    """getaddrinfo decides, as for every program of this host."""
    port = free_port()
    with dns_answering() as dns_, serving(one_answer(b"six"), "::1", port):
        dns_.records["db.example"] = ["127.0.0.9", "::1"]
        file = tmp_path / "lb.toml"
        file.write_text(FILE.format(directory=tmp_path, port=free_port(), backend=port))
        within = resolving_by(dns_.host, tmp_path)
        with l4lb("serve", "-c", str(file), within=within, admin=True) as process:
            front = "{}:{}".format(*process.address("web"))
            assert wait_until(lambda: asked(front) == b"six", 20)
            said = status_of(tmp_path)["db.example"]["resolved"]
            assert sorted(said["answer"]) == ["127.0.0.9", "::1"]
            assert said["address"] == f"[::1]:{port}"
