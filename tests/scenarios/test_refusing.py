"""Listeners with when_no_backend = "refuse": real clients are refused while no backend is usable, and served again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import Client, Listener, LoadBalancer, Pool
from l4lb.config import HealthConfig
from l4lb.control.state.events import Event
from tests.scenarios.test_proxy_interop import haproxy
from tests.scenarios.test_reload import asked, config_of, events_of, said
from tests.scenarios.test_upgrade import end, pid_of
from tests.support.balancing import NO_CHECKS
from tests.support.datagrams import UdpClient, serving_udp
from tests.support.peers import connect, echo, one_answer, refused, serving
from tests.support.programs import free_port, l4lb
from tests.support.waiting import wait_until

REFUSE = {"when_no_backend": "refuse", "pool": "web"}
FAST = HealthConfig(interval="100ms", fast_interval="100ms", down_interval="100ms", timeout="5s", rise=1, fall=1)
NOBODY = 'no usable backend in pool "web"'


@contextlib.contextmanager
def refusing(
    backend: str, bind: Any = "127.0.0.1:0", *, listener: dict[str, Any] | None = None, **pool: Any
) -> Iterator[LoadBalancer]:
    """web, which refuses while its pool has no usable backend, and other, which accepts."""
    listeners = {
        "web": {**REFUSE, "bind": bind, **(listener or {})},
        "other": {"bind": "127.0.0.1:0", "pool": "web", "protocol": (listener or {}).get("protocol", "tcp")},
    }
    with LoadBalancer(config_of(listeners, {"web": {"backends": [backend], **pool}})) as balancer:
        yield balancer


def why(balancer: LoadBalancer) -> str:
    return balancer.status()["listeners"][0]["refusing"]


def kinds(events: list[Event]) -> list[str]:
    return [one.kind for one in events if one.kind in ("listening", "listener_refusing", "listener_cannot_refuse")]


def was_reset(address: str) -> bool:
    try:
        asked(address)
    except ConnectionResetError:
        return True
    except ConnectionRefusedError:
        return False
    return False


def datagram_refused(address: str) -> bool:
    """Whether an ICMP port unreachable comes for it."""
    with UdpClient(address, 0.2) as client:
        try:
            client.sock.send(b"x")
            client.sock.recv(100)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
    return False


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", ":0", "unix:@l4lb-refusing-{pid}", "unix:{path}/sock"])
def test_clients_are_refused_until_a_backend_is_back(bind: str, tmp_path: Path) -> None:
    with serving(echo) as server, refusing(server.address, bind.format(pid=os.getpid(), path=tmp_path)) as balancer:
        web, events = balancer.listeners["web"], events_of(balancer)
        addresses, other = web.addresses, balancer.listeners["other"].addresses[0]
        for round_ in range(2):
            with contextlib.ExitStack() as stack:
                kept = [stack.enter_context(connect(address)) for address in addresses]
                assert all(said(sock, b"1") for sock in kept)
                balancer.pools["web"][server.address].maint()
                assert wait_until(lambda: all(map(refused, addresses)))
                assert all(said(sock, b"2") for sock in kept), "sessions go on"
                assert was_reset(other), "the other one accepts"
                assert why(balancer) == NOBODY
                assert web.addresses == addresses, "it keeps them"
                listed = [f'listener "web" refuses clients: {NOBODY}', 'pool "web" has no usable backend']
                assert balancer.plane.status.readiness() == listed
                balancer.pools["web"][server.address].ready()
                assert [asked(address) for address in addresses] == [b"?"] * len(addresses)
                assert why(balancer) == ""
                assert balancer.plane.status.readiness() == []
                assert kinds(events) == ["listener_refusing", "listening"] * (round_ + 1)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", ":0"])
def test_datagrams_are_refused_until_a_backend_is_back(bind: str) -> None:
    with serving_udp() as server, refusing(server.address, bind, listener={"protocol": "udp"}) as balancer:
        (bound,) = balancer.listeners["web"].addresses[:1]
        port = bound.rpartition(":")[2]
        address = bound if bind.startswith(("127", "[::1]")) else f"127.0.0.1:{port}"
        for _ in range(2):
            balancer.pools["web"][server.address].maint()
            assert wait_until(lambda: datagram_refused(address))
            assert why(balancer) == NOBODY
            balancer.pools["web"][server.address].ready()
            for number in range(20):  # of all workers
                with UdpClient(address) as client:
                    assert client.ask(b"%d" % number) == b"%d" % number
            balancer.kill_sessions(pool="web")
            assert wait_until(lambda: balancer.stats().sessions_left == 0)


def test_sessions_of_udp_keep_their_socket_until_they_end() -> None:
    limits = {"protocol": "udp", "idle_timeout": "1h"}
    with serving_udp() as server, refusing(server.address, listener=limits) as balancer:
        (address,) = balancer.listeners["web"].addresses
        with UdpClient(address) as kept:
            assert kept.ask(b"1") == b"1"
            balancer.pools["web"][server.address].drain()
            assert wait_until(lambda: why(balancer))
            assert kept.ask(b"2") == b"2"
            assert not datagram_refused(address), "a new client hears nothing"
            balancer.kill_sessions(pool="web")
            assert wait_until(lambda: datagram_refused(address))


def test_it_listens_once_the_first_check_has_passed_and_follows_checks() -> None:
    port = free_port()
    with refusing(f"127.0.0.1:{port}", health=FAST) as balancer:
        (address,) = balancer.listeners["web"].addresses
        assert refused(address), "nothing is known yet, or it is down"
        for _ in range(2):
            with serving(one_answer(b"hello"), port=port):
                assert wait_until(lambda: not refused(address))
            assert wait_until(lambda: refused(address))


def test_rules_of_the_pool_decide_what_is_usable() -> None:
    with refusing(f"127.0.0.1:{free_port()}", health=FAST, when_all_down="use_all") as balancer:
        (address,) = balancer.listeners["web"].addresses
        assert wait_until(lambda: balancer.status()["pools"][0]["backends"][0]["health"] == "down")
        assert wait_until(lambda: not refused(address)), "with use_all a backend that is down is usable"
        assert why(balancer) == ""


def test_a_listener_with_routes_accepts_while_one_of_its_pools_can_serve() -> None:
    with serving(one_answer(b"one")) as one, serving(one_answer(b"two")) as two:
        listener = {**REFUSE, "bind": "127.0.0.1:0", "routes": [{"source": ["127.0.0.9/32"], "pool": "two"}]}
        pools = {"web": {"backends": [one.address]}, "two": {"backends": [two.address]}}
        with LoadBalancer(config_of({"web": listener}, pools)) as balancer:
            (address,) = balancer.listeners["web"].addresses
            balancer.pools["web"][one.address].maint()
            assert was_reset(address), "two could serve others"
            balancer.pools["two"][two.address].maint()
            assert wait_until(lambda: refused(address))
            assert why(balancer) == 'no usable backend in pools "web", "two"'
            balancer.pools["two"][two.address].ready()
            assert wait_until(lambda: not refused(address))


def test_a_reload_while_it_refuses() -> None:
    with serving(echo) as server:
        port = free_port()
        maint = {"web": {"backends": [{"address": server.address, "admin_state": "maint"}]}}
        listener = {**REFUSE, "bind": f"127.0.0.1:{port}"}
        with LoadBalancer(config_of({"web": listener}, maint)) as balancer:
            address = f"127.0.0.1:{port}"
            assert refused(address)
            more = {**listener, "bind": [address, f"127.0.0.2:{port}"], "max_sessions": 5}
            balancer.reload(config_of({"web": more}, maint))
            assert all(map(refused, more["bind"]))
            balancer.reload(config_of({"web": {**more, "when_no_backend": "accept"}}, maint))
            assert not any(map(refused, more["bind"]))
            balancer.reload(config_of({"web": more}, maint))
            assert wait_until(lambda: all(map(refused, more["bind"])))
            balancer.reload(config_of({"web": more}, {"web": {"backends": [server.address]}}))
            assert [asked(one) for one in more["bind"]] == [b"?", b"?"]
            balancer.pools["web"][server.address].maint()
            assert wait_until(lambda: all(map(refused, more["bind"])))
            balancer.reload(config_of({"web": listener}, maint))
            with socket.create_server(("127.0.0.2", port)):
                pass  # the address that it no longer names is free
            balancer.listeners["web"].drain(wait=True, timeout=0)
            assert why(balancer) == "", "it is drained"
            balancer.pools["web"][server.address].ready()
            assert refused(address)
            balancer.listeners["web"].resume()
            assert asked(address) == b"?"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_nobody_else_gets_the_address_meanwhile(kind: int) -> None:
    udp = {"protocol": "udp"} if kind == socket.SOCK_DGRAM else {}
    with serving(echo) as server, refusing(server.address, f"127.0.0.1:{free_port()}", listener=udp) as balancer:
        (address,) = balancer.listeners["web"].addresses
        balancer.pools["web"][server.address].maint()
        assert wait_until(lambda: (datagram_refused if udp else refused)(address))
        with socket.socket(socket.AF_INET, kind) as other:
            if not udp:  # with UDP, both would have to set it
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            host, _, port = address.rpartition(":")
            with pytest.raises(OSError, match="in use"):
                other.bind((host, int(port)))


def test_who_cannot_listen_again_tries_again(tmp_path: Path) -> None:
    """The place of its unix socket is taken, so that only the other address would be served: none is, and other
    listeners get their changes."""
    path = tmp_path / "web.sock"
    with serving(echo) as server, serving(echo) as spare:
        with refusing(server.address, [f"unix:{path}", "127.0.0.1:0"]) as balancer:
            events, (_, address) = events_of(balancer), balancer.listeners["web"].addresses
            balancer.pools["web"][server.address].maint()
            assert wait_until(lambda: refused(address) and refused(f"unix:{path}"))
            path.unlink()
            path.write_text("in the way")
            balancer.pools["web"].add(spare.address)
            assert asked(balancer.listeners["other"].addresses[0]) == b"?"
            assert refused(address)
            assert "cannot listen again" in why(balancer)
            assert "a regular file is in the way" in why(balancer)
            assert kinds(events) == ["listener_refusing", "listener_refusing"]
            path.unlink()
            assert wait_until(lambda: not why(balancer))
            assert [asked(address), asked(f"unix:{path}")] == [b"?", b"?"]


def test_the_metric_and_what_explains() -> None:
    with serving(echo) as server, refusing(server.address) as balancer:
        assert balancer.listeners["web"].explain("192.0.2.1")["refusing"] == ""
        balancer.pools["web"][server.address].maint()
        assert wait_until(lambda: why(balancer))
        assert balancer.listeners["web"].explain("192.0.2.1")["refusing"] == NOBODY
        gathered = balancer.plane.sources.gather()
        assert gathered.refusing == {"web"}


FILE = """
[global]
workers = 2
[listeners.web]
bind = ["127.0.0.1:{port}", "unix:{directory}/web.sock"]
pool = "web"
when_no_backend = "refuse"
[listeners.dgram]
bind = "127.0.0.1:{port}"
protocol = "udp"
pool = "web"
when_no_backend = "refuse"
idle_timeout = "1s"
[pools.web]
backends = ["{backend}"]
health = {{ type = "none" }}
"""


def test_an_upgrade_while_it_refuses(tmp_path: Path) -> None:
    file, port, admin = tmp_path / "lb.toml", free_port(), f"unix:{tmp_path}/admin.sock"
    tcp = [f"127.0.0.1:{port}", f"unix:{tmp_path}/web.sock"]
    with serving(echo) as server, serving_udp(port=server.port):
        file.write_text(FILE.format(port=port, directory=tmp_path, backend=server.address))
        with l4lb("serve", "-c", str(file), "--admin", admin) as process, contextlib.ExitStack() as stack:
            process.wait_for("admin listening")
            pid = pid_of(admin)
            for _ in range(2):
                with Client(admin, timeout=60) as client:
                    client.pools["web"][server.address].maint()
                    assert wait_until(lambda: all(map(refused, tcp)) and datagram_refused(tcp[0]))
                    new = client.upgrade()
                stack.callback(end, new)
                assert wait_until(lambda pid=pid: pid_of(admin) not in (pid, -1))
                pid = new
                assert all(map(refused, tcp))
                assert datagram_refused(tcp[0])
                with Client(admin, timeout=60) as client:
                    assert client.status()["listeners"][0]["refusing"] == NOBODY
                    client.pools["web"][server.address].ready()
                assert wait_until(lambda: not any(map(refused, tcp)))
                assert [asked(address) for address in tcp] == [b"?", b"?"]
                with UdpClient(tcp[0]) as datagrams:
                    assert datagrams.ask(b"x") == b"x"
            os.kill(pid, signal.SIGTERM)


HAPROXY = """
frontend web
  bind 127.0.0.1:{port}
  default_backend tiers
