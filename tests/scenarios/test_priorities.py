"""Priorities and zones: who serves when those who go first cannot, over real sessions, TCP and UDP."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import Backend, LoadBalancer
from l4lb.config import PassiveConfig
from l4lb.model.states import CloseReason
from l4lb.routing.policies import POLICIES
from tests.scenarios.test_explain import explain
from tests.scenarios.test_limits import is_refused
from tests.scenarios.test_observing import asked, events_of, kinds, named_servers, status_of
from tests.scenarios.test_policies import CHECKS, greeting, named, wait_usable
from tests.support.balancing import address_of, balancing, closed, make_config, wait_closed, wait_idle
from tests.support.datagrams import UdpClient, serving_udp
from tests.support.peers import Server, connect, running, serving
from tests.support.programs import free_port, l4lb
from tests.support.waiting import wait_until


def nobody(name: str, **options: Any) -> Backend:
    """Where nothing listens."""
    return Backend(address=f"127.0.0.1:{free_port()}", id=name, **options)


@contextlib.contextmanager
def greeters(names: str) -> Iterator[dict[str, Server]]:
    """They greet with their names and hold their sessions."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(serving(named(name))) for name in names}


def backend(server: Server, name: str, **options: Any) -> Backend:
    return Backend(address=server.address, id=name, **options)


class Holding:
    """Clients that hold their sessions."""

    def __init__(self, address: str, stack: contextlib.ExitStack) -> None:
        self._address = address
        self._stack = stack

    def __call__(self, count: int) -> str:
        """The names of those who greet so many more, one after another."""
        return "".join(self._stack.enter_context(connect(self._address)).recv(1).decode() for _ in range(count))


@contextlib.contextmanager
def holding(balancer: LoadBalancer) -> Iterator[Holding]:
    with contextlib.ExitStack() as stack:
        yield Holding(address_of(balancer), stack)


def failures(balancer: LoadBalancer) -> dict[str, int]:
    return {name: one["connect_failures"] for name, one in status_of(balancer).items()}


# ---- tried already ----


@pytest.mark.parametrize("policy", list(POLICIES))
def test_the_second_attempt_goes_to_the_backup_before_any_check_has_seen_it(policy: str) -> None:
    with greeters("b") as servers:
        pool = [nobody("a"), backend(servers["b"], "b", priority=1)]
        with balancing(pool, policy=policy, connect_attempts=2, passive=PassiveConfig(failures=0)) as balancer:
            assert [greeting(address_of(balancer)) for _ in range(3)] == ["b"] * 3
            assert failures(balancer) == {"a": 3, "b": 0}
            assert CloseReason.CONNECT_FAILED not in closed(balancer)


def test_each_attempt_is_on_another_backend_across_priorities_and_then_from_the_first_again() -> None:
    with greeters("d") as servers:
        dead = [nobody("a"), nobody("b", priority=1), nobody("c", priority=5)]
        live = backend(servers["d"], "d", priority=7)
        with balancing([*dead, live], connect_attempts=4, passive=PassiveConfig(failures=0)) as balancer:
            assert greeting(address_of(balancer)) == "d"
            assert failures(balancer) == {"a": 1, "b": 1, "c": 1, "d": 0}
        with balancing(dead, connect_attempts=5, passive=PassiveConfig(failures=0)) as balancer:
            assert is_refused(address_of(balancer))
            wait_closed(balancer, CloseReason.CONNECT_FAILED)
            assert failures(balancer) == {"a": 2, "b": 2, "c": 1}
        with balancing([*dead, live], connect_attempts=3, passive=PassiveConfig(failures=0)) as balancer:
            assert is_refused(address_of(balancer))
            assert failures(balancer) == {"a": 1, "b": 1, "c": 1, "d": 0}


# ---- ejected ----


