"""A running balancer becomes what a new configuration or an operator wants: in place, whole, or not at all."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

from l4lb import ChangeError, Config, ConfigError, Listener, LoadBalancer, Pool
from l4lb.config import AdminConfig, AgentConfig, GlobalConfig, HealthConfig
from l4lb.control.state.events import Event
from l4lb.model.states import AdminState, CloseReason, Health
from tests.support.balancing import NO_CHECKS, address_of, balancing, make_config, wait_closed
from tests.support.peers import connect, echo, hold, one_answer, refused, serving
from tests.support.programs import free_port
from tests.support.waiting import wait_until

FAST = HealthConfig(interval="100ms", fast_interval="100ms", down_interval="100ms", timeout="200ms", rise=1, fall=2)


def config_of(listeners: dict[str, Any], pools: dict[str, Any], **global_: Any) -> Config:
    return Config(
        global_=GlobalConfig(**{"workers": 2, **global_}),
        admin=AdminConfig(bind="off"),
        listeners={name: Listener(**one) for name, one in listeners.items()},
        pools={name: Pool(**{"health": NO_CHECKS, **one}) for name, one in pools.items()},
    )


def events_of(balancer: LoadBalancer) -> list[Event]:
    heard: list[Event] = []
    balancer.plane.events.subscribe(heard.append)
    return heard


def asked(address: str) -> bytes:
    with connect(address) as sock:
        sock.sendall(b"?")
        return sock.recv(100)


def said(sock: socket.socket, text: bytes) -> bool:
    """Whether the session still echoes."""
    sock.sendall(text)
    return sock.recv(100) == text


def test_a_reload_keeps_sessions_counters_and_sockets() -> None:
    with serving(echo) as one, serving(echo) as two:
        port = free_port()
        listener = {"web": {"bind": f"127.0.0.1:{port}", "pool": "web"}}
        before = config_of(listener, {"web": {"backends": [one.address]}})
        with LoadBalancer(before) as balancer, connect(address_of(balancer)) as kept:
            assert said(kept, b"before")
            backends = [{"address": one.address, "weight": 0}, two.address]
            wanted = {"web": {**listener["web"], "idle_timeout": "1h", "max_sessions": 100}}
            changes = balancer.reload(config_of(wanted, {"web": {"backends": backends}}))
            assert (changes.pools, changes.backends, changes.listeners) == ((0, 0, 1), (1, 0, 1), (0, 0, 1))
            assert said(kept, b"after")
            assert asked(address_of(balancer)) == b"?"
            stats = balancer.stats()
            assert stats.listeners["web"].sessions_total == 2
            pool = stats.pools["web"].backends
            assert (pool[one.address].sessions_total, pool[two.address].sessions_total) == (1, 1)
            assert balancer.config.listeners["web"].max_sessions == 100


def test_pools_and_listeners_come_and_go() -> None:
    with serving(one_answer(b"one")) as one, serving(one_answer(b"two")) as two, serving(echo) as held:
        first, second = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        before = config_of(
            {"a": {"bind": first, "pool": "one"}, "held": {"bind": "127.0.0.1:0", "pool": "held"}},
            {"one": {"backends": [one.address]}, "held": {"backends": [held.address], "on_backend_removed": "keep"}},
        )
        after = config_of({"b": {"bind": second, "pool": "two"}}, {"two": {"backends": [two.address]}})
        with LoadBalancer(before) as balancer:
            with connect(balancer.listeners["held"].addresses[0]) as kept:
                assert said(kept, b"x")
                assert asked(first) == b"one"
                assert balancer.reload(after).listeners == (1, 2, 0)
                assert asked(second) == b"two"
                assert wait_until(lambda: refused(first))
                assert said(kept, b"the session outlives listener, pool and backend")
                assert list(balancer.pools) == ["two"]
                assert list(balancer.listeners) == ["b"]
            back = balancer.reload(before)
            assert (back.pools, back.backends, back.listeners) == ((2, 1, 0), (2, 1, 0), (2, 1, 0))
            assert asked(first) == b"one"


def test_a_port_in_use_changes_nothing() -> None:
    with serving(one_answer(b"one")) as one, socket.create_server(("127.0.0.1", 0)) as taken:
        port, free = taken.getsockname()[1], free_port()
        listeners = {"web": {"bind": "127.0.0.1:0", "pool": "web"}}
        before = config_of(listeners, {"web": {"backends": [one.address]}})
        more = {"free": {"bind": f"127.0.0.1:{free}", "pool": "new"}, "taken": {"bind": f":{port}", "pool": "new"}}
        pools = {"web": {"backends": ["127.0.0.1:1"]}, "new": {"backends": ["127.0.0.1:1"]}}
        with LoadBalancer(before) as balancer:
            heard, version = events_of(balancer), balancer.status()["snapshot_version"]
            address = address_of(balancer)
            with pytest.raises(ConfigError, match=r"listeners\.taken\.bind: .*cannot listen: Address already in use"):
                balancer.reload(config_of({**listeners, **more}, pools))
            assert [event.kind for event in heard] == ["reload_failed"]
            assert balancer.status()["snapshot_version"] == version
            assert (list(balancer.pools), list(balancer.listeners)) == (["web"], ["web"])
            assert asked(address) == b"one"
            assert refused(f"127.0.0.1:{free}"), "a listener that could be opened is closed again"


def test_checks_that_cannot_be_change_nothing_and_a_name_that_does_not_resolve_is_no_reason() -> None:
    listeners = {"web": {"bind": "127.0.0.1:0", "pool": "web"}}
    with LoadBalancer(config_of(listeners, {"web": {"backends": ["127.0.0.1:1"]}})) as balancer:
        wrong = {
            "web": {"backends": ["no.such.name.invalid:1"]},
            "b": {"backends": ["127.0.0.1:0"], "health": HealthConfig(type="tcp")},
        }
        with pytest.raises(ConfigError) as caught:
            balancer.reload(config_of(listeners, wrong))
        paths = [problem.path for problem in caught.value.problems]
        assert paths == ["pools.b.health"]
        assert list(balancer.pools["web"]) == ["127.0.0.1:1"]
        balancer.pools["web"].add("no.such.name.invalid:1")
        assert balancer.pools["web"]["no.such.name.invalid:1"].health is Health.DOWN


def test_what_a_process_cannot_change_is_said() -> None:
    listeners, pools = {"web": {"bind": "127.0.0.1:0", "pool": "web"}}, {"web": {"backends": ["127.0.0.1:1"]}}
    with LoadBalancer(config_of(listeners, pools)) as balancer:
        heard = events_of(balancer)
        changes = balancer.reload(config_of(listeners, pools, workers=3, drain_timeout="1s", hash_seed=7))
        assert changes.needs_restart == ("global.workers",)
        assert [event.kind for event in heard] == ["reloaded", "reload_incomplete"]
        assert "global.workers" in str(heard[1].fields)
        assert balancer.config.global_.drain_timeout == 1


def test_the_verbs_of_a_pool_and_its_backends() -> None:
    with serving(one_answer(b"one")) as one, serving(one_answer(b"two")) as two, balancing([one.address]) as balancer:
        pool, address = balancer.pools["web"], address_of(balancer)
        added = pool.add(two.address, weight=3, tags={"rack": "4"})
        assert (added.id, added.weight, added.health) == (two.address, 3, Health.UP)
        assert {asked(address) for _ in range(8)} == {b"one", b"two"}
        pool[one.address].maint()
        assert pool[one.address].admin_state is AdminState.MAINT
        assert {asked(address) for _ in range(4)} == {b"two"}
        pool[one.address].ready()
        added.set_weight(0)
        added.set_max_sessions(9)
        assert (added.weight, added.max_sessions) == (0, 9)
        assert {asked(address) for _ in range(4)} == {b"one"}
        pool.remove(one.address)
        added.set(weight=1)
        assert list(pool) == [two.address]
        assert {asked(address) for _ in range(4)} == {b"two"}
        with pytest.raises(ChangeError, match="no backend"):
            pool.remove(one.address)


def test_the_verbs_under_asyncio() -> None:
    async def main(one: str, two: str) -> None:
        async with LoadBalancer(make_config([one])) as balancer:
            pool = balancer.pools["web"]
            added = await pool.aadd(two, weight=2)
            await added.aset_weight(3)
            await added.amaint()
            assert (added.weight, added.admin_state) == (3, AdminState.MAINT)
            await added.aready()
            assert await added.adrain(wait=True, timeout=1)
            await pool.aremove(two, drain=1)
            changes = await balancer.areload(make_config([one, two]))
            assert changes.backends == (1, 0, 0)

    with serving(hold) as one, serving(hold) as two:
        asyncio.run(main(one.address, two.address))


def test_runtime_changes_survive_a_reload() -> None:
    with serving(hold) as one, serving(hold) as two, balancing([one.address]) as balancer:
        pool = balancer.pools["web"]
        pool[one.address].set_weight(5)
        pool.add(two.address)
        balancer.reload(make_config([one.address], listener={"idle_timeout": "5m"}))
        assert {key: backend.weight for key, backend in pool.items()} == {one.address: 5, two.address: 1}
        balancer.reload(make_config([{"address": one.address, "weight": 2}]))
        assert {key: backend.weight for key, backend in pool.items()} == {one.address: 2, two.address: 1}


def test_draining_a_backend_waits_for_its_sessions() -> None:
    with serving(echo) as one, balancing([one.address]) as balancer, connect(address_of(balancer)) as sock:
        assert said(sock, b"x")
        backend = balancer.pools["web"][one.address]
        began = time.monotonic()
        assert not backend.drain(wait=True, timeout=0.2)
        assert time.monotonic() - began >= 0.2
        assert said(sock, b"goes on")
        sock.close()
        assert backend.drain(wait=True, timeout=20)
        with pytest.raises(ConnectionResetError):
            asked(address_of(balancer))
        wait_closed(balancer, CloseReason.NO_BACKEND)


def test_the_sessions_of_a_removed_backend_end_by_their_deadline() -> None:
    with serving(echo) as one, serving(echo) as two, balancing([one.address, two.address]) as balancer:
        socks = [connect(address_of(balancer)) for _ in range(4)]
        assert all(said(sock, b"x") for sock in socks)
        balancer.pools["web"].remove(one.address, drain=0.3)
        assert all(said(sock, b"both go on") for sock in socks)
        wait_closed(balancer, CloseReason.DRAIN, 2)
        balancer.pools["web"].remove(two.address, drain=0)
        wait_closed(balancer, CloseReason.DRAIN, 4)
        for sock in socks:
            sock.close()


def test_a_backend_that_returns_keeps_its_sessions_and_its_limit() -> None:
    limited = {"max_sessions": 1}
    with serving(echo) as one, serving(echo) as two, balancing([{"address": one.address, **limited}]) as balancer:
        with connect(address_of(balancer)) as sock:
            assert said(sock, b"x")
            balancer.pools["web"].remove(one.address, drain=0.2)
            balancer.pools["web"].add(one.address)
            balancer.pools["web"].add(two.address, weight=0)
            with pytest.raises(ConnectionResetError):  # the session from before counts
                asked(address_of(balancer))
            deadline = time.monotonic() + 0.4
            while time.monotonic() < deadline:
                assert said(sock, b"stays beyond the deadline of the removal")


def test_checks_follow_what_is_wanted() -> None:
    with serving(hold) as one, serving(hold) as two, balancing([one.address], health=FAST) as balancer:
        assert balancer.wait_ready()
        pool, dead = balancer.pools["web"], f"127.0.0.1:{free_port()}"
        pool.add(two.address)
        pool.add(dead)
        assert wait_until(lambda: pool[two.address].health is Health.UP and pool[dead].health is Health.DOWN)
        assert len(balancer.plane.monitor.checkers) == 3
        since = balancer.status()["pools"][0]["backends"][0]["health_since"]
        slower = FAST.model_copy(update={"interval": 0.15})
        balancer.reload(make_config([one.address], health=slower))
        assert pool[one.address].health is Health.UP, "known health outlives new settings"
        assert balancer.status()["pools"][0]["backends"][0]["health_since"] == since
        assert {checker.target.settings.interval for checker in balancer.plane.monitor.checkers} == {0.15}
        pool.remove(dead)
        balancer.reload(make_config([one.address]))
        assert balancer.plane.monitor.checkers == []
        accepted = one.accepted
        balancer.reload(make_config([one.address], health=FAST))
        assert wait_until(lambda: one.accepted > accepted)


def test_a_pool_that_joins_known_checks_knows_at_once() -> None:
    dead = f"127.0.0.1:{free_port()}"
    listeners = {"web": {"bind": "127.0.0.1:0", "pool": "web"}}
    slow = {"backends": [dead], "health": HealthConfig(interval="1h")}
    with LoadBalancer(config_of(listeners, {"web": slow})) as balancer:
        assert wait_until(lambda: balancer.pools["web"][dead].health is Health.DOWN)
        balancer.reload(config_of(listeners, {"web": slow, "other": slow}))
        assert balancer.pools["other"][dead].health is Health.DOWN
        assert len(balancer.plane.monitor.checkers) == 1


def test_agents_follow_what_is_wanted() -> None:
    with serving(hold) as one, serving(lambda sock: sock.sendall(b"50%\n")) as agent:
        asks = AgentConfig(port=agent.port, interval="50ms")
        with balancing([one.address], agent=asks) as balancer:
            backend = balancer.plane.state.pools["web"].backends[one.address]
            assert wait_until(lambda: backend.agent.percent == 50)
            balancer.reload(make_config([one.address]))
            assert backend.agent.percent == 100
            balancer.reload(make_config([one.address], agent=asks))
            assert wait_until(lambda: backend.agent.percent == 50)


def test_many_changes_at_once_are_one_after_the_other() -> None:
    async def main() -> None:
        async with LoadBalancer(make_config(["127.0.0.1:1"])) as balancer:
            pool = balancer.pools["web"]
            ports = range(2, 30)
            await asyncio.gather(*(pool.aadd(f"127.0.0.1:{port}", weight=port) for port in ports))
            assert {key: backend.weight for key, backend in pool.items() if backend.weight > 1} == {
                f"127.0.0.1:{port}": port for port in ports
            }

    asyncio.run(main())


def test_while_draining_nothing_can_be_changed() -> None:
    with balancing(["127.0.0.1:1"]) as balancer:
        assert balancer.drain(1)
        with pytest.raises(ChangeError, match="draining"):
            balancer.pools["web"].add("127.0.0.1:2")
        with pytest.raises(ChangeError, match="draining"):
            balancer.reload(make_config(["127.0.0.1:2"]))


def test_listeners_change_names_options_and_addresses_over_the_same_sockets() -> None:
    """Clients connect all the time, one after the other: each is served, whatever becomes of the listener."""
    with serving(one_answer(b"one")) as one:
        first, second = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        pools = {"web": {"backends": [one.address]}}
        shapes: list[dict[str, Any]] = [
            {"a": {"bind": first}},
            {"b": {"bind": first}},
            {"b": {"bind": first, "nodelay": False, "keepalive": {"idle": "9s"}, "user_timeout": "7s", "backlog": 64}},
            {"b": {"bind": [first, second]}},
            {"b": {"bind": [second, first], "defer_accept": "1s", "fast_open": 8}},
            {"b": {"bind": second}, "c": {"bind": first}},
            {"b": {"bind": first}, "c": {"bind": second}},
        ]
        configs = [
            config_of({name: {"pool": "web", **options} for name, options in shape.items()}, pools) for shape in shapes
        ]
        with LoadBalancer(configs[0]) as balancer:
            stop, failed, answers = threading.Event(), [], 0

            def ask() -> None:
                nonlocal answers
                while not stop.is_set():
                    try:
                        assert asked(first) == b"one"
                    except Exception as error:
                        failed.append(error)
                    answers += 1

            thread = threading.Thread(target=ask)
            thread.start()
            for config in configs[1:] * 2:
                before = answers
                balancer.reload(config)
                assert wait_until(lambda before=before: answers >= before + 2 or failed)  # type: ignore[misc]
            stop.set()
            thread.join()
            assert failed == []
            assert asked(second) == b"one"
            assert set(balancer.stats().listeners) == {"b", "c"}


def test_options_of_listening_sockets_change_in_place() -> None:
    with serving(echo) as one:
        port = free_port()
        pools = {"web": {"backends": [one.address]}}
        plain = {"web": {"bind": f"127.0.0.1:{port}", "pool": "web"}}
        alive = {"web": {**plain["web"], "keepalive": {"idle": "7s"}, "nodelay": False}}
        with LoadBalancer(config_of(plain, pools)) as balancer:
            listening = balancer.plane.forwarder._listening  # type: ignore[attr-defined]
            sockets = [sock for place in listening._places.values() for sock in place.sockets.sockets]
            fds = [sock.fileno() for sock in sockets]
            for config, expected in ((alive, (1, 7, 0)), (plain, (0, 7, 1))):
                balancer.reload(config_of(config, pools))
                with connect(f"127.0.0.1:{port}") as sock:
                    assert said(sock, b"x")
                for sock in sockets:
                    alive_now = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    idle_s = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                    nodelay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    assert (alive_now, idle_s, bool(nodelay)) == (expected[0], expected[1], bool(expected[2]))
            assert [sock.fileno() for sock in sockets] == fds
            assert balancer.stats().listeners["web"].sessions_total == 2


def test_a_listener_that_returns_while_its_sessions_go_on_keeps_its_limit() -> None:
    with serving(echo) as one:
        port = free_port()
        limited = {"web": {"bind": f"127.0.0.1:{port}", "pool": "web", "max_sessions": 1}}
        other = {"other": {"bind": "127.0.0.1:0", "pool": "web"}}
        pools = {"web": {"backends": [one.address]}}
        with LoadBalancer(config_of(limited, pools)) as balancer, connect(f"127.0.0.1:{port}") as kept:
            assert said(kept, b"x")
            balancer.reload(config_of(other, pools))
            assert wait_until(lambda: refused(f"127.0.0.1:{port}"))
            balancer.reload(config_of(limited, pools))
            with pytest.raises(ConnectionResetError):
                asked(f"127.0.0.1:{port}")
            assert said(kept, b"still here")
            assert balancer.stats().listeners["web"].sessions_total == 2
