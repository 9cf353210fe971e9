"""source_address = "client": the backend's peer is the client itself. Three hosts in network namespaces."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import forking
from tests.support.namespaces import BACKEND, CLIENT, FRONT, Hosts, three_hosts
from tests.support.programs import l4lb, require, run, without_preload

pytestmark = pytest.mark.external

SERVE = """
import json, socket, sys
host = sys.argv[1]
listening = socket.create_server((host, 8000), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
print("ready", flush=True)
while True:
    sock, peer = listening.accept()
    with sock:
        sock.settimeout(20)
        sock.sendall(json.dumps({"peer": peer[0], "said": sock.recv(1000).hex()}).encode())
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 80), timeout=20) as sock:
    sock.sendall(b"hello")
    answer = b""
    while piece := sock.recv(1000):
        answer += piece
print(answer.decode())
"""
CONFIG = """
[listeners.web]
bind = ["{front4}:80", "[{front6}]:80"]
pool = "web"
[pools.web]
{pool}
backends = [{backends}]
health = {{ type = "none" }}
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with three_hosts() as three:
        yield three


def config(directory: Path, pool: str, *families: int) -> str:
    file = directory / "lb.toml"
    addresses = {4: f'"{BACKEND[4]}:8000"', 6: f'"[{BACKEND[6]}]:8000"'}
    backends = ", ".join(addresses[family] for family in families)
    file.write_text(CONFIG.format(front4=FRONT[4], front6=FRONT[6], pool=pool, backends=backends))
    return str(file)


def ask(hosts: Hosts, family: int) -> dict[str, str]:
    return json.loads(hosts.client.run_python(ASK, FRONT[family]))


@pytest.mark.parametrize("family", [4, 6])
def test_the_backend_sees_the_client(hosts: Hosts, tmp_path: Path, family: int) -> None:
    file = config(tmp_path, 'source_address = "client"', family)
    with hosts.backend.python(SERVE, BACKEND[family]) as backend:
        assert backend.stdout is not None
        assert backend.stdout.readline() == "ready\n"
        with l4lb("serve", "-c", file, network=hosts.balancer.name) as process:
            process.wait_for("listening")
            for _ in range(3):
                assert ask(hosts, family) == {"peer": CLIENT[family], "said": b"hello".hex()}


def test_a_backend_of_another_family_cannot_be_reached_and_is_not_blamed(hosts: Hosts, tmp_path: Path) -> None:
    file = config(tmp_path, 'source_address = "client"', 6, 4)
    admin = f"unix:{tmp_path}/admin.sock"
    with hosts.backend.python(SERVE, BACKEND[4]) as backend:
        assert backend.stdout is not None
        assert backend.stdout.readline() == "ready\n"
        with l4lb("serve", "-c", file, "--admin", admin, network=hosts.balancer.name) as process:
            process.wait_for("listening")
            for _ in range(2):
                assert ask(hosts, 4)["peer"] == CLIENT[4]
            status = json.loads(
                run("curl", "-s", "--unix-socket", f"{tmp_path}/admin.sock", "http://l4lb/v1/pools/web")
            )
    v4, v6 = status["backends"]
    assert (v4["source_misfits"], v6["source_misfits"]) == (0, 1)
    assert v6["connect_failures"] == 0


def test_the_network_namespace_is_told(hosts: Hosts, tmp_path: Path) -> None:
    file = config(tmp_path, 'send_proxy = "v2"\nsend_proxy_tlvs = ["netns"]', 4)
    with hosts.backend.python(SERVE, BACKEND[4]) as backend:
        assert backend.stdout is not None
        assert backend.stdout.readline() == "ready\n"
        with l4lb("serve", "-c", file, network=hosts.balancer.name) as process:
            process.wait_for("listening")
            from l4lb.proxy_protocol import parse

            header = parse(bytes.fromhex(ask(hosts, 4)["said"]))
    assert header.netns == hosts.balancer.name
    assert header.source is not None
    assert header.source.host == CLIENT[4]


WITHOUT = ["--inh-caps=-net_admin,-net_raw", "--bounding-set=-net_admin,-net_raw"]


def test_without_the_capability_it_is_an_error_that_says_so(tmp_path: Path) -> None:
    file = config(tmp_path, 'source_address = "client"', 4)
    command = [require("setpriv"), *WITHOUT, sys.executable, "-m", "l4lb", "serve", "-c", file, "--admin", "off"]
    done = subprocess.run(command, env=without_preload(), capture_output=True, text=True, timeout=60)
    wanted = 'lb.toml:6: pools.web.source_address: "client": needs CAP_NET_ADMIN, which this process lacks'
    assert (done.returncode, wanted in done.stderr) == (2, True), done.stderr


def test_a_reload_cannot_get_what_the_process_may_not(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    text = '[listeners.web]\nbind = "127.0.0.1:0"\npool = "web"\n[pools.web]\nbackends = ["127.0.0.1:1"]\n'
    file.write_text(text + 'health = { type = "none" }\n')
    with l4lb("serve", "-c", str(file), within=[require("setpriv"), *WITHOUT]) as process:
        process.wait_for("listening")
        file.write_text(text + 'source_address = "client"\nhealth = { type = "none" }\n')
        process.signal(signal.SIGHUP)
        assert "needs CAP_NET_ADMIN" in process.wait_for("reload failed.*").group()


def test_without_a_name_of_its_namespace_netns_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    text = '[listeners.web]\nbind = "127.0.0.1:0"\npool = "web"\n[pools.web]\nbackends = ["127.0.0.1:1"]\n'
    file.write_text(text + 'send_proxy = "v2"\nsend_proxy_tlvs = ["netns"]\n')
    done = forking.run("serve", "-c", str(file), "--admin", "off")
    assert done.returncode == 2
    assert "send_proxy_tlvs: netns: this process is in no network namespace that has a name" in done.stderr
