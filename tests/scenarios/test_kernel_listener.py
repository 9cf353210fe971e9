"""A listener with ``engine = "kernel"`` in the whole product: checks, drain, weights, numbers, reload, its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from tests.support import forking
from tests.support.forking import Forked
from tests.support.forwarding import said
from tests.support.namespaces import BACKEND, CLIENT, FRONT, Hosts
from tests.support.programs import L4lb, l4lb
from tests.support.users import interpreter_of_all
from tests.support.waiting import wait_until

FILE = """
[global]
workers = 1
drain_timeout = "1s"
[listeners.web]
bind = "{front[4]}:80"
pool = "web"
engine = "kernel"
attach = "{attach}"
idle_timeout = "60s"
[listeners.web6]
bind = "[{front[6]}]:80"
pool = "web6"
engine = "kernel"
attach = "{attach}"
[listeners.dns]
bind = "{front[4]}:53"
protocol = "udp"
pool = "dns"
engine = "kernel"
attach = "{attach}"
[listeners.proxied]
bind = "{front[4]}:81"
pool = "proxied"
[pools.web]
policy = "maglev"
table_size = 251
hash_key = "source_ip_port"
backends = [{backends}]
on_backend_down = "reset"
health = {{ interval = "100ms", timeout = "3s", rise = 1, fall = 1 }}
[pools.web6]
policy = "ring"
hash_key = "session"
backends = ["[{backend6}]:8001", "[{backend6}]:8002"]
health = {{ interval = "100ms", timeout = "3s" }}
[pools.dns]
policy = "random"
backends = ["{backend}:8001", "{backend}:8002"]
health = {{ type = "none" }}
[pools.proxied]
backends = ["{backend}:8001"]
"""
SERVERS = """
import socket, sys, threading
def serve(sock, port):
    with sock:
        try:
            while data := sock.recv(100):
                sock.sendall(b"%d " % port + data)
        except OSError:
            pass
def listen(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family)
    while True:
        threading.Thread(target=serve, args=(listening.accept()[0], port), daemon=True).start()
def answer(host, port):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, port))
    while True:
        data, peer = sock.recvfrom(1000)
        sock.sendto(b"%d " % port + data, peer)
hosts = sys.argv[2:]
for port in map(int, sys.argv[1].split(",")):
    for host in hosts:
        threading.Thread(target=listen, args=(host, port), daemon=True).start()
        threading.Thread(target=answer, args=(host, port), daemon=True).start()
print("up", flush=True)
threading.Event().wait()
"""
# Does what it is told line by line: connects, asks by an old connection or a new one, by a datagram; says what came.
CLIENTS = """
import json, socket, sys
known = {}
def ask(name, host, port, within_s=20):
    sock = known.get(name)
    if sock is None:
        sock = known[name] = socket.create_connection((host, port), timeout=within_s)
    sock.settimeout(within_s)
    sock.sendall(name.encode())
    return sock.recv(100).decode()
def query(name, host, port, within_s=3):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = known.setdefault(name, socket.socket(family, socket.SOCK_DGRAM))
    sock.settimeout(within_s)
    sock.sendto(name.encode(), (host, port))
    return sock.recv(100).decode()
for line in sys.stdin:
    how, *what = json.loads(line)
    try:
        answer = {"ask": ask, "query": query}[how](*what)
    except OSError as error:
        answer = type(error).__name__
    print(json.dumps(answer), flush=True)
