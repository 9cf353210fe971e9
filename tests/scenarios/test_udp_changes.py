"""What becomes of UDP sessions when listeners, pools and backends change; and every kind of place to listen on."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import Client, Config, LoadBalancer
from l4lb.config import HealthConfig
from l4lb.model.states import CloseReason, DropReason, Health
from tests.scenarios.test_reload import config_of
from tests.support import forking
from tests.support.balancing import address_of, balancing, closed, make_config, wait_closed
from tests.support.datagrams import UdpClient, UdpServer, serving_udp
from tests.support.programs import free_port, free_ports, l4lb
from tests.support.waiting import wait_until

UDP = {"protocol": "udp"}


@contextlib.contextmanager
def named(*names: str) -> Iterator[dict[str, UdpServer]]:
    """Servers that answer with their name."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(serving_udp(lambda _, name=name: [name.encode()])) for name in names}  # type: ignore[misc]


def addresses(servers: dict[str, UdpServer]) -> list[Any]:
    return [one.address for one in servers.values()]


def refused(client: UdpClient) -> bool:
    """Whether nobody listens there any more."""
    try:
        client.send(b"?")
    except ConnectionRefusedError:
        return True
    return False


# ---- reload ----


def test_a_listener_that_is_renamed_keeps_its_sessions() -> None:
    address = f"127.0.0.1:{free_port()}"
    with named("a", "b") as servers:
        pools = {"web": {"backends": addresses(servers)}}
        before = config_of({"old": {"bind": address, "pool": "web", **UDP}}, pools)
        after = config_of({"new": {"bind": address, "pool": "web", **UDP, "idle_timeout": "1h"}}, pools)
        with LoadBalancer(before) as balancer, UdpClient(address) as kept:
            mine = kept.ask(b"?")
            balancer.reload(after)
            for _ in range(3):  # round robin would send every other one elsewhere
                assert kept.ask(b"?") == mine
            with UdpClient(address) as fresh:
                fresh.ask(b"?")
            stats = balancer.stats()
            assert (stats.listeners["new"].sessions_total, stats.listeners["old"].sessions_total) == (1, 1)
            assert not stats.listeners["new"].dropped


def test_a_listener_that_is_removed_serves_its_sessions_to_their_end_and_frees_its_port() -> None:
    address = f"127.0.0.1:{free_port()}"
    with named("a") as servers:
        pools = {"web": {"backends": addresses(servers)}}
        other = {"other": {"bind": "127.0.0.1:0", "pool": "web", **UDP}}
        before = config_of({"gone": {"bind": address, "pool": "web", **UDP, "idle_timeout": 0.5}, **other}, pools)
        with LoadBalancer(before) as balancer, UdpClient(address) as old, UdpClient(address) as new:
            assert old.ask(b"?") == b"a"
            balancer.reload(config_of(other, pools))
            new.send(b"?")
            assert wait_until(lambda: balancer.stats().listeners["gone"].dropped == {DropReason.DRAINING: 1})
            assert old.ask(b"?") == b"a"
            assert wait_until(lambda: "gone" not in balancer.stats().listeners)
            assert wait_until(lambda: refused(old))
            balancer.reload(before)
            with UdpClient(address) as again:
                assert again.ask(b"?") == b"a"


def test_a_listener_that_is_drained_serves_its_sessions_until_it_is_taken_back() -> None:
    address = f"127.0.0.1:{free_port()}"
    with named("a", "b") as servers, balancing(addresses(servers), listener={"bind": address, **UDP}) as balancer:
        with UdpClient(address) as old, UdpClient(address) as new:
            mine = old.ask(b"?")
            balancer.listeners["web"].drain(timeout=60)
            new.send(b"?")
            assert wait_until(lambda: balancer.stats().listeners["web"].dropped == {DropReason.DRAINING: 1})
            assert [old.ask(b"?") for _ in range(3)] == [mine] * 3
            balancer.listeners["web"].resume()
            assert new.ask(b"?") != old.ask(b"?") == mine
            balancer.listeners["web"].drain(timeout=0.2)  # sessions that are left then are ended
            wait_closed(balancer, CloseReason.DRAIN, 2)
            assert wait_until(lambda: balancer.stats() and refused(new))


def test_sessions_are_listed_and_ended() -> None:
    with named("a", "b") as servers, balancing(addresses(servers), listener=UDP) as balancer:
        with UdpClient(address_of(balancer)) as client, UdpClient(address_of(balancer)) as other:
            mine = client.ask(b"?")
            other.ask(b"?")
            (session,) = balancer.sessions(source=f"127.0.0.1:{client.port}")
            assert (session["protocol"], session["state"]) == ("udp", "relaying")
            assert session["local"] == address_of(balancer)
            assert (session["bytes_up"], session["bytes_down"]) == (1, 1)
            balancer.kill_session(session["id"])
            wait_closed(balancer, CloseReason.ADMIN)
            assert len(balancer.sessions()) == 1
            assert client.ask(b"?") in (b"a", b"b")
            assert mine in (b"a", b"b")


