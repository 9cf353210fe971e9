"""Who is compared, each with a balancer of its own in front of the same backend: an nginx, and a UDP server."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compiled import compiled
from benchmarks.kernel.hosts import DIRECT_BACKEND, Balancer, Lab
from benchmarks.peers import DIRECT, Peer
from tests.support.programs import l4lb, require, without_preload
from tests.support.waiting import wait_until

HTTP, UDP = 80, 5353
NAT, DSR, PROXY, NFTABLES, ROUTED = "tcx nat", "tcx dsr", "proxy", "nftables", "routed"
AGAIN = "direct again"  # the same as direct: how far two equal figures are apart
NGINX = """daemon off; user root; worker_processes 1; pid {directory}/pid; error_log {directory}/errors;
events {{ worker_connections 4000; }}
http {{
  access_log off; keepalive_requests 1000000000; sendfile on;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{
    listen 80 backlog=4096;
    location / {{ return 200 "hello"; }}
    location /big {{ root {directory}; }}
  }}
}}
"""
L4LB = """[global]
workers = 1
log_level = "info"

[listeners.web]
bind = "{front}:80"
pool = "web"
{engine}

[listeners.queries]
bind = "{front}:5353"
protocol = "udp"
pool = "queries"
{engine}

[pools.web]
policy = "maglev"
hash_key = "source_ip_port"
backends = ["{backend}:80"]
health = {{ type = "none" }}

[pools.queries]
policy = "maglev"
hash_key = "source_ip_port"
backends = ["{backend}:5353"]
"""
ENGINES = {
    NAT: 'engine = "kernel"\nmode = "nat"\nattach = "tcx"',
    DSR: 'engine = "kernel"\nmode = "dsr"\nattach = "tcx"',
    PROXY: "",
}
RULES = """table ip lb {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {front} tcp dport 80 dnat to {backend}
    ip daddr {front} udp dport 5353 dnat to {backend}
  }}
}}
"""


@contextlib.contextmanager
def _http_server(lab: Lab, directory: Path) -> Iterator[int]:
    (directory / "big").write_bytes(os.urandom(1 << 20))
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory))
    command = [*lab.backend.command, require("nginx"), "-c", str(directory / "nginx.conf"), "-p", str(directory)]
    with subprocess.Popen([*command, "-e", str(directory / "errors")], env=without_preload()) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


@contextlib.contextmanager
def _udp_server(lab: Lab) -> Iterator[int]:
    balancers = lab.balancers.values()
    addresses = [DIRECT_BACKEND, *(one.backend for one in balancers), *(one.front for one in balancers)]
    command = [*lab.backend.command, compiled("echo"), str(UDP), *addresses]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process.pid
        finally:
            process.terminate()


def _answers(lab: Lab, host: str) -> bool:
    command = [*lab.client.command, require("curl"), "-s", "-m", "1", f"http://{host}/"]
    return subprocess.run(command, env=without_preload(), capture_output=True, check=False).stdout == b"hello"


@contextlib.contextmanager
def _ours(name: str, balancer: Balancer, directory: Path) -> Iterator[int]:
    file = directory / f"{name.replace(' ', '-')}.toml"
    file.write_text(L4LB.format(front=balancer.front, backend=balancer.backend, engine=ENGINES[name]))
    with l4lb("serve", "-c", str(file), "--admin", "off", within=balancer.host.command) as process:
        process.wait_for("listening listener=queries")
        yield process.process.pid


@contextlib.contextmanager
def _balancing(name: str, balancer: Balancer, directory: Path) -> Iterator[int]:
    """The pid of what balances, if a process does."""
    if name in ENGINES:
        with _ours(name, balancer, directory) as pid:
            yield pid
        return
    if name == NFTABLES:
        rules = directory / "rules.nft"
        rules.write_text(RULES.format(front=balancer.front, backend=balancer.backend))
        balancer.host.run("nft", "-f", str(rules))
    yield 0


@dataclass(frozen=True)
class Running:
    """Everybody, the kernel engine first; as clients of HTTP and of UDP find them."""

    http: list[Peer]
    udp: list[Peer]


def _addresses(lab: Lab) -> dict[str, str]:
    """Where each is asked. Plain routing leads to the backend's own address behind its balancer."""
    asked = {name: one.backend if name == ROUTED else one.front for name, one in lab.balancers.items()}
    return {**asked, DIRECT: DIRECT_BACKEND, AGAIN: DIRECT_BACKEND}


@contextlib.contextmanager
def running(lab: Lab, directory: Path) -> Iterator[Running]:
    """Until the block ends. Every one has answered."""
    within = tuple(lab.client.command)
    with contextlib.ExitStack() as stack:
        http, udp = stack.enter_context(_http_server(lab, directory)), stack.enter_context(_udp_server(lab))
        pids = {name: stack.enter_context(_balancing(name, one, directory)) for name, one in lab.balancers.items()}
        found = Running([], [])
        for name, host in _addresses(lab).items():
            assert wait_until(functools.partial(_answers, lab, host), 20), f"{name}: no answer from {host}"
            peer = Peer(name, HTTP, pids.get(name, 0), http, host, within)
            found.http.append(peer)
            found.udp.append(dataclasses.replace(peer, port=UDP, server_pid=udp))
        yield found
