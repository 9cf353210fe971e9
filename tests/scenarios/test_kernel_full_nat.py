"""Full NAT in the whole product: real clients whom their backends have no route to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from tests.scenarios.test_kernel_forwarding import CLIENT as TRAFFIC
from tests.scenarios.test_kernel_forwarding import SERVER
from tests.scenarios.test_kernel_listener import CLIENTS, SERVERS
from tests.scenarios.test_upgrade import gone, upgraded
from tests.support.forking import Forked
from tests.support.forwarding import said
from tests.support.namespaces import BACK, BACKEND, FRONT, Hosts
from tests.support.programs import L4lb, l4lb
from tests.support.waiting import wait_until

FAMILIES = [4, 6]
ATTACH = pytest.mark.parametrize("attach", ["tcx", "native", "generic"])
LISTENER = """
[listeners.{name}]
bind = "{front}:{port}"
protocol = "{protocol}"
pool = "{pool}"
engine = "kernel"
attach = "{attach}"
"""
POOL = """
[pools.{name}]
policy = "maglev"
table_size = 251
hash_key = "source_ip_port"
source_address = "{source}"
backends = [{backends}]
health = {{ interval = "100ms", timeout = "3s", rise = 1, fall = 1 }}
"""


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def configuration(family: int, attach: str, ports: tuple[int, ...], listeners: tuple[tuple[str, str, int], ...]) -> str:
    """Listeners by name, protocol and port, all of one pool."""
    terms = {"front": bracketed(FRONT[family]), "pool": "web", "attach": attach}
    backends = ", ".join(f'"{bracketed(BACKEND[family])}:{port}"' for port in ports)
    parts = [LISTENER.format(name=name, protocol=kind, port=port, **terms) for name, kind, port in listeners]
    return "".join(parts) + POOL.format(name="web", source=BACK[family], backends=backends)


@pytest.fixture(params=FAMILIES, ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest, hosts: Hosts) -> Iterator[int]:
    """Of which backends have no way to clients."""
    version: int = request.param
    route = (f"-{version}", "route")
    hosts.backend.run("ip", *route, "del", "default")
    yield version
    hosts.backend.run("ip", *route, "add", "default", "via", BACK[version])


@contextlib.contextmanager
def serving(hosts: Hosts, file: Path, text: str) -> Iterator[L4lb]:
    file.write_text(f'[global]\nworkers = 1\ndrain_timeout = "1s"\n{text}')
    arguments = ("serve", "-c", str(file), "--admin", f"unix:{file.parent}/admin.sock")
    with l4lb(*arguments, network=hosts.balancer.name) as process:
        process.wait_for("backend up")
        yield process


@ATTACH
def test_clients_of_backends_without_a_way_to_them(attach: str, family: int, hosts: Hosts, tmp_path: Path) -> None:
    """TCP up to 1 MB, datagrams up to many fragments, by two listeners that share a backend."""
    listeners = (("web", "tcp", 80), ("dns", "udp", 80), ("other", "tcp", 81))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(hosts.backend.python(SERVER, BACKEND[family]))
        assert said(server) == "up"
        text = configuration(family, attach, (8080,), listeners)
        process = stack.enter_context(serving(hosts, tmp_path / "lb.toml", text))
        assert f"by={attach}" in process.log
        assert hosts.client.run_python(TRAFFIC, FRONT[family]) == "done\n"
        assert hosts.client.run_python(TRAFFIC.replace("(front, 80), timeout", "(front, 81), timeout"), FRONT[family])


class Visitors:
    """Clients whose connections stay."""

    def __init__(self, process: Forked, family: int) -> None:
        self._process = process
        self._family = family

    def ask(self, name: str) -> str:
        print(json.dumps(["ask", name, FRONT[self._family], 80]), file=self._process.stdin, flush=True)
        answer: str = json.loads(said(self._process))
        return answer.split(" ")[0]


def test_what_a_flow_goes_on_through(family: int, hosts: Hosts, tmp_path: Path) -> None:
    """A backend that drains, a reload, an upgrade."""
    file = tmp_path / "lb.toml"
    text = configuration(family, "auto", (8001, 8002), (("web", "tcp", 80),))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(hosts.backend.python(SERVERS, "8001,8002", BACKEND[4], BACKEND[6]))
        assert said(server) == "up"
        process = stack.enter_context(serving(hosts, file, text))
        assert wait_until(lambda: process.log.count("backend up") >= 2, 30), process.log
        visitors = Visitors(stack.enter_context(hosts.client.python(CLIENTS)), family)
        names = [f"v{number}" for number in range(40)]
        found = {name: visitors.ask(name) for name in names}
        assert set(found.values()) == {"8001", "8002"}
        file.write_text(re.sub(r'("[^"]*:8002")', r"{ address = \1, weight = 0 }", file.read_text()))
        os.kill(process.process.pid, signal.SIGHUP)
        process.wait_for("reloaded")
        assert {visitors.ask(f"new-{number}") for number in range(20)} == {"8001"}
        assert {name: visitors.ask(name) for name in names} == found
        before = process.process.pid
        upgraded(process, before, f"unix:{tmp_path}/admin.sock")
        assert wait_until(lambda: gone(before))
        assert {name: visitors.ask(name) for name in names} == found
        assert {visitors.ask(f"last-{number}") for number in range(20)} == {"8001"}


def test_without_ports_it_does_not_start(hosts: Hosts, tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(configuration(4, "auto", (8001,), (("web", "tcp", 80),)))
    before = hosts.balancer.run("sysctl", "-n", "net.ipv4.ip_local_port_range").split()
    hosts.balancer.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65000")
    try:
        with l4lb("serve", "-c", str(file), "--admin", "off", network=hosts.balancer.name) as process:
            assert process.wait() == 2
            assert "pools.web.source_address" in process.log
            assert "net.ipv4.ip_local_port_range leaves 535 ports" in process.log
    finally:
        hosts.balancer.run("sysctl", "-qw", f"net.ipv4.ip_local_port_range={' '.join(before)}")
