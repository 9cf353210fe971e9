"""What this host is short of is no backend's fault: ports, permissions, routes. Each test has a network namespace of
its own, whose ports, routes and firewall rules are what it wants them to be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from l4lb import Backend, Config, ConfigError, LoadBalancer
from l4lb.config import GlobalConfig, HealthConfig
from l4lb.control.checks.checks import NotChecked
from l4lb.control.checks.registry import check_of
from l4lb.model.states import CloseReason, ConnectFailure, DropReason, Health, Shortage
from l4lb.model.stats import BackendStats
from tests.support.balancing import address_of, closed, make_config, wait_closed, wait_idle
from tests.support.checking import target_of
from tests.support.datagrams import UdpServer, address_pair, serving_udp
from tests.support.namespaces import in_namespace, set_sysctl
from tests.support.peers import Server, serving
from tests.support.programs import run
from tests.support.waiting import wait_until

PORTS = 40
NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT, linux/in.h
OFTEN = HealthConfig(type="tcp", interval=0.4, fast_interval=0.4, down_interval=0.4, timeout=2, rise=1, fall=1)
PASSIVE = {"failures": 2, "eject_for": "30s", "max_ejected_percent": 100}


def few_ports(count: int = PORTS, first: int = 30000) -> None:
    """Once the servers are there, whose ports are then others."""
    set_sysctl("net.ipv4.ip_local_port_range", f"{first} {first + count - 1}")


def answer_and_close(sock: socket.socket) -> None:
    """The backend closes first, so that no port waits for the kernel's TIME_WAIT on the balancer's side."""
    if sock.recv(1):
        sock.sendall(b"y")


def hold_until_asked(sock: socket.socket) -> None:
    sock.sendall(b"!")
    answer_and_close(sock)


class Clients:
    """Each source address has the few ports again: clients come from as many as are needed."""

    def __init__(self, address: str) -> None:
        self._to = address_pair(address)
        self.made = 0
        self.open: list[socket.socket] = []

    def come(self) -> bool:
        """Whether a backend greeted another client, which stays then."""
        sock = socket.socket()
        sock.settimeout(20)
        sock.setsockopt(socket.IPPROTO_IP, NO_PORT, 1)
        sock.bind((f"127.1.0.{1 + self.made // (PORTS // 2)}", 0))
        self.made += 1
        try:
            sock.connect(self._to)
            if sock.recv(1) == b"!":
                self.open.append(sock)
                return True
        except ConnectionResetError:
            pass
        sock.close()
        return False

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.open:
            sock.close()

    def leave(self) -> None:
        for sock in self.open:
            sock.sendall(b"x")
            assert sock.recv(1) == b"y"
            assert sock.recv(1) == b""
            sock.close()
        self.open = []


@contextlib.contextmanager
def backends(count: int, handle: Any = hold_until_asked) -> Iterator[list[Server]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(serving(handle)) for _ in range(count)]


def configured(addresses: list[Any], *, max_sessions: int | None = 1000, **options: Any) -> Config:
    options["listener"] = {"bind": "127.0.0.1:9000", **options.get("listener", {})}
    config = make_config(addresses, workers=1, **options)
    limits = {} if max_sessions is None else {"max_sessions": max_sessions}
    return config.model_copy(update={"global_": GlobalConfig(workers=1, **limits)})


def stats_of(balancer: LoadBalancer, address: str) -> BackendStats:
    return balancer.stats().pools["web"].backends[address]


def events_of(balancer: LoadBalancer, kind: str) -> list[dict[str, object]]:
    return [one.fields for one in list(balancer.plane.events.recent) if one.kind == kind]


def nobody_is_blamed(balancer: LoadBalancer) -> None:
    for kind in ("backend_ejected", "ejection_withheld", "backend_down"):
        assert events_of(balancer, kind) == []
    for backend in balancer.plane.state.pools["web"].backends.values():
        assert backend.health is not Health.DOWN
        assert not backend.ejected


def test_tcp_at_the_end_of_the_ports() -> None:
    """Forty to each backend; who finds none is reset for resource_limit, and when there are some again all is well at
    once."""

    def inside() -> None:
        with backends(2) as servers:
            few_ports()
            addresses = [server.address for server in servers]
            config = configured(addresses, policy="first", health=OFTEN, passive=PASSIVE, connect_attempts=1)
            with LoadBalancer(config) as balancer, Clients(address_of(balancer)) as clients:
                assert balancer.wait_ready()
                # Some ports are those of checks, and wait in TIME_WAIT for a second: try until none is left to checks.
                assert wait_until(lambda: not clients.come() and len(clients.open) == 2 * PORTS, 20)
                assert closed(balancer)[CloseReason.RESOURCE_LIMIT] == clients.made - 2 * PORTS
                checkers = balancer.plane.monitor.checkers
                skipped = [one.skipped for one in checkers]
                assert wait_until(
                    lambda: all(one.skipped > old + 3 for one, old in zip(checkers, skipped, strict=True))
                )
                for address in addresses:
                    assert set(stats_of(balancer, address).failed) == {ConnectFailure.RESOURCES}
                    assert stats_of(balancer, address).connect_failures == 0
                nobody_is_blamed(balancer)
                assert wait_until(lambda: events_of(balancer, "backends_not_asked"))
                (told,) = events_of(balancer, "backends_not_asked")
                assert told["kind"] == Shortage.PORTS
                assert "ip_local_port_range" in str(told["reason"])
                (told,) = events_of(balancer, "checks_not_made")
                assert "ip_local_port_range" in str(told["reason"])
                clients.leave()
                wait_idle(balancer)
                assert sum(clients.come() for _ in range(PORTS)) == PORTS  # half of them: some wait for checks again
                nobody_is_blamed(balancer)
                clients.leave()

    in_namespace(inside)


@pytest.mark.parametrize("responses", [0, 1])
def test_udp_at_the_end_of_the_ports_makes_room_as_at_max_sessions(responses: int) -> None:
    def inside() -> None:
        with serving_udp() as one, serving_udp() as other, contextlib.ExitStack() as stack:
            few_ports()
            listener = {"protocol": "udp", "udp_responses": responses}
            addresses = [one.address, other.address]
            config = configured(addresses, listener=listener, policy="round_robin", passive=PASSIVE)
            with LoadBalancer(config) as balancer:
                for number in range(3 * PORTS):
                    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    sock.settimeout(10)
                    sock.bind(("127.0.0.1", 20000 + number))
                    sock.connect(address_pair(address_of(balancer)))
                    sock.send(b"hello")
                    assert sock.recv(10) == b"hello", number
                nobody_is_blamed(balancer)
                stats = balancer.stats()
                assert stats.listeners["web"].dropped == {}
                for address in addresses:
                    assert stats_of(balancer, address).failed == {}
                if not responses:  # or else links serve one client after another
                    assert stats.shortages[Shortage.PORTS] >= 2 * PORTS
                    assert 2 * PORTS <= closed(balancer)[CloseReason.RESOURCE_LIMIT] < 3 * PORTS

    in_namespace(inside)


def test_udp_without_any_port_is_dropped_and_blames_nobody() -> None:
    def inside() -> None:
        with serving_udp() as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hog:
            few_ports(1)
            hog.bind(("0.0.0.0", 30000))
            config = configured([server.address], listener={"protocol": "udp"}, passive=PASSIVE)
            with LoadBalancer(config) as balancer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(10)
                client.bind(("127.0.0.1", 20000))
                client.connect(address_pair(address_of(balancer)))
                for _ in range(5):
                    client.send(b"x")
                assert wait_until(lambda: balancer.stats().listeners["web"].dropped == {DropReason.RESOURCES: 5})
                assert stats_of(balancer, server.address).failed == {ConnectFailure.RESOURCES: 5}
                nobody_is_blamed(balancer)
                hog.close()
                client.send(b"y")
                assert client.recv(10) == b"y"

    in_namespace(inside)


ROUTES = {
    "unreachable": ConnectFailure.UNREACHABLE,
    "blackhole": ConnectFailure.UNREACHABLE,
    "throw": ConnectFailure.UNREACHABLE,
    "prohibit": ConnectFailure.RESOURCES,
}


def tcp_served(balancer: LoadBalancer, count: int) -> None:
    with Clients(address_of(balancer)) as clients:
        assert all(clients.come() for _ in range(count))
        clients.leave()


def udp_served(balancer: LoadBalancer, count: int) -> None:
    for number in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.connect(address_pair(address_of(balancer)))
            sock.send(b"%d" % number)
            assert sock.recv(10) == b"%d" % number


def reaches(balancer: LoadBalancer, server: UdpServer) -> bool:
    """Whether a new client's datagram comes to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address_pair(address_of(balancer)))
        sock.send(b"reached")
        return wait_until(lambda: b"reached" in server.received, 0.2)


