"""TCP and UDP under one max_sessions: neither starves the other, and what is idle makes room for who comes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from l4lb import Config, Listener, LoadBalancer, Pool
from l4lb.config import AdminConfig, GlobalConfig
from l4lb.model.states import CloseReason, DropReason
from tests.support.balancing import NO_CHECKS
from tests.support.datagrams import GIVEN_UP_AFTER_S, ManyClients, UdpClient, address_pair, serving_udp, silent
from tests.support.peers import connect, echo, serving
from tests.support.waiting import wait_until


@contextlib.contextmanager
def both(max_sessions: int, workers: int, **udp: int) -> Iterator[LoadBalancer]:
    """Listeners of TCP and UDP, with echo servers behind."""
    with serving(echo) as stream, serving_udp() as datagrams:
        config = Config(
            global_=GlobalConfig(workers=workers, max_sessions=max_sessions),
            admin=AdminConfig(bind="off"),
            listeners={
                "tcp": Listener(bind="127.0.0.1:0", pool="tcp"),
                "udp": Listener(bind="0.0.0.0:0", protocol="udp", pool="udp", **udp),
            },
            pools={
                "tcp": Pool(backends=[stream.address], health=NO_CHECKS),
                "udp": Pool(backends=[datagrams.address], health=NO_CHECKS),
            },
        )
        with LoadBalancer(config) as balancer:
            yield balancer


def active(balancer: LoadBalancer, name: str) -> int:
    return balancer.stats().listeners[name].sessions_active


def flood(balancer: LoadBalancer, count: int) -> None:
    """So many sources, each with a question that begins a session or is dropped."""

    def seen() -> int:
        listener = balancer.stats().listeners["udp"]
        return listener.sessions_total + listener.dropped.get(DropReason.MAX_SESSIONS, 0)

    wanted = seen() + count
    many = ManyClients(("127.0.0.1", address_pair(balancer.listeners["udp"].addresses[0])[1]))
    try:
        many.send(count)
        while not wait_until(lambda: seen() >= wanted, GIVEN_UP_AFTER_S):  # a busy machine drops datagrams
            assert many.sent < 10 * count, (wanted, balancer.stats())
            many.send(wanted - seen())
    finally:
        many.close()


def is_served(sock: socket.socket) -> bool:
    try:
        sock.sendall(b"?")
        return sock.recv(1) == b"?"
    except ConnectionError:
        return False


def connects(stack: contextlib.ExitStack, balancer: LoadBalancer) -> bool:
    """Whether a new client of TCP is served; it stays."""
    try:
        return is_served(stack.enter_context(connect(balancer.listeners["tcp"].addresses[0])))
    except ConnectionError:
        return False


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_flood_of_sources_costs_no_client_of_tcp_anything(workers: int) -> None:
    """Up to all that UDP has no right to, whichever worker the idle sessions are on."""
    with both(80, workers) as balancer, contextlib.ExitStack() as stack:
        flood(balancer, 400)
        assert active(balancer, "udp") == 60
        for number in range(60):
            assert connects(stack, balancer), (number, balancer.stats())
            flood(balancer, 10 * (number % 2))
        assert (active(balancer, "tcp"), active(balancer, "udp")) == (60, 20)
        assert not connects(stack, balancer)
        assert wait_until(lambda: balancer.stats().listeners["tcp"].closed == {CloseReason.RESOURCE_LIMIT: 1})


def test_clients_of_tcp_leave_udp_its_part() -> None:
    with both(40, 1) as balancer, contextlib.ExitStack() as stack:
        served = [connects(stack, balancer) for _ in range(40)]
        assert served.count(True) == 30
        with UdpClient(("127.0.0.1", address_pair(balancer.listeners["udp"].addresses[0])[1])) as client:
            assert client.ask(b"?") == b"?"
        flood(balancer, 100)
        assert (active(balancer, "tcp"), active(balancer, "udp")) == (30, 10)


def test_the_idlest_of_another_listener_makes_room_too() -> None:
    with serving_udp(silent) as server:
        config = Config(
            global_=GlobalConfig(workers=1, max_sessions=5),
            admin=AdminConfig(bind="off"),
            listeners={name: Listener(bind="127.0.0.1:0", protocol="udp", pool="udp") for name in ("first", "second")},
            pools={"udp": Pool(backends=[server.address], health=NO_CHECKS)},
        )
        with LoadBalancer(config) as balancer, contextlib.ExitStack() as stack:
            for name, count in (("first", 5), ("second", 3)):
                for _ in range(count):
                    client = stack.enter_context(UdpClient(balancer.listeners[name].addresses[0]))
                    client.send(b"?")
                    total = len(server.received) + 1
                    assert wait_until(lambda total=total: len(server.received) >= total - 1)
            assert wait_until(lambda: active(balancer, "second") == 3)
            assert active(balancer, "first") == 2
            assert not balancer.stats().listeners["second"].dropped


def test_a_process_of_one_protocol_has_all_places() -> None:
    with serving(echo) as stream:
        config = Config(
            global_=GlobalConfig(workers=2, max_sessions=10),
            admin=AdminConfig(bind="off"),
            listeners={"tcp": Listener(bind="127.0.0.1:0", pool="tcp")},
            pools={"tcp": Pool(backends=[stream.address], health=NO_CHECKS)},
        )
        with LoadBalancer(config) as balancer, contextlib.ExitStack() as stack:
            assert [connects(stack, balancer) for _ in range(11)] == [True] * 10 + [False]
