"""`LoadBalancer` as a library, plain and under asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable

import pytest

import l4lb.control.loop
from l4lb import Config, ConfigError, EngineError, LoadBalancer
from l4lb.config import HealthConfig
from l4lb.model.states import AdminState, Health
from l4lb.testing import BackendPool, TcpBackend
from tests.support.balancing import address_of, make_config, wait_idle
from tests.support.peers import connect, echo, one_answer, serving
from tests.support.waiting import wait_until


def test_views_and_stats() -> None:
    with serving(one_answer(b"hello")) as server, LoadBalancer(make_config([server.address])) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.sendall(b"hi")
            assert sock.recv(10) == b"hello"
        wait_idle(balancer)
        backend = balancer.pools["web"][server.address]
        assert (backend.health, backend.admin_state, backend.weight) == (Health.UP, AdminState.READY, 1)
        assert backend.stats.sessions_total == 1
        assert balancer.stats().pools["web"].bytes_down == 5
        assert balancer.stats().pools["web"].sessions_active == 0
        assert list(balancer.pools["web"]) == [server.address]
        assert balancer.status()["listeners"][0]["addresses"] == balancer.listeners["web"].addresses


def test_under_asyncio() -> None:
    async def main(address: str) -> None:
        async with LoadBalancer(make_config([address])) as balancer:
            host, port = address_of(balancer).split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            assert (await balancer.astats()).sessions_total == 1
            writer.close()
            await writer.wait_closed()
            assert await balancer.adrain(5)

    with serving(echo) as server:
        asyncio.run(main(server.address))


def test_several_in_one_process() -> None:
    with serving(one_answer(b"one")) as one, serving(one_answer(b"two")) as two:
        with LoadBalancer(make_config([one.address])) as first, LoadBalancer(make_config([two.address])) as second:
            for balancer, answer in ((first, b"one"), (second, b"two")):
                with connect(address_of(balancer)) as sock:
                    sock.sendall(b"x")
                    assert sock.recv(10) == answer


def test_wait_ready_follows_the_health_checks(l4lb_make_pool: Callable[..., BackendPool[TcpBackend]]) -> None:
    health = HealthConfig(interval=0.05, fast_interval=0.02, down_interval=0.05)
    pool = l4lb_make_pool("tcp", backends=1, health=health)
    (server,) = pool.backends
    assert pool.balancer.wait_ready(60)
    backend = pool.balancer.pools["pool"][server.address]
    with server.refuse():
        assert wait_until(lambda: backend.health is Health.DOWN)
        assert not pool.balancer.wait_ready(0.05)
    assert pool.balancer.wait_ready(60)


def test_a_taken_port_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        balancer = LoadBalancer(make_config(["127.0.0.1:1"], listener={"bind": bind}))
        with pytest.raises(ConfigError, match=r"listeners\.web\.bind: .*Address already in use"):
            balancer.start()
        with pytest.raises(EngineError, match="not started"):
            balancer.stats()


def test_a_listeners_name_that_does_not_resolve() -> None:
    """Of a backend it is no reason not to start: tests/scenarios/test_names.py."""
    text = '[admin]\nbind = "off"\n[listeners.web]\nbind = "no-such-host.invalid:0"\npool = "web"\n'
    text += '[pools.web]\nbackends = ["no-such-host.invalid:80"]\n'
    with pytest.raises(ConfigError, match=r"lb\.toml:4: listeners\.web\.bind: cannot resolve no-such-host\.invalid"):
        LoadBalancer(Config.loads(text, file="lb.toml")).start()


def test_close_is_idempotent_and_start_is_not() -> None:
    balancer = LoadBalancer(make_config(["127.0.0.1:1"]))
    balancer.start()
    with pytest.raises(EngineError, match="already started"):
        balancer.start()
    balancer.close()
    balancer.close()


def test_drain_waits_for_sessions_and_refuses_new_ones(l4lb_pool: BackendPool[TcpBackend]) -> None:
    with connect(l4lb_pool.address) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert not l4lb_pool.balancer.drain(0.05)
        with pytest.raises(ConnectionRefusedError):
            connect(l4lb_pool.address)
        sock.sendall(b"y")
        assert sock.recv(1) == b"y"
    assert l4lb_pool.balancer.drain(60)


def test_who_waits_for_a_drain_hears_of_the_end() -> None:
    """However early it comes."""

    async def drain_and_stop(balancer: LoadBalancer, turns: int) -> bool:
        draining = asyncio.create_task(balancer.plane.drain(20))
        for _ in range(turns):
            await asyncio.sleep(0)
        await balancer.plane.draining.stop()
        return await draining

    for turns in range(1, 6):
        with serving(echo) as server, LoadBalancer(make_config([server.address])) as balancer:
            with connect(address_of(balancer)) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                assert not balancer.run(drain_and_stop(balancer, turns))


def test_a_control_loop_that_ends_for_lack_of_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise MemoryError

    threads = set(threading.enumerate())
    balancer = LoadBalancer(make_config(["127.0.0.1:1"]))
    with monkeypatch.context() as patch:
        patch.setattr(l4lb.control.loop, "name_this_thread", fail)
        with pytest.raises(EngineError, match="the control loop has ended: out of memory"):
            balancer.start()
    assert set(threading.enumerate()) <= threads
    with balancer:  # it can be started again
        assert balancer.listeners


def test_nobody_waits_for_a_control_loop_that_has_ended() -> None:
    """Whether it ends before they ask or while they wait, and neither does `close`."""
    for asks in (lambda one: one.reload(), lambda one: asyncio.run(one.areload()), lambda one: one.close()):
        balancer = LoadBalancer(make_config(["127.0.0.1:1"]))
        balancer.start()
        control = balancer._control
        assert control is not None
        thread = control.thread
        assert thread is not None
        balancer.run(balancer.plane.stop())  # nothing may run on when the test is over
        control.loop.call_soon_threadsafe(control._stop)
        thread.join()
        with pytest.raises(EngineError, match="the control loop has ended"):
            asks(balancer)
        with contextlib.suppress(EngineError):
            balancer.close()