@contextlib.contextmanager
def live(protocol: str) -> Iterator[Server | UdpServer]:
    with serving_udp() if protocol == "udp" else serving(hold_until_asked) as server:
        yield server


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("kind", ROUTES)
def test_routes(kind: str, protocol: str) -> None:
    """Which errno each kind of route gives, and whether it counts against the backend behind it."""

    def inside() -> None:
        run("ip", "route", "add", kind, "10.78.1.0/24")
        own = ROUTES[kind] is ConnectFailure.RESOURCES
        with live(protocol) as server:
            gone = "10.78.1.1:9"
            pool: dict[str, Any] = {"policy": "first", "passive": PASSIVE, "connect_attempts": 2}
            config = configured([gone, Backend(address=server.address)], listener={"protocol": protocol}, **pool)
            with LoadBalancer(config) as balancer:
                (tcp_served if protocol == "tcp" else udp_served)(balancer, 6)
                failed = stats_of(balancer, gone).failed
                assert set(failed) == {ROUTES[kind]}, failed
                assert stats_of(balancer, server.address).failed == {}
                if own:
                    nobody_is_blamed(balancer)
                    assert balancer.stats().shortages == {Shortage.DENIED: failed[ConnectFailure.RESOURCES]}
                elif protocol == "tcp":
                    assert wait_until(lambda: balancer.plane.state.pools["web"].backends[gone].ejected)

    in_namespace(inside)


