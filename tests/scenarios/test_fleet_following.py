"""A configuration in a real etcd, and the nodes that go by it."""

from __future__ import annotations

import contextlib
import re
import signal
import stat
from pathlib import Path

import pytest

from l4lb.control.fleet import fleet, following
from l4lb.control.fleet.place import parse_place
from l4lb.control.fleet.reading import Origin
from l4lb.errors import ConfigError
from tests.support.etcd import Etcd, cluster, etcd
from tests.support.fleet import BACKENDS, PREFIX, config_text, node, nodes, put_config, url
from tests.support.peers import echo, serving
from tests.support.programs import free_port
from tests.support.waiting import wait_until

A, B, C = *BACKENDS, "127.0.0.1:3"


def first_of(server: Etcd, **options: object) -> Origin:
    """What a node starts with."""
    origin = Origin(parse_place(url(server, timeout="1s", **options)), "a")
    origin.load_first()
    return origin


def problem_of(server: Etcd, **options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        first_of(server, **options)
    return str(caught.value)


def test_every_node_goes_by_what_is_put() -> None:
    with etcd() as server:
        put_config(server, config_text())
        with nodes(server, "a", "b", "c") as three:
            assert all(one.known.generation == 1 and one.backends == [A, B] for one in three)
            put_config(server, config_text(A, B, C))
            for one in three:
                one.wait_for(2)
                assert one.backends == [A, B, C]
            first = three[0].known
            assert wait_until(lambda: {one.generation for one in first.nodes.values()} == {2})
            digests = {one.digests["web"] for one in first.nodes.values()}
            assert len(digests) == 1
            assert first.nodes["b"].backends == {"web": (3, 3)}
            assert first.error == ""


def test_the_same_text_again_changes_the_generation_alone() -> None:
    with etcd() as server:
        put_config(server, config_text())
        with node(server, "a") as one:
            assert wait_until(lambda: one.known.connected)
            version = one.version
            put_config(server, config_text())
            one.wait_for(2)
            assert one.version == version
            assert one.of("reloaded") == []


def test_a_text_that_cannot_be_used_changes_nothing_and_is_reported() -> None:
    with etcd() as server:
        put_config(server, config_text())
        with nodes(server, "a", "b") as both:
            put_config(server, config_text(more="polcy = 1"))
            for one in both:
                assert wait_until(lambda: "generation 2: " in one.known.refused)  # noqa: B023
                assert "polcy" in one.known.refused
                assert (one.known.generation, one.known.newest, one.backends) == (1, 2, [A, B])
                assert [event["generation"] for event in one.of("fleet_config_refused")] == [2]
            assert wait_until(lambda: "polcy" in both[0].known.nodes["b"].error)
            server.ctl("del", f"{PREFIX}/config")
            assert wait_until(lambda: "the key is gone" in both[0].known.refused)
            assert both[0].backends == [A, B]
            put_config(server, config_text())
            assert wait_until(lambda: both[0].known.refused == "")


def test_etcd_stopped_compacted_and_started_again_changes_nothing() -> None:
    with etcd() as server:
        put_config(server, config_text())
        with nodes(server, "a", "b") as both:
            versions = [one.version for one in both]
            server.stop()
            for one in both:
                assert wait_until(lambda: not one.known.connected)  # noqa: B023
                assert one.of("fleet_disconnected")
            server.start()
            for number in range(5):
                server.put("/elsewhere", str(number))
            revision = re.search(r'"revision":(\d+)', server.ctl("get", "/elsewhere", "-w", "json"))
            assert revision is not None
            server.ctl("compact", revision[1])
            for one in both:
                assert wait_until(lambda: one.known.connected and not one.known.error)  # noqa: B023
                one.wait_alive("a", "b")
            assert [one.version for one in both] == versions
            put_config(server, config_text(A, C))
            for one in both:
                one.wait_for(2)
                assert one.backends == [A, C]


def test_what_was_put_while_etcd_was_away_for_a_node_holds_afterwards() -> None:
    with etcd() as server:
        put_config(server, config_text())
        with node(server, "a", timeout="500ms") as one:
            server.hang()
            assert wait_until(lambda: "no answer within 0.5 s" in one.known.error), one.known
            assert one.backends == [A, B]
            server.signal(signal.SIGCONT)
            assert wait_until(lambda: one.known.error == "")
            server.stop()
            server.start()
            put_config(server, config_text(C))
            one.wait_for(2)
            assert one.backends == [C]


def test_the_next_server_is_asked_when_one_is_away() -> None:
    with etcd() as server:
        put_config(server, config_text())
        where = f"etcd://127.0.0.1:{free_port()},127.0.0.1:{server.port}{PREFIX}"
        with node(server, "a", where=where) as one:
            one.wait_alive("a")
            put_config(server, config_text(C))
            one.wait_for(2)
            server.stop()
            assert wait_until(lambda: not one.known.connected)
            server.start()
            assert wait_until(lambda: one.known.error == "")
            assert len(one.of("fleet_disconnected")) <= 2, "not one for each server and attempt"


def test_servers_of_a_cluster_that_fail_are_survived_with_and_without_a_majority() -> None:
    with cluster(3) as servers:
        first, second, third = servers
        put_config(third, config_text())
        where = f"etcd://{','.join(f'127.0.0.1:{one.port}' for one in servers)}{PREFIX}"
        with node(third, "a", where=where) as one, node(third, "b", where=where) as other:
            both = (one, other)
            for each in both:
                each.wait_alive("a", "b")
            first.stop()
            assert wait_until(third.has_leader)
            put_config(third, config_text(C))
            for each in both:
                each.wait_for(2)
            second.stop()
            for each in both:
                assert wait_until(lambda: not each.known.connected), each.known  # noqa: B023
                assert each.backends == [C]
            second.start()
            for each in both:
                assert wait_until(lambda: each.known.error == ""), each.known  # noqa: B023
                each.wait_alive("a", "b")
            assert wait_until(third.has_leader)
            put_config(third, config_text(A, C))
            for each in both:
                each.wait_for(3)


def test_a_start_without_etcd_says_so() -> None:
    with etcd() as server:
        assert "there is no such key in etcd yet" in problem_of(server)
        put_config(server, config_text(more="polcy = 1"))
        assert re.search(r"/config:\d+: pools.web.polcy: ", problem_of(server))
        server.stop()
        assert "/config: cannot be read: http" in problem_of(server)


def test_a_start_without_etcd_goes_by_the_copy(tmp_path: Path) -> None:
    cache = tmp_path / "copy.toml"
    with etcd() as server:
        put_config(server, config_text())
        with node(server, "a", cache=cache) as one:
            assert wait_until(cache.exists)
            put_config(server, config_text(A, C))
            one.wait_for(2)
            assert wait_until(lambda: "generation 2" in cache.read_text())
        assert stat.S_IMODE(cache.stat().st_mode) == 0o600
        server.stop()
        origin = first_of(server, cache=cache)
        assert origin.first is not None
        assert (origin.first.generation, origin.first.text) == (2, config_text(A, C))
        assert "cannot be read" in origin.refused
        with node(server, "a", cache=cache, timeout="500ms") as one:
            assert one.backends == [A, C]
            assert (one.known.generation, one.known.connected) == (2, False)
            (used,) = one.of("fleet_copy_used")
            assert used["path"] == str(cache)
            assert "cannot be read" in str(used["reason"])
            server.start()
            assert wait_until(lambda: one.known.connected and not one.known.refused)
            put_config(server, config_text(C))
            one.wait_for(3)
        cache.write_text("[pools")
        server.stop()
        assert f'{cache}, the copy on this host: the first line: expected "# l4lb: generation' in problem_of(
            server, cache=cache
        )


def test_two_nodes_of_one_name_do_not_fight() -> None:
    with etcd() as server:
        put_config(server, config_text())
        with node(server, "a") as first:
            first.wait_alive("a")
            started = first.known.started
            with node(server, "a") as second:
                second.wait_alive("a")
                assert wait_until(lambda: second.of("fleet_not_registered"))
                assert 'the name "a" is in use by process' in second.known.error
                assert second.known.nodes["a"].started == started
                assert first.known.error == ""
                put_config(server, config_text(C))
                second.wait_for(2)
                assert wait_until(lambda: second.known.nodes["a"].generation == 2)
                assert second.known.nodes["a"].started == started
        with node(server, "a") as third:
            third.wait_alive("a")


def test_a_node_whose_key_was_removed_registers_again() -> None:
    with etcd() as server:
        put_config(server, config_text())
        with nodes(server, "a", "b") as both:
            lease = both[0].known.lease
            for command in (("del", f"{PREFIX}/nodes/a"), ("lease", "revoke", f"{lease:x}")):
                server.ctl(*command)
                assert wait_until(lambda: server.ctl("get", f"{PREFIX}/nodes/a") != "")
                both[1].wait_alive("a", "b")
            assert both[0].known.lease not in (0, lease)
            assert len(both[0].of("fleet_registered")) == 2
            server.put(f"{PREFIX}/nodes/x", '{"node": "x", "pid": "1"}')
            assert wait_until(lambda: "nodes/x" in both[1].known.broken)
            assert "pid" in both[1].known.broken["nodes/x"]
        with node(server, "c") as third:
            third.wait_alive("c")


def test_a_configuration_that_a_host_cannot_have_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_AGAIN_S", 0.2)
    with etcd() as server, contextlib.ExitStack() as stack:
        put_config(server, config_text())
        other = stack.enter_context(serving(echo))
        with node(server, "a") as one:
            put_config(server, config_text().replace("127.0.0.1:0", other.address))
            assert wait_until(lambda: one.known.refused.startswith("generation 2: ")), one.known
            assert one.known.generation == 1
            stack.close()
            one.wait_for(2)
            assert one.balancer.listeners["web"].addresses == [other.address]


def test_an_etcd_that_is_full_is_reported_and_the_fleet_goes_on() -> None:
    """Without room etcd takes no key that is put, but leases, watches and removals go on."""
    with etcd(quota_bytes=1 << 20) as server:
        put_config(server, config_text())
        with nodes(server, "a", "b") as both:
            with contextlib.suppress(AssertionError):
                for number in range(40):
                    server.put(f"/filling/{number}", "x" * 100_000)
            assert "NOSPACE" in server.ctl("alarm", "list")
            both[0].balancer.pools["web"][A].maint()  # there is something to say
            assert wait_until(lambda: "database space exceeded" in both[0].known.error), both[0].known
            assert both[0].known.connected
            both[1].wait_alive("a", "b")
            server.ctl("del", "--prefix", "/filling/")
            found = re.search(r'"revision":(\d+)', server.ctl("get", "/x", "-w", "json"))
            assert found is not None
            server.ctl("compact", found[1])
            server.ctl("defrag")
            server.ctl("alarm", "disarm")
            for one in both:
                assert wait_until(lambda: one.known.error == ""), one.known  # noqa: B023
            assert wait_until(lambda: both[1].known.nodes["a"].backends["web"].usable == 1)


def test_nothing_waits_for_an_etcd_that_hangs() -> None:
    with etcd() as server:
        put_config(server, config_text())
        with node(server, "a", timeout="10s") as one:
            one.wait_alive("a")
            server.hang()
            try:
                for weight in range(2, 10):
                    one.balancer.pools["web"][A].set(weight=weight)
                assert one.balancer.status()["fleet"] is not None
            finally:
                one.balancer.close()
                server.signal(signal.SIGCONT)


def test_what_others_write_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "NODES_MAX", 50)
    monkeypatch.setattr(following, "KEYS_MAX", 100)
    with etcd() as server:
        put_config(server, config_text())
        with node(server, "a") as one:
            one.wait_alive("a")
            server.put_many({f"{PREFIX}/nodes/n{number}": "{" for number in range(200)})
            assert wait_until(lambda: len(one.known.broken) == 49)
            assert len(one.balancer.plane.fleet.following.kvs) <= 100  # type: ignore[union-attr]
            server.ctl("del", "--prefix", f"{PREFIX}/nodes/n")
            assert wait_until(lambda: not one.known.broken)
            put_config(server, config_text(C))
            one.wait_for(2)
