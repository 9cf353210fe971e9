"""What runs on the hosts: etcd, l4lb and ExaBGP on each balancer, nginx on each backend."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.fleet.network import ETCD, SERVICE, Network, on_lan, router_to, uplink
from tests.lab.fleet.router import BALANCERS_AS, ROUTER_AS
from tests.lab.processes import Processes
from tests.support.namespaces import Host

PROGRAMS = ("etcd", "etcdctl", "exabgp", "env")
L4LB = str(Path(sys.executable).with_name("l4lb"))
PREFIX = "/l4lb/lab"
ENDPOINT = f"http://{ETCD}:2379"
FLEET = f"etcd://{ETCD}:2379{PREFIX}"
BACKEND_KEYS = "/backends/web/"
DRAIN_MED = 1000
_EXABGP = """
process l4lb {{ run {announce}; encoder text; }}
neighbor {router} {{
  router-id {own}; local-address {own}; local-as {own_as}; peer-as {its_as}; hold-time 6;
  family {{ ipv4 unicast; }} api {{ processes [ l4lb ]; }}
}}
"""
_GLOBAL = """
[global]
workers = 1
drain_timeout = "10s"
"""
_POOL = f"""
[pools.web]
policy = "maglev"
hash_key = "source_ip"
[pools.web.health]
interval = "500ms"
initial = "up"
[pools.web.discovery]
type = "etcd"
endpoints = ["{ENDPOINT}"]
prefix = "{BACKEND_KEYS}"
"""
_LISTENERS = {
    "proxy": '[listeners.web]\nbind = ":80"\npool = "web"\n',
    "kernel": f"""[listeners.web]
bind = "{SERVICE}:80"
pool = "web"
engine = "kernel"
mode = "dsr"
devices = ["eth0"]
""",
}


def configuration(engine: str) -> str:
    """Of all nodes."""
    return f"{_GLOBAL}{_LISTENERS[engine]}{_POOL}"


@dataclass(frozen=True)
class Nodes:
    network: Network
    processes: Processes
    directory: Path

    def admin(self, balancer: str) -> str:
        return f"unix:{self.directory}/{balancer}.sock"

    def start_etcd(self) -> None:
        own = f"--listen-client-urls={ENDPOINT}", f"--advertise-client-urls={ENDPOINT}", "--logger=zap"
        self.processes.start(self.network.etcd, "etcd", "etcd", f"--data-dir={self.directory}/etcd", *own)

    def etcdctl(self, *words: str) -> str:
        patient = ("--command-timeout=30s", "--dial-timeout=30s")  # of its own it waits for 5 s, and 2 s
        return self.network.etcd.run("etcdctl", f"--endpoints={ENDPOINT}", *patient, *words)

    def etcd_answers(self) -> bool:
        try:
            self.etcdctl("endpoint", "health")
        except AssertionError:
            return False
        return True

    def l4lb(self, host: Host, *words: str) -> str:
        return host.run(L4LB, *words)

    def fleet(self, *words: str) -> str:
        """From the host of etcd, as an operator would from his own."""
        return self.network.etcd.run("env", f"L4LB_FLEET={FLEET}", L4LB, "fleet", *words)

    def start_balancer(self, balancer: str) -> None:
        options = ["--config", FLEET, "--node", balancer, "--admin", self.admin(balancer)]
        self.processes.start(self.network.balancers[balancer], f"{balancer}-l4lb", L4LB, "serve", *options)

    def start_announcing(self, balancer: str) -> None:
        announce = [
            L4LB, "announce", "exabgp", f"{SERVICE}/32", "--admin", self.admin(balancer), "--drain-med", str(DRAIN_MED)
        ]  # fmt: skip
        configuration = self.directory / f"{balancer}-exabgp.conf"
        configuration.write_text(
            _EXABGP.format(
                announce=" ".join(announce), router=router_to(balancer), own=uplink(balancer),
                own_as=BALANCERS_AS, its_as=ROUTER_AS,
            )
        )  # fmt: skip
        options = ("exabgp.daemon.user=root", "exabgp.log.destination=stderr", "exabgp.api.cli=false")
        command: Sequence[str] = ("env", *options, "exabgp", str(configuration))
        self.processes.start(self.network.balancers[balancer], f"{balancer}-exabgp", *command)

    def put_backend(self, backend: str) -> None:
        """For all nodes, by etcd."""
        self.etcdctl("put", f"{BACKEND_KEYS}{backend}", f"{on_lan(backend)}:80 id={backend}")
