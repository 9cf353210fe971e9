"""Policies over real sessions: which backend gets whom."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from l4lb import Backend, LoadBalancer
from l4lb.config import HealthConfig
from l4lb.model.snapshot import HashKey
from l4lb.model.states import CloseReason
from l4lb.routing.hashing import client_hash
from l4lb.routing.maglev import maglev_slots
from tests.support.balancing import address_of, balancing, wait_closed
from tests.support.peers import Server, connect, running, serving
from tests.support.programs import free_port
from tests.support.waiting import wait_until


def named(name: str) -> Any:
    def answer(sock: socket.socket) -> None:
        sock.sendall(name.encode())
        while sock.recv(100):
            pass

    return answer


@contextlib.contextmanager
def three_backends() -> Iterator[list[Server]]:
    """They greet with their names, a to c, and hold their sessions."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(serving(named(name))) for name in "abc"]


def backends(servers: list[Server], **options: dict[str, Any]) -> list[Backend]:
    return [
        Backend(address=server.address, id=name, **options.get(name, {}))
        for name, server in zip("abc", servers, strict=True)
    ]


def held(stack: contextlib.ExitStack, address: str, count: int) -> str:
    """Names of the backends that `count` sessions got; the sessions stay until the stack closes."""
    socks = [stack.enter_context(connect(address)) for _ in range(count)]
    return "".join(sock.recv(1).decode() for sock in socks)


def test_first_fills_in_the_order_of_the_configuration() -> None:
    with three_backends() as servers, contextlib.ExitStack() as stack:
        a, b, c = backends(servers, c={"max_sessions": 2}, a={"max_sessions": 1})
        balancer = stack.enter_context(balancing([c, a, b], policy="first"))
        got = [held(stack, address_of(balancer), 1) for _ in range(5)]
    assert got == ["c", "c", "a", "b", "b"]


def test_random_goes_by_weight() -> None:
    with three_backends() as servers, contextlib.ExitStack() as stack:
        pool = backends(servers, a={"weight": 6}, b={"weight": 3})
        balancer = stack.enter_context(balancing(pool, policy="random"))
        got = Counter(held(stack, address_of(balancer), 400))
    for name, share in (("a", 240), ("b", 120), ("c", 40)):
        assert abs(got[name] - share) < 6 * share**0.5, got  # six standard deviations and more


def test_p2c_keeps_held_sessions_even() -> None:
    with three_backends() as servers, contextlib.ExitStack() as stack:
        balancer = stack.enter_context(balancing(backends(servers), policy="p2c"))
        got = Counter(held(stack, address_of(balancer), 300))
    assert max(got.values()) - min(got.values()) <= 10, got


@pytest.mark.parametrize("key", [key for key in HashKey if key not in (HashKey.RANDOM, HashKey.QUIC_CID)])
def test_each_hash_key_chooses_as_python_computes(key: HashKey) -> None:
    """The whole path: what accept and getsockname report, the hash, the table."""
    with three_backends() as servers, contextlib.ExitStack() as stack:
        options = {"policy": "maglev", "table_size": 251, "hash_key": str(key)}
        balancer = stack.enter_context(balancing(backends(servers), **options))
        host, _, port = address_of(balancer).rpartition(":")
        slots = maglev_slots(["a", "b", "c"], [1, 1, 1], 251, 0)
        for _ in range(30):
            sock = stack.enter_context(connect(address_of(balancer)))
            hashed = client_hash(key, sock.getsockname(), (host, int(port)))
            assert sock.recv(1).decode() == "abc"[slots[hashed % 251]]


CHECKS = HealthConfig(interval="50ms", fast_interval="50ms", down_interval="50ms", timeout="200ms", rise=1, fall=2)


def greeting(address: str) -> str:
    with connect(address) as sock:
        return sock.recv(1).decode()


def healths(balancer: LoadBalancer) -> set[str]:
    return {one["health"] for one in balancer.status()["pools"][0]["backends"]}


def wait_usable(balancer: LoadBalancer, count: int) -> None:
    assert wait_until(lambda: balancer.status()["pools"][0]["usable"] == count), balancer.status()


def test_a_higher_priority_number_serves_only_while_the_lower_is_down() -> None:
    with three_backends() as servers:
        pool = backends(servers, b={"priority": 1}, c={"priority": 1})
        with balancing(pool, health=CHECKS, connect_attempts=1) as balancer:
            assert balancer.wait_ready()
            address = address_of(balancer)
            assert {greeting(address) for _ in range(6)} == {"a"}
            servers[0].stop()
            wait_usable(balancer, 2)
            assert {greeting(address) for _ in range(6)} == {"b", "c"}
            with running(Server(named("a"), port=servers[0].port)):
                wait_usable(balancer, 3)
                assert {greeting(address) for _ in range(6)} == {"a"}