def test_a_dead_primary_is_ejected_though_only_a_backup_is_left() -> None:
    passive = PassiveConfig(failures=3, eject_for="1h", max_ejected_percent=50)
    with greeters("b") as servers:
        pool = [nobody("a"), backend(servers["b"], "b", priority=1)]
        with balancing(pool, passive=passive) as balancer:
            events = events_of(balancer)
            assert [greeting(address_of(balancer)) for _ in range(3)] == ["b"] * 3
            assert wait_until(lambda: "backend_ejected" in kinds(events))
            wait_usable(balancer, 1)
            before = failures(balancer)["a"]
            assert [greeting(address_of(balancer)) for _ in range(5)] == ["b"] * 5
            assert failures(balancer)["a"] == before
            assert "ejection_withheld" not in kinds(events)
            assert status_of(balancer)["b"]["standby"] == ""  # it is the first that is usable


def test_the_backup_is_the_last_one_once_the_primary_is_ejected() -> None:
    passive = PassiveConfig(failures=2, eject_for="1h", max_ejected_percent=100)
    pool = [nobody("a"), nobody("b", priority=1)]
    with balancing(pool, passive=passive, connect_attempts=2) as balancer:
        events = events_of(balancer)
        for _ in range(8):
            assert is_refused(address_of(balancer))
        assert wait_until(lambda: "ejection_withheld" in kinds(events))
        assert kinds(events).count("backend_ejected") == 1
        withheld = next(event for event in events if event.kind == "ejection_withheld")
        assert withheld.fields["reason"] == "it is the last one that is usable"


# ---- full ----


@pytest.mark.parametrize("policy", list(POLICIES))
def test_a_backup_serves_while_the_primary_is_full_and_nobody_waits_or_is_reset(policy: str) -> None:
    with greeters("abc") as servers:
        pool = [
            backend(servers["a"], "a", max_sessions=2),
            backend(servers["b"], "b", priority=1, max_sessions=1),
            backend(servers["c"], "c", priority=2),
        ]
        with balancing(pool, policy=policy, queue_size=5) as balancer, holding(balancer) as hold:
            assert hold(5) == "aabcc"
            assert balancer.stats().pools["web"].waiting == 0
            assert [one["sessions_active"] for one in status_of(balancer).values()] == [2, 1, 2]
            assert closed(balancer) == {}


def test_a_freed_place_of_the_primary_is_taken_before_those_of_the_backup() -> None:
    with greeters("ab") as servers:
        pool = [backend(servers["a"], "a", max_sessions=1), backend(servers["b"], "b", priority=1)]
        with balancing(pool) as balancer:
            with holding(balancer) as hold:
                assert hold(3) == "abb"
            wait_idle(balancer)
            assert greeting(address_of(balancer)) == "a"


def test_the_queue_is_entered_when_every_priority_is_full_and_a_place_of_any_serves() -> None:
    with greeters("ab") as servers, contextlib.ExitStack() as stack:
        pool = [
            backend(servers["a"], "a", max_sessions=1),
            backend(servers["b"], "b", priority=1, max_sessions=1),
        ]
        balancer = stack.enter_context(balancing(pool, workers=1, queue_size=2, queue_timeout="20s"))
        held = [stack.enter_context(connect(address_of(balancer))) for _ in range(2)]
        assert [sock.recv(1) for sock in held] == [b"a", b"b"]
        waiting = [stack.enter_context(connect(address_of(balancer))) for _ in range(2)]
        assert wait_until(lambda: balancer.stats().pools["web"].waiting == 2)
        assert is_refused(address_of(balancer))
        wait_closed(balancer, CloseReason.QUEUE_FULL)
        held[1].close()
        assert waiting[0].recv(1) == b"b"
        held[0].close()
        assert waiting[1].recv(1) == b"a"


def test_full_and_tried_together_reach_the_backup() -> None:
    with greeters("bc") as servers:
        pool = [nobody("a"), backend(servers["b"], "b", max_sessions=1), backend(servers["c"], "c", priority=1)]
        options: dict[str, Any] = {"connect_attempts": 2, "passive": PassiveConfig(failures=0), "policy": "first"}
        with balancing(pool, **options) as balancer, holding(balancer) as hold:
            assert hold(3) == "bcc"
            assert failures(balancer)["a"] == 3