"""


class World:
    def __init__(self, hosts: Hosts, process: L4lb, client: Forked, file: Path) -> None:
        self.hosts = hosts
        self.process = process
        self.file = file
        self.admin = f"unix:{file.parent}/admin.sock"
        self._client = client
        self.server: Forked  # of the second backend

    def ask(self, name: str, family: int = 4, port: int = 80, within_s: float = 20.0) -> str:
        """Which backend answers a connection that may be there already; or the name of an error."""
        return self._say("ask", name, FRONT[family], port, within_s)

    def query(self, name: str, family: int = 4, within_s: float = 3.0) -> str:
        return self._say("query", name, FRONT[family], 53, within_s)

    def _say(self, *what: object) -> str:
        print(json.dumps(what), file=self._client.stdin, flush=True)
        answer: str = json.loads(said(self._client))
        return answer.split(" ")[0]

    def write(self, attach: str, ports: tuple[int, ...] = (8001, 8002)) -> None:
        backends = ", ".join(f'"{BACKEND[4]}:{port}"' for port in ports)
        fields = {"front": FRONT, "backend": BACKEND[4], "backend6": BACKEND[6], "attach": attach}
        self.file.write_text(FILE.format(**fields, backends=backends))

    def command(self, *words: str) -> str:
        done = forking.run(*words, "--admin", self.admin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def listener(self, name: str) -> Any:
        status = json.loads(self.command("status", "--json"))
        return next(one for one in status["listeners"] if one["name"] == name)

    def backends(self, pool: str) -> dict[str, Any]:
        status = json.loads(self.command("status", "--json"))
        (found,) = (one for one in status["pools"] if one["name"] == pool)
        return {one["id"]: one for one in found["backends"]}


@contextlib.contextmanager
def world(
    hosts: Hosts, tmp_path: Path, attach: str = "auto", user: str = "", more: str = "", within: Sequence[str] = ()
) -> Iterator[World]:
    """`more` is for the file's [global]; `within` starts commands in the balancer's network."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(hosts.backend.python(SERVERS, "8001", BACKEND[4], BACKEND[6]))
        other = stack.enter_context(hosts.backend.python(SERVERS, "8002", BACKEND[4], BACKEND[6]))
        assert said(server) == said(other) == "up"
        made = World(hosts, None, None, tmp_path / "lb.toml")  # type: ignore[arg-type]
        made.write(attach)
        made.file.write_text(made.file.read_text().replace("[global]", f'[global]\nuser = "{user}"\n{more}'))
        made.server = other
        arguments = ("serve", "-c", str(made.file), "--admin", made.admin)
        network = "" if within else hosts.balancer.name
        within = [*within, *(interpreter_of_all() if user else ())]
        made.process = stack.enter_context(l4lb(*arguments, network=network, within=within))
        made._client = stack.enter_context(hosts.client.python(CLIENTS))
        assert wait_until(lambda: made.process.log.count("backend up") >= 5, 30), made.process.log
        yield made


def both(made: World, family: int = 4, start: int = 0, count: int = 40) -> dict[str, str]:
    """Sessions by name, and who answers them."""
    names = [f"{family}-{number}" for number in range(start, start + count)]
    found = {name: made.ask(name, family) for name in names}
    assert set(found.values()) == {"8001", "8002"}, found
    return found


@pytest.mark.parametrize("attach", ["tcx", "native", "generic"])
def test_clients_of_both_engines_are_served_and_counted(attach: str, hosts: Hosts, tmp_path: Path) -> None:
    with world(hosts, tmp_path, attach) as made:
        found = both(made) | both(made, 6)
        assert {made.query(f"q{number}") for number in range(30)} == {"8001", "8002"}
        assert made.ask("proxied", port=81) == "8001"
        for name, backend in found.items():
            assert made.ask(name, int(name[0])) == backend
        assert wait_until(lambda: made.listener("web")["sessions_active"] == 40)
        assert [made.listener(name)["sessions_total"] for name in ("web", "web6", "dns", "proxied")] == [40, 40, 30, 1]
        backends = made.backends("web")
        for port in ("8001", "8002"):
            expected = sum(one == port and name.startswith("4-") for name, one in found.items())
            assert backends[f"{BACKEND[4]}:{port}"]["sessions_total"] == expected
            assert backends[f"{BACKEND[4]}:{port}"]["bytes_down"] > 0
        assert f"by={attach}" in made.process.log


def test_flows_stay_while_backends_drain_fail_and_are_reweighed(hosts: Hosts, tmp_path: Path) -> None:
    with world(hosts, tmp_path) as made:
        found = both(made)
        made.command("backend", "drain", "web", f"{BACKEND[4]}:8002")
        assert {made.ask(f"new-{number}") for number in range(20)} == {"8001"}
        assert all(made.ask(name) == backend for name, backend in found.items())
        made.command("backend", "ready", "web", f"{BACKEND[4]}:8002")
        both(made, start=100)
        made.write("auto")
        os.kill(made.process.process.pid, signal.SIGHUP)
        made.process.wait_for("reloaded")
        assert all(made.ask(name) == backend for name, backend in found.items())
        made.server.kill()
        made.process.wait_for(rf"backend down pool=web backend={BACKEND[4]}:8002")
        assert wait_until(lambda: not made.backends("web")[f"{BACKEND[4]}:8002"]["usable"])
        assert {made.ask(f"last-{number}") for number in range(20)} == {"8001"}
        assert all(made.ask(name) == "8001" for name, backend in found.items() if backend == "8001")