OUTPUT = """
table inet own {{
  chain output {{
    type filter hook output priority 0;
    ip daddr 127.9.9.9 udp dport {port} {verdict}
  }}
}}
"""


@pytest.mark.parametrize("verdict", ["drop", "reject", "reject with icmp type host-prohibited"])
def test_a_local_firewall_that_lets_no_datagram_out(verdict: str) -> None:
    """send(2): EPERM; what its ICMP says after that is no backend's word."""

    def inside() -> None:
        with serving_udp(host="127.9.9.9") as denied, serving_udp() as other:
            rules = OUTPUT.format(port=denied.port, verdict=verdict)
            run("nft", rules)
            config = configured(
                [denied.address, other.address], listener={"protocol": "udp"}, policy="first", passive=PASSIVE
            )
            with LoadBalancer(config) as balancer:
                udp_served(balancer, 10)
                wait_until(lambda: False, 0.2)
                udp_served(balancer, 10)
                assert set(stats_of(balancer, denied.address).failed) <= {ConnectFailure.RESOURCES}
                assert stats_of(balancer, other.address).failed == {}
                assert balancer.stats().shortages[Shortage.DENIED] > 0
                nobody_is_blamed(balancer)
            with pytest.raises(NotChecked, match="firewall"):
                asyncio.run(check_of("udp")(target_of(denied.address, "udp", send=["x"])))

    in_namespace(inside)


def test_a_firewall_that_lets_nothing_out_to_any_backend_does_not_hold_the_worker() -> None:
    def inside() -> None:
        addresses = [f"127.9.9.9:{port}" for port in (9, 10, 11)]
        run("nft", OUTPUT.format(port="9-11", verdict="drop"))
        with serving_udp() as other:
            config = configured(addresses, listener={"protocol": "udp"}, passive=PASSIVE)
            with LoadBalancer(config) as balancer:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.connect(address_pair(address_of(balancer)))
                    for _ in range(20):
                        sock.send(b"x")
                    assert wait_until(lambda: DropReason.NOT_SENT in balancer.stats().listeners["web"].dropped)
                nobody_is_blamed(balancer)
                balancer.pools["web"].add(other.address)
                assert wait_until(lambda: reaches(balancer, other))

    in_namespace(inside)


CHECKS: dict[str, dict[str, Any]] = {
    **{type_: {} for type_ in ("tcp", "http", "https", "tls", "redis")},
    "postgres": {"user": "l4lb"},
    "send_expect": {"expect": ["x"]},
    "udp": {"send": ["x"]},
    "dns": {"name": "example.org"},
}


