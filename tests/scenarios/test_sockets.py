"""Every kind of address on both sides, and the socket options that sessions inherit."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from l4lb import Config, ConfigError, LoadBalancer
from l4lb.config import AdminConfig, GlobalConfig, Listener, Pool
from tests.support.balancing import NO_CHECKS, address_of, balancing, make_config, wait_idle
from tests.support.peers import Server, connect, echo, serving
from tests.support.programs import free_port, free_ports, run


def echoes(address: str) -> bool:
    with connect(address) as sock:
        sock.sendall(b"hello")
        return sock.recv(10) == b"hello"


def test_ipv6_on_both_sides() -> None:
    with serving(echo, "::1") as server, balancing([server.address], listener={"bind": "[::1]:0"}) as balancer:
        assert echoes(address_of(balancer))


def test_dual_stack() -> None:
    port = free_port()
    with serving(echo) as server, balancing([server.address], listener={"bind": f":{port}"}) as balancer:
        assert echoes(f"127.0.0.1:{port}")
        assert echoes(f"[::1]:{port}")
        assert balancer.listeners["web"].addresses == [f"[::]:{port}"]


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_unix_sockets_on_both_sides(kind: str, tmp_path: Path) -> None:
    front = f"unix:{tmp_path}/front" if kind == "path" else f"unix:@l4lb-test-front-{os.getpid()}"
    back = f"{tmp_path}/back" if kind == "path" else f"@l4lb-test-back-{os.getpid()}"
    unix = socket.socket(socket.AF_UNIX)
    unix.bind("\0" + back[1:] if back.startswith("@") else back)
    unix.listen()
    server = Server(echo, listening=unix)
    try:
        with balancing([f"unix:{back}"], listener={"bind": front}, workers=2) as balancer:
            assert balancer.listeners["web"].addresses == [front]
            for _ in range(10):
                assert echoes(front)
            wait_idle(balancer)
            assert balancer.stats().pools["web"].sessions_total == 10
    finally:
        server.stop()
    assert not (tmp_path / "front").exists()


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "front"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with serving(echo) as server, balancing([server.address], listener={"bind": f"unix:{path}"}):
        assert echoes(f"unix:{path}")
        with pytest.raises(ConfigError, match="Address already in use"):
            LoadBalancer(make_config([server.address], listener={"bind": f"unix:{path}"})).start()


def test_a_port_range_and_backends_on_the_same_port() -> None:
    """127.0.0.2 has the backends, on the ports that the listener has on 127.0.0.1."""
    first = free_ports(2)
    servers = []
    try:
        for port in (first, first + 1):
            servers.append(Server(echo, "127.0.0.2", port))
        bind = f"127.0.0.1:{first}-{first + 1}"
        with balancing(["127.0.0.2:0"], listener={"bind": bind}) as balancer:
            assert balancer.listeners["web"].addresses == [f"127.0.0.1:{first}", f"127.0.0.1:{first + 1}"]
            for port in (first, first + 1):
                assert echoes(f"127.0.0.1:{port}")
        assert [server.accepted for server in servers] == [1, 1]
    finally:
        for server in servers:
            server.stop()


def test_several_binds_of_one_listener() -> None:
    with serving(echo) as server:
        with balancing([server.address], listener={"bind": ["127.0.0.1:0", "[::1]:0"]}, workers=3) as balancer:
            for address in balancer.listeners["web"].addresses:
                assert echoes(address)


def test_source_address() -> None:
    peers: list[str] = []

    def note_peer(sock: socket.socket) -> None:
        peers.append(sock.getpeername()[0])
        echo(sock)

    with serving(note_peer) as server:
        with balancing([server.address], source_address="127.0.0.9") as balancer:
            assert echoes(address_of(balancer))
    assert peers == ["127.0.0.9"]


@pytest.mark.parametrize("source", ["192.0.2.1", "2001:db8::1"])
def test_a_source_address_that_is_not_of_this_host_is_an_error_at_start_and_reload(source: str) -> None:
    host = "[::1]" if ":" in source else "127.0.0.1"
    wrong = make_config([f"{host}:9"], source_address=source)
    with pytest.raises(ConfigError, match=r'pools.web.source_address: "[^"]*": not an address of this host'):
        LoadBalancer(wrong).start()
    with serving(echo) as server, balancing([server.address]) as balancer:
        with pytest.raises(ConfigError, match="not an address of this host"):
            balancer.reload(wrong)
        assert echoes(address_of(balancer))


def test_options_reach_both_sides(tmp_path: Path) -> None:
    """Looked at from outside, with ss: keepalive timers on the accepted and on the connected socket."""
    options = {"keepalive": {"idle": "30s", "interval": "5s", "count": 3}, "user_timeout": "20s", "nodelay": True}
    with serving(echo) as server, balancing([server.address], listener=options, workers=1) as balancer:
        address = address_of(balancer)
        with connect(address) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            listing = run("ss", "-tno")
    rows = [line for line in listing.splitlines() if line.startswith("ESTAB")]  # state, two queues, local, peer
    ours = [row for row in rows if row.split()[3] == address]
    theirs = [row for row in rows if row.split()[4] == server.address]
    assert any("keepalive" in line for line in ours), listing
    assert any("keepalive" in line for line in theirs), listing


def test_fast_open_defer_accept_and_affinity_serve() -> None:
    with serving(echo) as server:
        options = {"fast_open": 16, "defer_accept": "1s", "backlog": 16}
        with balancing([server.address], listener=options) as balancer:
            assert echoes(address_of(balancer))
        config = Config(
            global_=GlobalConfig(workers=2, worker_affinity=True, busy_poll="50us"),
            admin=AdminConfig(bind="off"),
            listeners={"web": Listener(bind=["127.0.0.1:0"], pool="web")},
            pools={"web": Pool(backends=[server.address], health=NO_CHECKS)},
        )
        with LoadBalancer(config) as balancer:
            for _ in range(20):
                assert echoes(address_of(balancer))


@pytest.mark.skipif(os.geteuid() != 0, reason="IP_TRANSPARENT needs CAP_NET_ADMIN")
def test_a_transparent_listener_binds_an_address_that_is_not_ours() -> None:
    with serving(echo) as server:
        options = {"transparent": True, "bind": "192.0.2.77:8080"}
        with balancing([server.address], listener=options) as balancer:
            assert balancer.listeners["web"].addresses == ["192.0.2.77:8080"]
        with pytest.raises(ConfigError, match="Cannot assign requested address"):
            LoadBalancer(make_config([server.address], listener={"bind": "192.0.2.77:8080"})).start()


INHERITING = """
import os, socket, sys
listening = socket.create_server(("127.0.0.1", 0))
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="web", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "l4lb", "serve", "--listen", "fd:" + sys.argv[1],
                          "--backend", sys.argv[2], "--admin", "off"])