def test_what_is_left_of_a_removed_listener_ends_with_the_balancer() -> None:
    with named("a") as servers:
        pools = {"web": {"backends": addresses(servers)}}
        other = {"other": {"bind": "127.0.0.1:0", "pool": "web", **UDP}}
        before = config_of({"gone": {"bind": "127.0.0.1:0", "pool": "web", **UDP}, **other}, pools)
        with LoadBalancer(before) as balancer, UdpClient(balancer.listeners["gone"].addresses[0]) as client:
            client.ask(b"?")
            balancer.reload(config_of(other, pools))
            assert client.ask(b"?") == b"a"


def test_limits_of_a_reload_hold_for_the_next_sessions() -> None:
    address = f"127.0.0.1:{free_port()}"
    with named("a") as servers:
        pools = {"web": {"backends": addresses(servers)}}

        def config(**more: Any) -> Config:
            return config_of({"web": {"bind": address, "pool": "web", **UDP, **more}}, pools, workers=1)

        with LoadBalancer(config()) as balancer, UdpClient(address) as old:
            old.ask(b"?")
            balancer.reload(config(udp_responses=1, max_sessions=1))
            old.ask(b"?")
            assert not closed(balancer)
            with UdpClient(address) as fresh:
                fresh.ask(b"?")
            wait_closed(balancer, CloseReason.NORMAL)
            assert closed(balancer) == {CloseReason.RESOURCE_LIMIT: 1, CloseReason.NORMAL: 1}


# ---- backends ----


def test_a_backend_that_drains_keeps_its_sessions_and_gets_no_new_ones() -> None:
    with named("a", "b") as servers, balancing(addresses(servers), listener=UDP) as balancer:
        with UdpClient(address_of(balancer)) as client:
            mine = client.ask(b"?")
            balancer.pools["web"][servers[mine.decode()].address].drain()
            for _ in range(4):
                with UdpClient(address_of(balancer)) as fresh:
                    assert fresh.ask(b"?") != mine
                assert client.ask(b"?") == mine


@pytest.mark.parametrize(
    ("way", "reason"), [("reset", CloseReason.ADMIN), ("drain", CloseReason.DRAIN), ("keep", None)]
)
def test_sessions_of_a_backend_that_is_removed(way: str, reason: CloseReason | None) -> None:
    with named("a", "b") as servers:
        options = {"listener": UDP, "on_backend_removed": way}
        with balancing(addresses(servers), **options) as balancer, UdpClient(address_of(balancer)) as client:
            mine = client.ask(b"?")
            other = b"b" if mine == b"a" else b"a"
            balancer.pools["web"].remove(servers[mine.decode()].address, drain=0.2 if way == "drain" else None)
            if reason is None:
                assert [client.ask(b"?") for _ in range(5)] == [mine] * 5
                assert not closed(balancer)
            else:
                wait_closed(balancer, reason)
                assert client.ask(b"?") == other


def test_sessions_of_a_backend_that_hangs_go_elsewhere_once_its_check_fails() -> None:
    """It does not refuse, so that nothing but the check tells."""
    with named("a", "b") as servers:
        health = HealthConfig(
            type="udp", send="?", expect="regex:.", interval="100ms", fast_interval="50ms", timeout="100ms", fall=2
        )
        options = {"listener": UDP, "health": health, "on_backend_down": "reset"}
        with balancing(addresses(servers), **options) as balancer, UdpClient(address_of(balancer)) as client:
            assert balancer.wait_ready()
            mine = client.ask(b"?")
            hung = servers[mine.decode()]
            hung._answer = lambda _: []
            wait_closed(balancer, CloseReason.BACKEND_DOWN)
            assert client.ask(b"?") == (b"b" if mine == b"a" else b"a")
            states = {one["id"]: one["health"] for one in balancer.status()["pools"][0]["backends"]}
            assert states[hung.address] == Health.DOWN


def test_a_drain_ends_when_the_sessions_have_ended() -> None:
    """They are idle at last; nothing is reset, and nobody waits for drain_timeout."""
    with named("a") as servers, balancing(addresses(servers), listener={**UDP, "idle_timeout": 0.2}) as balancer:
        with UdpClient(address_of(balancer)) as client, UdpClient(address_of(balancer)) as late:
            client.ask(b"?")
            assert balancer.drain(30)
            assert balancer.stats().sessions_left == 0
            assert wait_until(lambda: refused(late))


# ---- places ----


def test_listeners_share_a_pool() -> None:
    with named("a", "b") as servers:
        listeners = {name: {"bind": "127.0.0.1:0", "pool": "web", **UDP} for name in ("one", "two")}
        with LoadBalancer(config_of(listeners, {"web": {"backends": addresses(servers)}})) as balancer:
            with contextlib.ExitStack() as stack:
                where = [balancer.listeners[name].addresses[0] for name in ("one", "two", "one", "two")]
                clients = [stack.enter_context(UdpClient(one)) for one in where]
                answers = [client.ask(b"?") for client in clients]
                assert answers in ([b"a", b"b"] * 2, [b"b", b"a"] * 2)
                assert [client.ask(b"?") for client in clients] == answers
            stats = balancer.stats()
            assert [stats.listeners[name].sessions_total for name in ("one", "two")] == [2, 2]
            assert stats.pools["web"].sessions_total == 4