# ---- out by the operator, or down ----


def test_drain_maint_and_weight_0_of_the_primary_let_the_backup_serve_and_what_it_has_goes_on() -> None:
    with greeters("ab") as servers:
        pool = [backend(servers["a"], "a"), backend(servers["b"], "b", priority=1)]
        with balancing(pool) as balancer, holding(balancer) as hold:
            primary = balancer.pools["web"]["a"]
            assert hold(1) == "a"
            assert status_of(balancer)["b"]["standby"] == "priority 1: 0 goes first"
            for out, back in (
                (primary.drain, primary.ready),
                (primary.maint, primary.ready),
                (lambda: primary.set_weight(0), lambda: primary.set_weight(3)),
            ):
                out()
                assert hold(1) == "b"
                assert status_of(balancer)["a"]["sessions_active"] >= 1
                back()
                assert hold(1) == "a"
            assert balancer.status()["pools"][0]["usable"] == 2


def test_a_pool_of_which_only_backups_are_usable_is_usable() -> None:
    with greeters("ab") as servers:
        pool = [backend(servers["a"], "a"), backend(servers["b"], "b", priority=1)]
        with balancing(pool, health=CHECKS) as balancer:
            assert balancer.wait_ready()
            servers["a"].stop()
            wait_usable(balancer, 1)
            assert balancer.plane.status.readiness() == []
            assert greeting(address_of(balancer)) == "b"


def test_panic_leaves_a_priority_that_is_all_down_behind_one_that_is_not() -> None:
    with greeters("b") as servers:
        pool = [nobody("a"), backend(servers["b"], "b", priority=1)]
        options: dict[str, Any] = {"panic_threshold": 100, "when_all_down": "use_all", "connect_attempts": 1}
        with balancing(pool, health=CHECKS, **options) as balancer:
            assert wait_until(lambda: status_of(balancer)["a"]["passed_over"] == "health down")
            assert [greeting(address_of(balancer)) for _ in range(3)] == ["b"] * 3


# ---- zones ----


def test_a_zone_that_is_full_or_was_tried_lets_the_others_serve() -> None:
    with greeters("bc") as servers:
        pool = [
            nobody("a", zone="here"),
            backend(servers["b"], "b", zone="here", max_sessions=1),
            backend(servers["c"], "c", zone="there"),
        ]
        options: dict[str, Any] = {"zone": "here", "policy": "first", "passive": PassiveConfig(failures=0)}
        with balancing(pool, **options) as balancer, holding(balancer) as hold:
            assert status_of(balancer)["c"]["standby"] == 'zone "here" goes first'
            assert hold(3) == "bcc"
            assert failures(balancer)["a"] == 3


def test_the_zone_goes_first_in_each_priority() -> None:
    with greeters("abcd") as servers:
        pool = [
            backend(servers["d"], "d", priority=1, zone="there"),
            backend(servers["c"], "c", priority=1, zone="here", max_sessions=1),
            backend(servers["b"], "b", zone="there", max_sessions=1),
            backend(servers["a"], "a", zone="here", max_sessions=1),
        ]
        with balancing(pool, zone="here") as balancer, holding(balancer) as hold:
            assert hold(5) == "abcdd"


# ---- changes ----


def test_a_reload_that_moves_priorities_moves_new_sessions_and_no_other() -> None:
    with greeters("ab") as servers:

        def pool(a: int, b: int) -> list[Backend]:
            return [backend(servers["a"], "a", priority=a), backend(servers["b"], "b", priority=b)]

        with balancing(pool(0, 1)) as balancer, holding(balancer) as hold:
            assert hold(2) == "aa"
            balancer.reload(make_config(pool(1, 0)))
            assert hold(2) == "bb"
            assert {name: one["sessions_active"] for name, one in status_of(balancer).items()} == {"a": 2, "b": 2}
            balancer.pools["web"]["a"].set(priority=0)
            assert sorted(hold(2)) == ["a", "b"]
            assert {one["standby"] for one in status_of(balancer).values()} == {""}