"""


@pytest.mark.parametrize("name", ["web", "other"])
def test_a_socket_inherited_from_the_service_manager(name: str) -> None:
    import re

    with serving(echo) as server:
        command = [sys.executable, "-c", textwrap.dedent(INHERITING), name, server.address]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            if name == "other":
                assert process.wait(20) == 2
                assert "fd:other: cannot listen: no inherited socket of that name (passed: web)" in line
                return
            match = re.search(r"address=(\S+)", line)
            assert match is not None, line
            assert echoes(match[1])
        finally:
            process.kill()
            process.wait()
            process.stderr.close()


def _options_towards(address: str) -> list[int]:
    """TCP_NODELAY of this process's sockets that are connected to `address`."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # it is closed by now, or not connected
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.family == socket.AF_INET and "{}:{}".format(*sock.getpeername()) == address:
                    found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    return found


def test_nodelay_holds_for_the_backend_that_takes_over_from_a_unix_one(tmp_path: Path) -> None:
    with serving(echo) as server:
        backends = [f"unix:{tmp_path}/nobody", {"address": server.address, "priority": 1}]
        with balancing(backends, workers=1) as balancer, connect(address_of(balancer)) as sock:
            for _ in range(2):  # with the first message there is nothing to hold back
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
            assert [bool(option) for option in _options_towards(server.address)] == [True]
