"""What the nodes of a fleet share, by a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import AdminError, Client, Config, LoadBalancer
from tests.scenarios.test_refusing import was_reset
from tests.scenarios.test_upgrade import end, pid_of
from tests.support import seen
from tests.support.etcd import Etcd, etcd
from tests.support.fleet import BACKENDS, PREFIX, Node, Served, config_text, node, nodes, put_config, serving
from tests.support.peers import connect, echo, read_until_end
from tests.support.peers import serving as serving_tcp
from tests.support.waiting import wait_until

NET = "192.0.2.0/24"


def fleet_text(*backends: str, more: str = "", **options: str) -> str:
    listed = "\n".join(f'{name} = "{value}"' for name, value in options.items())
    return f"{config_text(*backends, more=more)}\n[fleet]\n{listed}\n"


def banned(one: Node) -> list[str]:
    return [str(ban["cidr"]) for ban in one.balancer.bans.list()]


def wait_banned(some: list[Node], *networks: str) -> None:
    for one in some:
        assert wait_until(lambda: sorted(banned(one)) == sorted(networks)), (one.name, banned(one))  # noqa: B023


def etcd_keys(server: Etcd) -> list[str]:
    return server.ctl("get", "--prefix", "--keys-only", f"{PREFIX}/bans/").split()


# ---- bans ----


def test_a_ban_of_one_node_holds_on_all_and_ends_for_all() -> None:
    with etcd() as server, serving_tcp(echo) as backend:
        put_config(server, fleet_text(backend.address))
        with nodes(server, "a", "b", "c") as three:
            a, b, c = three
            addresses = [one.balancer.listeners["web"].addresses[0] for one in three]
            with connect(addresses[2]) as kept:
                kept.sendall(b"x")
                assert kept.recv(10) == b"x"
                a.balancer.bans.add("127.0.0.0/8", reason="noise")
                wait_banned(three, "127.0.0.0/8")
                assert read_until_end(kept) == (b"", True), "sessions end there too"
            (ban,) = c.balancer.bans.list()
            assert ban["reason"] == "noise"
            assert wait_until(lambda: c.of("banned"))
            assert c.of("banned")[0]["by"] == "fleet"
            c.balancer.bans.remove("127.0.0.0/8")
            wait_banned(three)
            for address in addresses:
                with connect(address) as client:
                    client.sendall(b"y")
                    assert client.recv(10) == b"y"
            assert etcd_keys(server) == []
            b.balancer.bans.add(NET, for_s=2.0)
            wait_banned(three, NET)
            until = {one.balancer.bans.list()[0]["until"] for one in three}
            assert len(until) == 1
            wait_banned(three)
            assert time.time() >= until.pop() - 0.1


def test_bans_of_a_node_that_was_away_are_merged() -> None:
    with etcd() as server:
        put_config(server, fleet_text())
        with nodes(server, "a", "b") as both:
            a, b = both
            a.balancer.bans.add("192.0.2.1/32")
            a.balancer.bans.add("192.0.2.2/32")
            wait_banned(both, "192.0.2.1/32", "192.0.2.2/32")
            server.hang()
            a.balancer.bans.add("192.0.2.3/32", reason="away")
            b.balancer.bans.add("192.0.2.4/32")
            b.balancer.bans.remove("192.0.2.1/32")
            assert sorted(banned(a)) == ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"], "at once, and here alone"
            assert sorted(banned(b)) == ["192.0.2.2/32", "192.0.2.4/32"]
            server.signal(signal.SIGCONT)
            wait_banned(both, "192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32")


def test_a_node_that_starts_again_learns_what_was_removed_and_puts_what_was_not(tmp_path: Path) -> None:
    with etcd() as server:
        state = f'state_file = "{tmp_path}/a.json"'
        put_config(server, fleet_text().replace("[global]", f"[global]\n{state}"))
        with node(server, "a") as a:
            a.balancer.bans.add("192.0.2.1/32")
            assert wait_until(lambda: [ban.shared for ban in a.balancer.plane.banning.held] == [True])
        server.ctl("del", f"{PREFIX}/bans/192.0.2.1/32")
        text = json.loads((tmp_path / "a.json").read_text())
        text["bans"].append({"network": "192.0.2.2/32", "listener": "", "until": 0.0, "reason": "", "since": 1.0})
        (tmp_path / "a.json").write_text(json.dumps(text))
        with node(server, "a") as a:
            wait_banned([a], "192.0.2.2/32")
            assert wait_until(lambda: etcd_keys(server) == [f"{PREFIX}/bans/192.0.2.2/32"])


def test_what_others_write_there_is_not_trusted() -> None:
    with etcd() as server:
        put_config(server, fleet_text())
        server.put(f"{PREFIX}/bans/192.0.2.1/24", "{}")
        with node(server, "a") as a:
            server.put(f"{PREFIX}/bans/192.0.2.9/32", '{"until": "never", "reason": "", "since": 0}')
            server.put(f"{PREFIX}/bans/192.0.2.8/32", '{"until": 0.0, "reason": "ok", "since": 0.0}')
            wait_banned([a], "192.0.2.8/32")
            assert sorted(a.known.broken) == ["bans/192.0.2.1/24", "bans/192.0.2.9/32"]
            assert a.known.broken["bans/192.0.2.9/32"].startswith("until: ")
            server.ctl("del", f"{PREFIX}/bans/192.0.2.9/32")
            assert wait_until(lambda: list(a.known.broken) == ["bans/192.0.2.1/24"])


def test_bans_may_be_of_each_node_alone_and_shared_later() -> None:
    with etcd() as server:
        put_config(server, fleet_text(bans="own"))
        with nodes(server, "a", "b") as both:
            a, b = both
            a.balancer.bans.add(NET)
            server.put(f"{PREFIX}/bans/192.0.2.8/32", '{"until": 0.0, "reason": "", "since": 0.0}')
            put_config(server, fleet_text(bans="own", more="retry_pause = 1"))
            for one in both:
                one.wait_for(2)
            assert (banned(a), banned(b)) == ([NET], [])
            put_config(server, fleet_text(bans="shared"))
            wait_banned(both, NET, "192.0.2.8/32")


def test_a_ban_in_three_processes_survives_an_upgrade(tmp_path: Path) -> None:
    with etcd() as server:
        put_config(server, fleet_text())
        with contextlib.ExitStack() as stack:
            a, b, c = (stack.enter_context(serving(server, name, tmp_path)) for name in "abc")
            with Client(a.admin, timeout=60) as client:
                client.bans.add(NET)
            assert wait_until(lambda: all(held(one) == [NET] for one in (a, b, c)))
            with Client(b.admin, timeout=60) as client:
                client.bans.remove(NET)
            assert wait_until(lambda: all(held(one) == [] for one in (a, b, c)))
            with pytest.raises(AdminError, match="is not banned"), Client(c.admin, timeout=60) as client:
                client.bans.remove(NET)
            with Client(a.admin, timeout=60) as client:
                client.bans.add(NET)
                new = client.upgrade()
            stack.callback(end, new)
            assert wait_until(lambda: pid_of(a.admin) == new)
            with Client(c.admin, timeout=60) as client:
                client.bans.add("192.0.2.7/32")
            assert wait_until(lambda: all(sorted(held(one)) == [NET, "192.0.2.7/32"] for one in (a, b, c)))


def held(one: Served) -> list[str]:
    with Client(one.admin, timeout=60) as client:
        return [str(ban["cidr"]) for ban in client.bans.list()]


def test_options_of_a_fleet_in_a_file_are_reported() -> None:
    with LoadBalancer(Config.loads(fleet_text(bans="own"))) as balancer:
        reasons = [event.fields for event in balancer.plane.events.recent if event.kind == "fleet_options_unused"]
        assert [one["keys"] for one in reasons] == ["fleet.bans"]
        balancer.reload(Config.loads(fleet_text(node_ttl="5s")))
        reasons = [event.fields for event in balancer.plane.events.recent if event.kind == "fleet_options_unused"]
        assert [one["keys"] for one in reasons] == ["fleet.bans", "fleet.node_ttl"]


# ---- limits ----

LIMITED = 'max_sessions = 10\nsession_rate = "30/s"\ntotal_bandwidth_up = "9KB/s"'


def limited_text(*backends: str, limits: str = LIMITED) -> str:
    text = fleet_text(*backends, limits="divided")
    return text.replace('bind = ["127.0.0.1:0"]', f'bind = ["127.0.0.1:0"]\n{limits}')


def parts(some: list[Node]) -> list[int]:
    return [one.balancer.status()["listeners"][0]["max_sessions"] for one in some]


def shares(some: list[Node]) -> list[object]:
    return [(one.balancer.status()["fleet"] or {}).get("share") for one in some]


def test_limits_are_divided_by_the_live_nodes() -> None:
    with etcd() as server:
        put_config(server, limited_text())
        with nodes(server, "b", "a") as two:
            assert wait_until(lambda: parts(two) == [5, 5])
            with node(server, "c") as third:
                every = [two[1], two[0], third]
                assert wait_until(lambda: parts(every) == [4, 3, 3])
                assert shares(every) == [{"nodes": 3, "rank": rank} for rank in (1, 2, 3)]
                published = every[1].balancer.plane.reconciler._published
                assert published is not None
                (spec,) = published[1]
                assert (spec.max_sessions, spec.session_rate, spec.session_burst) == (3, 10.0, 1)
                assert spec.total_bandwidth_up == 3000
                server.stop()
                assert wait_until(lambda: not any(one.known.connected for one in every))
                assert parts(every) == [4, 3, 3], "the latest count stays"
                server.start()
                assert wait_until(lambda: all(one.known.connected for one in every))
                assert parts(every) == [4, 3, 3]
            assert wait_until(lambda: parts(two) == [5, 5])
            put_config(server, limited_text().replace('limits = "divided"', ""))
            for one in two:
                one.wait_for(2)
            assert parts(two) == [10, 10]
            assert shares(two) == [None, None]


def test_no_more_sessions_get_in_than_the_limit_of_all() -> None:
    with etcd() as server, serving_tcp(echo) as backend:
        put_config(server, limited_text(backend.address, limits="max_sessions = 3"))
        with nodes(server, "a", "b", "c") as three, contextlib.ExitStack() as stack:
            assert wait_until(lambda: parts(three) == [1, 1, 1])
            for one in three:
                address = one.balancer.listeners["web"].addresses[0]
                kept = stack.enter_context(connect(address))
                kept.sendall(b"x")
                assert kept.recv(10) == b"x"
                assert was_reset(address)


def test_max_sessions_of_backends_is_divided() -> None:
    with etcd() as server, serving_tcp(echo) as backend:
        text = limited_text(backend.address, limits="")
        listed = f'{{address = "{backend.address}"'
        put_config(server, text.replace(listed, f"{listed}, max_sessions = 2"))
        with nodes(server, "a", "b") as both, contextlib.ExitStack() as stack:
            for one in both:
                assert wait_until(lambda: shares([one])[0] is not None and one.known.share.nodes == 2)  # noqa: B023
                address = one.balancer.listeners["web"].addresses[0]
                kept = stack.enter_context(connect(address))
                kept.sendall(b"x")
                assert kept.recv(10) == b"x"
                assert was_reset(address)


# ---- health ----

SEEN = """type = "python"
callable = "tests.support.seen:check"
interval = "100ms"
fast_interval = "100ms"
down_interval = "100ms"
rise = 1
fall = 1
"""
ONE, TWO = BACKENDS


@contextlib.contextmanager
def seeing(server: Etcd, *names: str, **options: str) -> Iterator[list[Node]]:
    """Nodes, of each of which `seen.DOWN` says what its checks see."""
    put_config(server, fleet_text(**options).replace('type = "none"', SEEN))
    try:
        with nodes(server, *names) as some:
            for one in some:
                seen.NODES[id(one.balancer.run(this_loop()))] = one.name
            yield some
    finally:
        seen.NODES.clear()
        seen.DOWN.clear()


async def this_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def backend_of(one: Node, address: str) -> Any:
    return next(found for found in one.balancer.status()["pools"][0]["backends"] if found["id"] == address)


def usable(one: Node) -> list[str]:
    return [found["id"] for found in one.balancer.status()["pools"][0]["backends"] if found["usable"]]


def healths(some: list[Node], address: str) -> list[tuple[str, str | None]]:
    """Each node's own view, and the fleet's."""
    found = [backend_of(one, address) for one in some]
    return [(one["health"], one["fleet_health"]) for one in found]


def test_a_node_that_sees_something_else_follows_the_majority() -> None:
    with etcd() as server, seeing(server, "a", "b", "c", health="majority") as three:
        a = three[0]
        assert wait_until(lambda: healths(three, ONE) == [("up", "up")] * 3), healths(three, ONE)
        seen.DOWN.add(("a", ONE))
        assert wait_until(lambda: healths(three, ONE)[0] == ("down", "up"))
        assert usable(a) == [ONE, TWO]
        assert wait_until(lambda: a.of("fleet_health_differs"))
        assert a.of("fleet_health_differs")[-1] == {"pool": "web", "backend": ONE, "own": "down", "fleet": "up"}
        seen.DOWN.add(("b", ONE))
        assert wait_until(lambda: healths(three, ONE) == [("down", "down"), ("down", "down"), ("up", "down")])
        for one in three:
            assert wait_until(lambda: usable(one) == [TWO])  # noqa: B023
        assert backend_of(three[2], ONE)["passed_over"] == "fleet: most nodes see it down"
        assert len({one.balancer.status()["pools"][0]["table_digest"] for one in three}) == 1
        seen.DOWN.clear()
        assert wait_until(lambda: all(usable(one) == [ONE, TWO] for one in three))
        three[1].balancer.pools["web"][ONE].maint()
        assert wait_until(lambda: usable(three[1]) == [TWO])
        assert usable(a) == [ONE, TWO], "the admin state is each node's own"


def test_two_nodes_and_a_node_without_etcd_go_by_their_own_view() -> None:
    with etcd() as server, seeing(server, "a", "b", "c", health="majority", node_ttl="3s") as three:
        seen.DOWN.add(("a", ONE))
        assert wait_until(lambda: healths(three, ONE) == [("down", "up"), ("up", "up"), ("up", "up")])
        server.stop()
        assert wait_until(lambda: healths(three, ONE) == [("down", None), ("up", None), ("up", None)])
        assert [usable(one) for one in three] == [[TWO], [ONE, TWO], [ONE, TWO]]
        server.start()
        assert wait_until(lambda: healths(three, ONE) == [("down", "up"), ("up", "up"), ("up", "up")])
    with etcd() as server, seeing(server, "a", "b", health="majority") as both:
        seen.DOWN.add(("a", ONE))
        assert wait_until(lambda: healths(both, ONE) == [("down", None), ("up", None)])


def test_views_that_cannot_be_read_do_not_count_and_own_ends_it() -> None:
    with etcd() as server, seeing(server, "a", "b", "c", health="majority") as three:
        seen.DOWN.add(("a", ONE))
        assert wait_until(lambda: healths(three, ONE)[0] == ("down", "up"))
        server.put(f"{PREFIX}/health/x", '{"pools": {"web": {"up": "all", "down": []}}}')
        assert wait_until(lambda: "health/x" in three[0].known.broken)
        assert three[0].known.broken["health/x"].startswith("pools.web.up: ")
        server.put(f"{PREFIX}/health/dead", json.dumps({"pools": {"web": {"up": [], "down": [ONE, TWO]}}}))
        assert healths(three, ONE)[0] == ("down", "up"), "who is not alive has no vote"
        put_config(server, fleet_text(health="own").replace('type = "none"', SEEN))
        assert wait_until(lambda: healths(three, ONE) == [("down", None), ("up", None), ("up", None)])
        assert wait_until(lambda: sorted(server.ctl("get", "--prefix", "--keys-only", f"{PREFIX}/health/").split())
                          == [f"{PREFIX}/health/dead", f"{PREFIX}/health/x"])  # fmt: skip