@pytest.mark.parametrize("type_", CHECKS)
def test_no_check_of_any_type_blames_its_target_for_our_ports(type_: str) -> None:
    def inside() -> None:
        few_ports(1)
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 9)))
            hog = stack.enter_context(socket.socket())
            hog.connect(listening.getsockname())
            datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            datagrams.bind(("0.0.0.0", 30000))
            with pytest.raises(NotChecked, match="ip_local_port_range"):
                asyncio.run(check_of(type_)(target_of("127.0.0.1:9", type_, **CHECKS[type_])))

    in_namespace(inside)


@pytest.mark.parametrize("kind", ROUTES)
def test_checks_and_routes(kind: str) -> None:
    def inside() -> None:
        run("ip", "route", "add", kind, "10.78.1.0/24")
        own = ROUTES[kind] is ConnectFailure.RESOURCES
        for type_ in ("tcp", "udp"):
            expected = NotChecked if own else Exception
            with pytest.raises(expected) as raised:
                asyncio.run(check_of(type_)(target_of("10.78.1.1:9", type_)))
            assert isinstance(raised.value, NotChecked) == own

    in_namespace(inside)


def test_auto_max_sessions_knows_the_ports_and_follows_the_backends() -> None:
    def inside() -> None:
        with backends(2) as servers:
            few_ports()
            first, second = (server.address for server in servers)
            with LoadBalancer(configured([first], max_sessions=None)) as balancer:
                assert (balancer.stats().max_sessions, balancer.stats().limited_by) == (PORTS, "local ports")
                (told,) = events_of(balancer, "sessions_limited")
                assert told == {"max_sessions": PORTS, "by": "local ports"}
                with Clients(address_of(balancer)) as clients:
                    assert sum(clients.come() for _ in range(PORTS + 5)) == PORTS
                    assert stats_of(balancer, first).failed == {}  # told at the door
                    balancer.pools["web"].add(second)
                    assert balancer.stats().max_sessions == 2 * PORTS
                    assert sum(clients.come() for _ in range(PORTS)) == PORTS
                    wait_closed(balancer, CloseReason.RESOURCE_LIMIT, 5)
                    clients.leave()

    in_namespace(inside)


def test_a_source_address_of_nobody_may_be_had_with_nonlocal_bind() -> None:
    def inside() -> None:
        with backends(1) as servers:
            config = configured([servers[0].address], source_address="192.0.2.1")
            with pytest.raises(ConfigError, match="not an address of this host"):
                LoadBalancer(config).start()
            set_sysctl("net.ipv4.ip_nonlocal_bind", "1")
            with LoadBalancer(config):
                pass

    in_namespace(inside)


def test_a_source_address_that_goes_away_is_no_fault_of_the_backends() -> None:
    def inside() -> None:
        run("ip", "addr", "add", "10.9.9.9/32", "dev", "lo")
        with backends(2) as servers:
            addresses = [server.address for server in servers]
            config = configured(addresses, source_address="10.9.9.9", health=OFTEN, passive=PASSIVE)
            with LoadBalancer(config) as balancer:
                assert balancer.wait_ready()
                tcp_served(balancer, 4)
                run("ip", "addr", "del", "10.9.9.9/32", "dev", "lo")
                with Clients(address_of(balancer)) as clients:
                    assert not any(clients.come() for _ in range(6))
                wait_closed(balancer, CloseReason.RESOURCE_LIMIT, 6)
                assert balancer.stats().shortages == {Shortage.ADDRESS: 6}
                assert wait_until(lambda: all(one.skipped for one in balancer.plane.monitor.checkers))
                nobody_is_blamed(balancer)
                run("ip", "addr", "add", "10.9.9.9/32", "dev", "lo")
                tcp_served(balancer, 4)

    in_namespace(inside)


def test_an_agent_that_cannot_be_asked_is_asked_again() -> None:
    def say_drain(sock: socket.socket) -> None:
        sock.sendall(b"drain\n")

    def inside() -> None:
        with backends(1) as servers, serving(say_drain) as agent:
            few_ports(1)
            with socket.socket() as hog:
                hog.bind(("0.0.0.0", 30000))
                pool = {"agent": {"port": agent.port, "interval": 0.05}}
                with LoadBalancer(configured([servers[0].address], **pool)) as balancer:
                    assert wait_until(lambda: events_of(balancer, "agent_failed"))
                    hog.close()
                    assert wait_until(lambda: events_of(balancer, "agent_said"))

    in_namespace(inside)