def test_round_robin_among_backups_is_even_while_the_primaries_are_full() -> None:
    with greeters("abcd") as servers:
        pool = [backend(servers[name], name, max_sessions=1) for name in "ab"]
        pool += [backend(servers[name], name, priority=1) for name in "cd"]
        with balancing(pool, workers=1) as balancer, holding(balancer) as hold:
            assert sorted(hold(2)) == ["a", "b"]
            assert sorted(hold(20)) == ["c"] * 10 + ["d"] * 10


# ---- why ----

CONFIG = """
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"

[pools.web]
policy = "{policy}"
backends = [
  {{ address = "{0}", id = "a", max_sessions = 1 }}, {{ address = "{1}", id = "b", priority = 1 }},
  {{ address = "127.0.0.1:9", id = "c", admin_state = "drain" }},
]

[pools.web.health]
type = "none"
"""


@pytest.mark.parametrize("policy", ["first", "maglev"])
def test_explain_says_which_priority_and_why_live_and_from_a_file(policy: str, tmp_path: Path) -> None:
    with greeters("ab") as servers:
        file, admin = tmp_path / "lb.toml", f"unix:{tmp_path}/admin.sock"
        file.write_text(CONFIG.format(*(one.address for one in servers.values()), policy=policy))
        offline = json.loads(explain("web", "127.0.0.1", "-c", str(file), "--json").stdout)
        assert (offline["chosen"], offline["tier"], offline["why"]) == ("a", "priority 0", "")
        assert [(one["id"], one["tier"]) for one in offline["candidates"]] == [
            ("a", "priority 0"),
            ("b", "priority 1"),
        ]
        with l4lb("serve", "-c", str(file), "--admin", admin) as process:
            process.wait_for("admin listening")
            assert json.loads(explain("web", "127.0.0.1", "--admin", admin, "--json").stdout) == offline
            with connect(process.address("web")) as sock:
                assert sock.recv(1) == b"a"
                live = json.loads(explain("web", "127.0.0.1", "--admin", admin, "--json").stdout)
                assert (live["chosen"], live["tier"]) == ("b", "priority 1")
                assert live["why"] == "a is full (max_sessions 1), c: admin state drain, so priority 1"
                text = explain("web", "127.0.0.1", "--admin", admin).stdout
                assert "gets b\n" in text
                assert f"  why: {live['why']}\n" in text
                assert "  1. a (priority 0) (at max_sessions)\n  2. b (priority 1)\n" in text
                with connect(process.address("web")) as another:
                    assert another.recv(1) == b"b"


def test_explain_names_what_is_down_before_a_backup() -> None:
    with greeters("b") as servers:
        pool = [nobody("a"), backend(servers["b"], "b", priority=1)]
        with balancing(pool, health=CHECKS) as balancer:
            assert wait_until(lambda: status_of(balancer)["a"]["health"] == "down")
            wait_usable(balancer, 1)
            said = balancer.pools["web"].explain("127.0.0.1")
            assert (said["tier"], said["why"]) == ("priority 1", "a: health down, so priority 1")


# ---- UDP ----

UDP: dict[str, Any] = {"listener": {"protocol": "udp"}, "workers": 1}


def asked_by_datagram(address: str) -> str:
    with UdpClient(address) as client:
        return client.ask(b"?").decode()


@contextlib.contextmanager
def udp_servers(names: str) -> Iterator[dict[str, str]]:
    """Their addresses."""
    with contextlib.ExitStack() as stack:
        made = {}
        for name in names:
            made[name] = stack.enter_context(serving_udp(lambda data, name=name: [name.encode()])).address
        yield made