@pytest.mark.parametrize("way", ["reject", "use_all"])
def test_when_all_are_down_each_way_does_as_it_says(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """`reject` resets the client at once; `use_all` tries them, and those that answer after all are used."""
    with three_backends() as servers:
        never_passes = CHECKS.model_copy(update={"address": f"127.0.0.1:{free_port()}"})
        with balancing(backends(servers), health=never_passes, when_all_down=way) as balancer:
            assert wait_until(lambda: healths(balancer) == {"down"})
            assert wait_until(lambda: "pool down" in caplog.messages)
            assert caplog.messages.count("pool down") == 1  # at the last of the three
            if way == "use_all":
                assert {greeting(address_of(balancer)) for _ in range(6)} == {"a", "b", "c"}
            else:
                wait_usable(balancer, 0)  # what was seen has reached the workers
                with pytest.raises(ConnectionError):
                    greeting(address_of(balancer))
                wait_closed(balancer, CloseReason.NO_BACKEND)


def answering_after(name: str, delay_s: float) -> Any:
    def answer(sock: socket.socket) -> None:
        if sock.recv(100):
            time.sleep(delay_s)
            sock.sendall(name.encode())

    return answer


def asked(address: str) -> str:
    with connect(address) as sock:
        sock.sendall(b"?")
        return sock.recv(1).decode()


def test_peak_ewma_leaves_a_slow_backend_nearly_alone() -> None:
    """It answers after 300 ms, the others at once: once known, it is asked only when both draws fall on it."""
    delays = {"a": 0.0, "b": 0.0, "c": 0.3}
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving(answering_after(name, delay))) for name, delay in delays.items()]
        balancer = stack.enter_context(balancing(backends(servers), policy="peak_ewma"))
        got = Counter(asked(address_of(balancer)) for _ in range(200))
    assert got["c"] <= 10, got
    assert min(got["a"], got["b"]) >= 40, got


def test_peak_ewma_does_not_take_a_refusal_for_a_quick_answer() -> None:
    """Without checks, a backend that refuses is tried a few times and then left to itself."""
    with three_backends() as servers, contextlib.ExitStack() as stack:
        servers[0].stop()
        balancer = stack.enter_context(balancing(backends(servers), policy="peak_ewma"))
        # One after the other: many at once are a load of their own, beside which it may be worth another try.
        got = {greeting(address_of(balancer)) for _ in range(200)}
        assert got == {"b", "c"}
        assert balancer.stats().pools["web"].backends["a"].connect_failures <= 2


@pytest.mark.parametrize("policy", ["maglev", "ring", "rendezvous"])
def test_bounded_load_over_real_sessions(policy: str) -> None:
    """All come from one address: without a bound all would be on one backend. Limits are those of explain."""
    with three_backends() as servers, contextlib.ExitStack() as stack:
        options = {"policy": policy, "table_size": 251, "bounded_load": 1.25}
        balancer = stack.enter_context(balancing(backends(servers), **options))
        got = Counter(held(stack, address_of(balancer), 240))
        answer = balancer.pools["web"].explain("127.0.0.1")
        first, second, third = (one["id"] for one in answer["candidates"])
        assert got[first] == 100
        assert got[second] == 100
        assert got[third] == 40
        assert [one["full"] for one in answer["candidates"]] == [False, False, False]  # ceil(1.25 * 241 / 3) is 101


def test_slow_start_gives_who_returns_a_growing_share() -> None:
    with three_backends() as servers:
        checks = CHECKS.model_copy(update={"rise": 1})
        with balancing(backends(servers), health=checks, slow_start="1h") as balancer:
            assert balancer.wait_ready()  # all are usable also while none is decided
            assert {one["effective_weight"] for one in balancer.status()["pools"][0]["backends"]} == {1.0}
            servers[0].stop()
            wait_usable(balancer, 2)
            with running(Server(named("a"), port=servers[0].port)):
                wait_usable(balancer, 3)

                def weights() -> list[float]:
                    return [one["effective_weight"] for one in balancer.status()["pools"][0]["backends"]]

                assert wait_until(lambda: weights() == [0.05, 1.0, 1.0]), weights()
                got = Counter(greeting(address_of(balancer)) for _ in range(82))  # two turns of 1 + 20 + 20
                assert got == {"a": 2, "b": 40, "c": 40}