backend tiers
  server first 127.0.0.1:{first} check inter 100ms fall 1 rise 1
  server second 127.0.0.1:{second} check inter 100ms fall 1 rise 1 backup
"""


@pytest.mark.external
def test_haproxy_in_front_sees_it_by_its_own_check(tmp_path: Path) -> None:
    with serving(one_answer(b"first")) as one, serving(one_answer(b"second")) as two:
        with refusing(one.address) as first, refusing(two.address) as second:
            ports = [balancer.listeners["web"].addresses[0].rpartition(":")[2] for balancer in (first, second)]
            with haproxy(tmp_path, HAPROXY, first=ports[0], second=ports[1]) as port:
                address = f"127.0.0.1:{port}"
                assert wait_until(lambda: asked_safely(address) == b"first")
                first.pools["web"][one.address].maint()
                assert wait_until(lambda: asked_safely(address) == b"second")
                assert [asked(address) for _ in range(20)] == [b"second"] * 20
                first.pools["web"][one.address].ready()
                assert wait_until(lambda: asked_safely(address) == b"first")


def asked_safely(address: str) -> bytes:
    with contextlib.suppress(OSError):
        return asked(address)
    return b""


def test_what_cannot_refuse_is_an_error() -> None:
    from l4lb import Config, ConfigError

    text = """
[listeners.web]
bind = "fd:web"
pool = "web"
when_no_backend = "refuse"
[listeners.kernel]
bind = "192.0.2.1:80"
pool = "kernel"
engine = "kernel"
when_no_backend = "refuse"
[pools.web]
backends = ["127.0.0.1:1"]
[pools.kernel]
backends = ["192.0.2.9:80"]
policy = "maglev"
"""
    with pytest.raises(ConfigError) as raised:
        Config.loads(text)
    said_ = {one.path: one.message for one in raised.value.problems}
    assert set(said_) == {"listeners.web.when_no_backend", "listeners.kernel.when_no_backend"}
    assert "the service manager goes on listening" in said_["listeners.web.when_no_backend"]
    assert Listener(bind=":1", pool="web").when_no_backend == "accept"
    assert Pool(backends=["h:1"], health=NO_CHECKS).health.type == "none"