def wait_for_refusal(balancer: LoadBalancer) -> None:
    """One datagram is lost at the closed port, and its refusal tells."""
    with UdpClient(address_of(balancer)) as client:
        client.send(b"lost")
        wait_closed(balancer, CloseReason.CONNECT_FAILED)


@pytest.mark.parametrize("policy", ["round_robin", "maglev", "least_sessions", "p2c", "first"])
def test_udp_goes_to_the_backup_when_the_primary_has_refused_lately(policy: str) -> None:
    with udp_servers("b") as addresses:
        pool = [nobody("a"), Backend(address=addresses["b"], id="b", priority=1)]
        with balancing(pool, policy=policy, passive=PassiveConfig(failures=0), **UDP) as balancer:
            wait_for_refusal(balancer)
            assert [asked_by_datagram(address_of(balancer)) for _ in range(3)] == ["b"] * 3


def test_udp_passes_by_many_primaries_that_have_refused() -> None:
    with udp_servers("b") as addresses:
        pool = [nobody(f"a{number}") for number in range(12)]
        pool.append(Backend(address=addresses["b"], id="b", priority=1))
        with balancing(pool, passive=PassiveConfig(failures=0), **UDP) as balancer:
            with contextlib.ExitStack() as stack:
                for _ in range(12):
                    stack.enter_context(UdpClient(address_of(balancer))).send(b"lost")
                wait_closed(balancer, CloseReason.CONNECT_FAILED, 12)
            assert asked_by_datagram(address_of(balancer)) == "b"


def test_udp_ejects_a_dead_primary_for_a_backup() -> None:
    with udp_servers("b") as addresses:
        pool = [nobody("a"), Backend(address=addresses["b"], id="b", priority=1)]
        passive = PassiveConfig(failures=1, eject_for="1h")
        with balancing(pool, passive=passive, **UDP) as balancer:
            events = events_of(balancer)
            wait_for_refusal(balancer)
            assert wait_until(lambda: "backend_ejected" in kinds(events))
            wait_usable(balancer, 1)
            assert asked_by_datagram(address_of(balancer)) == "b"


def test_udp_goes_to_the_backup_when_the_primary_is_full_drained_or_its_zone_is() -> None:
    with udp_servers("abc") as addresses, contextlib.ExitStack() as stack:
        pool = [
            Backend(address=addresses["a"], id="a", max_sessions=1, zone="here"),
            Backend(address=addresses["b"], id="b", max_sessions=1, zone="there"),
            Backend(address=addresses["c"], id="c", priority=1),
        ]
        balancer = stack.enter_context(balancing(pool, zone="here", **UDP))
        clients = [stack.enter_context(UdpClient(address_of(balancer))) for _ in range(4)]
        assert [client.ask(b"?") for client in clients] == [b"a", b"b", b"c", b"c"]
        assert [client.ask(b"?") for client in clients] == [b"a", b"b", b"c", b"c"]  # each stays where it is
        balancer.pools["web"]["a"].set(max_sessions=0)
        assert asked_by_datagram(address_of(balancer)) == "a"
        balancer.pools["web"]["a"].drain()
        assert asked_by_datagram(address_of(balancer)) == "c"
        balancer.pools["web"]["a"].ready()
        assert asked_by_datagram(address_of(balancer)) == "a"


def test_who_returns_takes_over_from_the_backup_at_once() -> None:
    """Weights grow within a priority: a lone primary has all of it from the first step."""
    with named_servers("ab") as servers:
        pool = [backend(servers["a"], "a"), backend(servers["b"], "b", priority=1)]
        with balancing(pool, health=CHECKS, slow_start="1h", connect_attempts=1) as balancer:
            assert balancer.wait_ready()
            port = servers["a"].port
            servers["a"].stop()
            wait_usable(balancer, 1)
            assert asked(address_of(balancer)) == "b"
            with running(Server(named("a"), port=port)):
                wait_usable(balancer, 2)
                assert status_of(balancer)["a"]["effective_weight"] == 0.05
                assert [greeting(address_of(balancer)) for _ in range(3)] == ["a"] * 3