def test_one_client_socket_has_a_session_with_each_listener() -> None:
    with named("a", "b") as servers:
        listeners = {name: {"bind": "127.0.0.1:0", "pool": name, **UDP} for name in servers}
        pools = {name: {"backends": [one.address]} for name, one in servers.items()}
        with LoadBalancer(config_of(listeners, pools)) as balancer:
            with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
                client.settimeout(10)
                for name in ("a", "b", "a", "b"):
                    host, _, port = balancer.listeners[name].addresses[0].rpartition(":")
                    client.sendto(b"?", (host, int(port)))
                    assert client.recvfrom(10) == (name.encode(), (host, int(port)))
            assert balancer.stats().sessions_total == 2


def test_a_port_range_and_a_backend_on_the_same_port() -> None:
    """127.0.0.2 has the backends, on the ports that the listener has on 127.0.0.1; sockets are not mixed up."""
    first = free_ports(3)
    with contextlib.ExitStack() as stack:
        for port in range(first, first + 3):
            stack.enter_context(serving_udp(lambda _, port=port: [b"%d" % port], "127.0.0.2", port))  # type: ignore[misc]
        listener = {"bind": f"127.0.0.1:{first}-{first + 2}", **UDP, "udp_responses": 1}
        with balancing(["127.0.0.2:0"], listener=listener, workers=1):
            for _ in range(5):
                for port in range(first, first + 3):
                    with UdpClient(("127.0.0.1", port)) as client:
                        assert client.ask(b"?") == b"%d" % port


INHERITING = textwrap.dedent("""
    import os, sys
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="dns", LISTEN_PID=str(os.getpid()))
    os.execv(sys.executable, [sys.executable, "-m", "l4lb", "serve", "--protocol", "udp", "--workers", "2",
                              "--listen", "fd:dns", "--backend", sys.argv[1], "--admin", "off"])
""")


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
def test_a_socket_inherited_from_the_service_manager(bind: str) -> None:
    with named("a") as servers, contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind((bind, 0))
        port = sock.getsockname()[1]
        command = [sys.executable, "-c", f"import os; os.dup2({sock.fileno()}, 3)\n{INHERITING}", servers["a"].address]
        process = subprocess.Popen(command, pass_fds=[sock.fileno()], stderr=subprocess.DEVNULL)
        try:
            with contextlib.ExitStack() as stack:
                host = "127.0.0.1" if bind == "127.0.0.1" else "127.0.0.7"
                clients = [stack.enter_context(UdpClient((host, port))) for _ in range(5)]
                assert [client.ask(b"?") for client in clients] == [b"a"] * 5
                assert process.poll() is None
        finally:
            process.kill()  # at SIGTERM it would serve the sessions that it has
            process.wait()


def test_max_sessions_of_the_process_ends_the_idlest_too() -> None:
    with named("a") as servers:
        config = make_config(addresses(servers), listener=UDP, workers=1)
        limited = config.model_copy(update={"global_": config.global_.model_copy(update={"max_sessions": 2})})
        with LoadBalancer(limited) as balancer, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(UdpClient(address_of(balancer))) for _ in range(3)]
            assert [client.ask(b"?") for client in clients] == [b"a"] * 3
            assert balancer.stats().sessions_left == 2
            assert closed(balancer) == {CloseReason.RESOURCE_LIMIT: 1}


def test_the_status_tells_datagrams_and_what_was_dropped(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    with named("a") as servers:
        text = '[listeners.dns]\nbind = "127.0.0.1:0"\nprotocol = "udp"\npool = "dns"\nmax_session_duration = "1h"\n'
        file.write_text(f'{text}bandwidth_up = "2KB/s"\n[pools.dns]\nbackends = ["{servers["a"].address}"]\n')
        admin = f"unix:{tmp_path}/admin"
        with l4lb("serve", "-c", str(file), "--admin", admin) as process:
            with UdpClient(process.address("dns")) as client:
                assert client.ask(b"?") == b"a"
                client.send(bytes(60_000))
            with Client(admin) as asked:
                assert wait_until(lambda: asked.status()["listeners"][0]["dropped"] == {"bandwidth": 1})
                pool = asked.pool("dns")
            assert (pool["datagrams_up"], pool["datagrams_down"]) == (1, 1)
            assert (pool["backends"][0]["datagrams_up"], pool["backends"][0]["datagrams_down"]) == (1, 1)
            shown = forking.run("status", "--admin", admin).stdout
            assert "1 bandwidth" in shown
            assert "DATAGRAMS DOWN" in shown
            assert "udp" in shown
