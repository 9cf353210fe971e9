"""`explain` names the backend that a real client gets through the kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.client import Client
from tests.scenarios.test_kernel_listener import SERVERS
from tests.support.forwarding import said
from tests.support.namespaces import BACKEND, CLIENT, FRONT, Hosts
from tests.support.programs import l4lb

CLIENTS = 45
# By policy: the listener's port, its backends' ports, what is hashed.
POOLS = {
    "maglev": (80, (8001, 8002, 8003), "source_ip_port"),
    "ring": (81, (8011, 8012, 8013), "session"),
    "rendezvous": (82, (8021, 8022, 8023), "source_ip_port"),
    "random": (83, (8031, 8032, 8033), ""),
}
POOL = """
[listeners.{policy}]
bind = "{front}:{port}"
pool = "{policy}"
engine = "kernel"
[pools.{policy}]
policy = "{policy}"
{hash_key}
backends = [{backends}]
health = {{ type = "none" }}
"""
# Connects from a new port each time; says from which, and who answered.
ASK = """
import json, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
found = []
for _ in range(count):
    with socket.create_connection((host, port), timeout=5) as sock:
        sock.sendall(b"x")
        found.append([sock.getsockname()[1], sock.recv(100).split()[0].decode()])
print(json.dumps(found))
"""


def configuration(backend: str, front: str) -> str:
    parts = []
    for policy, (port, ports, hashed) in POOLS.items():
        weighted = (f'{{ address = "{backend}:{one}", weight = {weight} }}' for weight, one in enumerate(ports, 1))
        hash_key = f'hash_key = "{hashed}"' if hashed else ""
        fields = {"policy": policy, "front": front, "port": port, "hash_key": hash_key}
        parts.append(POOL.format(**fields, backends=", ".join(weighted)))
    return "".join(parts)


def test_clients_get_the_backend_that_explain_names(hosts: Hosts, tmp_path: Path) -> None:
    file, admin = tmp_path / "lb.toml", f"unix:{tmp_path}/admin.sock"
    file.write_text(configuration(BACKEND[4], FRONT[4]))
    every = ",".join(str(port) for _, ports, _ in POOLS.values() for port in ports)
    with (
        hosts.backend.python(SERVERS, every, BACKEND[4]) as servers,
        l4lb("serve", "-c", str(file), "--admin", admin, network=hosts.balancer.name) as process,
        Client(admin) as client,
    ):
        assert said(servers) == "up"
        process.wait_for("admin listening")
        for policy, (port, ports, _) in POOLS.items():
            answers = json.loads(hosts.client.run_python(ASK, FRONT[4], str(port), str(CLIENTS)))
            assert {answer for _, answer in answers} == {str(one) for one in ports}
            for source_port, answer in answers:
                source = f"{CLIENT[4]}:{source_port}"
                explained = client.explain(policy, source, f"{FRONT[4]}:{port}")
                if policy == "random":
                    assert explained["hash"] is explained["slot"] is None
                    assert "random" in explained["how"]
                else:
                    assert explained["chosen"] == f"{BACKEND[4]}:{answer}", (policy, source, explained)