def test_a_reload_takes_a_listener_away_and_the_end_all_of_it(hosts: Hosts, tmp_path: Path) -> None:
    with world(hosts, tmp_path) as made:
        found = both(made, 6)
        text = made.file.read_text()
        made.file.write_text(text.replace('engine = "kernel"', "").replace('attach = "auto"', ""))
        os.kill(made.process.process.pid, signal.SIGHUP)
        made.process.wait_for("reload failed reason=.*listeners.web.engine: cannot be changed while")
        start, end = text.index("[listeners.web6]"), text.index("[listeners.dns]")
        made.file.write_text(text[:start] + text[end:])
        os.kill(made.process.process.pid, signal.SIGHUP)
        made.process.wait_for("reloaded")
        assert made.ask("new", 6) == "ConnectionRefusedError"
        assert all(made.ask(name, 6) == backend for name, backend in found.items())
        both(made, start=500)
        made.command("ban", "add", CLIENT[4], "--for", "1h")
        assert made.ask("banned", within_s=1) == made.ask("4-500", within_s=1) == "TimeoutError"
        made.process.wait_for("clients denied listener=web reason=.datagrams")
        made.command("ban", "remove", CLIENT[4])
        assert made.ask("not banned") in ("8001", "8002")
        made.process.signal(signal.SIGTERM)
        assert made.process.wait() == 0
        assert made.ask("after") == "ConnectionRefusedError"
        assert "prog" not in hosts.balancer.run("ip", "-d", "link", "show")


def test_changes_take_no_rights(hosts: Hosts, tmp_path: Path) -> None:
    with world(hosts, tmp_path, user="nobody") as made:
        status = Path(f"/proc/{made.process.process.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        found = both(made)
        made.command("backend", "drain", "web", f"{BACKEND[4]}:8002")
        assert {made.ask(f"new-{number}") for number in range(20)} == {"8001"}
        assert all(made.ask(name) == backend for name, backend in found.items())
        made.command("ban", "add", CLIENT[4])
        assert made.ask("banned", within_s=1) == "TimeoutError"


DIRECT = """
[listeners.web]
bind = "{service}:8001"
pool = "web"
engine = "kernel"
mode = "dsr"
devices = "{device}"
attach = "{attach}"
[pools.web]
policy = "maglev"
backends = ["{backend}:8001"]
health = {{ interval = "100ms", timeout = "3s" }}
"""
SERVICE = {4: "10.81.9.1", 6: "fd81:9::1"}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("attach", ["tcx", "native", "generic"])
def test_backends_that_answer_directly(attach: str, family: int, hosts: Hosts, tmp_path: Path) -> None:
    """They have the service's address themselves."""
    with contextlib.ExitStack() as stack:
        service, backend = SERVICE[family], BACKEND[family]
        address = f"{service}/{32 if family == 4 else 128}"
        hosts.backend.run("ip", "addr", "add", address, "dev", "lo", "nodad")
        stack.callback(hosts.backend.run, "ip", "addr", "del", address, "dev", "lo")
        server = stack.enter_context(hosts.backend.python(SERVERS, "8001", backend, service))
        assert said(server) == "up"
        shown = hosts.balancer.run("ip", "-o", f"-{family}", "addr", "show")
        device = next(line.split()[1] for line in shown.splitlines() if f" {FRONT[family]}/" in line)
        file = tmp_path / "lb.toml"
        there, behind = (f"[{one}]" if family == 6 else one for one in (service, backend))
        file.write_text(DIRECT.format(service=there, device=device, backend=behind, attach=attach))
        arguments = ("serve", "-c", str(file), "--admin", "off")
        process = stack.enter_context(l4lb(*arguments, network=hosts.balancer.name))
        process.wait_for("backend up")
        client = stack.enter_context(hosts.client.python(CLIENTS))
        for name in ("one", "two", "one"):
            print(json.dumps(["ask", name, service, 8001]), file=client.stdin, flush=True)
            assert said(client) == f'"8001 {name}"'


def test_what_it_needs_is_said(hosts: Hosts, tmp_path: Path) -> None:
    made = World(hosts, None, None, tmp_path / "lb.toml")  # type: ignore[arg-type]
    made.write("auto")
    hosts.balancer.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    try:
        with l4lb("serve", "-c", str(made.file), "--admin", "off", network=hosts.balancer.name) as process:
            assert process.wait() == 2
            assert "net.ipv4.ip_forward is 0" in process.log
    finally:
        hosts.balancer.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    made.file.write_text(made.file.read_text().replace('attach = "auto"', 'devices = ["nosuch"]'))
    with l4lb("serve", "-c", str(made.file), "--admin", "off", network=hosts.balancer.name) as process:
        assert process.wait() == 2
        assert 'listeners.web.devices: device "nosuch"' in process.log
