"""Nodes of a fleet on a real etcd: in the test's own process, or as processes of their own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l4lb import Client, LoadBalancer
from l4lb.control.fleet.place import parse_place
from l4lb.control.fleet.reading import Origin
from l4lb.control.process.host import Host
from l4lb.control.state.events import Event
from l4lb.control.state.fleet import FleetState
from tests.support.balancing import fields_of
from tests.support.etcd import Etcd
from tests.support.programs import L4lb, l4lb
from tests.support.waiting import wait_until

PREFIX = "/l4lb/test"
BACKENDS = ["127.0.0.1:1", "127.0.0.1:2"]


def config_text(*backends: str, more: str = "") -> str:
    """One listener on a free port, one pool; `more` is of the pool."""
    listed = ", ".join(f'{{address = "{one}"}}' for one in backends or BACKENDS)
    return f"""
[global]
workers = 1
drain_timeout = "5s"
[admin]
bind = "off"
[listeners.web]
bind = ["127.0.0.1:0"]
pool = "web"
[pools.web]
policy = "maglev"
backends = [{listed}]
{more}
[pools.web.health]
type = "none"
"""


def url(server: Etcd, **options: object) -> str:
    scheme, _, host = server.endpoint.partition("://")
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"{'etcds' if scheme == 'https' else 'etcd'}://{host}{PREFIX}" + (f"?{query}" if query else "")


def put_config(server: Etcd, text: str) -> None:
    server.put(f"{PREFIX}/config", text)


def created(server: Etcd, name: str) -> str:
    """At which revision the node's key was made: it stays until the key goes. Empty when there is none."""
    found = re.search(r'"create_revision":(\d+)', server.ctl("get", f"{PREFIX}/nodes/{name}", "-w", "json"))
    return found[1] if found else ""


@dataclass
class Node:
    """In this process."""

    balancer: LoadBalancer
    name: str
    heard: list[Event] = field(default_factory=list)

    @property
    def known(self) -> FleetState:
        known = self.balancer.plane.state.fleet
        assert known is not None
        return known

    @property
    def backends(self) -> list[str]:
        return sorted(self.balancer.pools["web"])

    @property
    def version(self) -> int:
        return self.balancer.plane.reconciler.version

    def of(self, kind: str) -> list[dict[str, object]]:
        return fields_of(self.balancer, self.heard, kind)

    def wait_for(self, generation: int) -> None:
        assert wait_until(lambda: self.known.generation == generation), self.known

    def wait_alive(self, *names: str) -> None:
        """Until these nodes are alive for this one, and no others."""
        assert wait_until(lambda: sorted(self.known.nodes) == sorted(names)), self.known


@contextlib.contextmanager
def node(server: Etcd, name: str, *, where: str = "", **options: object) -> Iterator[Node]:
    """`where`: another URL than that of the server."""
    origin = Origin(parse_place(where or url(server, **{"timeout": "2s", **options})), name)
    heard: list[Event] = []
    with LoadBalancer(origin.load_first(), host=Host(origin=origin)) as balancer:
        found = Node(balancer, name, heard)
        balancer.plane.events.follow(heard.append, last=100)
        yield found


@contextlib.contextmanager
def nodes(server: Etcd, *names: str, **options: object) -> Iterator[list[Node]]:
    """Once all of them know of each other."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(node(server, name, **options)) for name in names]
        for one in found:
            one.wait_alive(*names)
        yield found


@dataclass
class Served:
    """A process of its own; with its admin API."""

    process: L4lb
    admin: str

    @property
    def status(self) -> Any:
        with Client(self.admin) as client:
            return client.status()

    @property
    def known(self) -> Any:
        return self.status["fleet"]


@contextlib.contextmanager
def serving(server: Etcd, name: str, directory: Path, *arguments: str, **options: object) -> Iterator[Served]:
    admin = f"unix:{directory}/{name}.sock"
    where = url(server, **{"timeout": "2s", **options})
    with l4lb("serve", "-c", where, "--node", name, "--admin", admin, *arguments) as process:
        process.wait_for("fleet registered")
        yield Served(process, admin)
