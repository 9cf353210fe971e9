"""What docs/scale-out.md says of a fleet, asked of a real one. Each check is a function of a lab that leaves it as it
was, returns what it measured, and raises AssertionError with what it found instead."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from l4lb.errors import AdminError
from tests.lab.fleet.lab import FleetLab, wait
from tests.lab.fleet.network import BACKENDS, BALANCERS, ONLY_BY, SERVICE, add_only_way, port_to

_REQUESTS = 300
_SPREAD_SIGMAS = 5.0
_SOURCES = 12
_FLOWS = 60
_AROUND_S = 1.0  # requests before and after what happens
_RATE = 50  # short requests a second, of clients that retry nothing


@dataclass(frozen=True)
class Found:
    """`seconds`: how long it took, where docs promise `bar_s`; `said`: what else was measured."""

    said: str
    seconds: float = 0.0
    bar_s: float = 0.0

    def __str__(self) -> str:
        timed = f"{self.seconds:.2f} s (at most {self.bar_s:g}{', LATE' if self.seconds > self.bar_s else ''})"
        return ", ".join(filter(None, [self.said, timed if self.bar_s else ""]))


# ---- the start, and who gets what ----


def start(lab: FleetLab) -> Found:
    """Announcers find three balancers ready: the router has three next hops soon."""
    return Found("three next hops", lab.started_s, 2)


def spread(lab: FleetLab) -> Found:
    """Connections are spread over the balancers as by chance."""
    before = {name: _total(lab, name) for name in BALANCERS}
    with lab.load("short", 2 * _RATE) as load:
        time.sleep(_REQUESTS / (2 * _RATE))
    counted = {name: _total(lab, name) - before[name] for name in BALANCERS}
    total, share = sum(counted.values()), 1 / len(BALANCERS)
    allowed = _SPREAD_SIGMAS * math.sqrt(total * share * (1 - share))
    assert load.failed == 0, load.result
    assert total >= load.answered > 0, (counted, load.result)
    assert all(abs(count - total * share) <= allowed for count in counted.values()), counted
    return Found("/".join(str(count) for count in counted.values()))


def _total(lab: FleetLab, balancer: str) -> int:
    with lab.client(balancer) as client:
        return int(client.listeners["web"].status["sessions_total"])


def same_backend(lab: FleetLab) -> Found:
    """A client gets the same backend through any balancer, and the tables' digests say so."""
    digests = {lab.pool(name)["table_digest"] for name in BALANCERS}
    assert len(digests) == 1, digests
    for number in range(_SOURCES):
        source = f"198.51.100.{50 + number}"
        lab.network.client.ip("addr", "replace", f"{source}/24", "dev", "eth0")
        asked = {name: _ask(lab, source, name) for name in BALANCERS}
        assert len(set(asked.values())) == 1, (source, asked)
    return Found(f"{_SOURCES} clients")


def _ask(lab: FleetLab, source: str, balancer: str) -> str:
    """Which backend answers, through that balancer."""
    rule = ("from", source, "to", SERVICE, "lookup", ONLY_BY[balancer])
    lab.network.router.ip("rule", "add", *rule)
    try:
        said = lab.network.client.run("curl", "-sS", "-m", "10", "--interface", source, f"http://{SERVICE}/")
    finally:
        lab.network.router.ip("rule", "del", *rule)
    return said.partition(",")[0]


# ---- what dies, and what is taken out of service ----


def killed(lab: FleetLab) -> Found:
    """A balancer's process is killed: its route goes, and of the flows through others none breaks, unless the router
    hashes anew."""
    victim = BALANCERS[0]  # of a plain hash, one at the end moves flows of the one in the middle
    with lab.load("long", _FLOWS) as load:
        mine = _sessions(lab, victim)
        began = time.monotonic()
        lab.processes.kill(f"{victim}-l4lb")
        wait(lambda: victim not in lab.next_hops, "the route of a killed balancer stays")
        seconds = time.monotonic() - began
    lost = _FLOWS - load.result["living"]
    said = f"{lost} of {_FLOWS} flows lost, {mine} were its own"
    if lab.engine == "kernel":
        assert lost == 0, load.result
    elif lab.spreading == "resilient":
        assert lost == mine, (lost, mine, load.result)
    else:
        assert lost >= mine, (lost, mine, load.result)
    lab.nodes.start_balancer(victim)
    _wait_complete(lab)
    wait(lambda: _is_registered(lab, victim), "a node that was killed does not register again")
    return Found(said, seconds, 1)


def _sessions(lab: FleetLab, balancer: str) -> int:
    with lab.client(balancer) as client:
        return int(client.listeners["web"].status["sessions_active"])


def _wait_complete(lab: FleetLab) -> None:
    wait(lambda: lab.next_hops == set(BALANCERS), "a balancer that is back gets no route")


def _is_registered(lab: FleetLab, balancer: str) -> bool:
    """After its old process's lease has ended."""
    with lab.client(balancer) as client:
        fleet = client.status()["fleet"]
        return fleet is not None and not fleet["error"]


def host_gone(lab: FleetLab) -> Found:
    """A balancer's link is cut: the router sees that at once."""
    port = port_to("balancer-3")
    with lab.load("short", _RATE) as load:
        time.sleep(_AROUND_S)
        began = time.monotonic()
        lab.network.router.ip("link", "set", port, "down")
        wait(lambda: "balancer-3" not in lab.next_hops, "the route over a cut link stays")
        seconds = time.monotonic() - began
        time.sleep(_AROUND_S)
        lab.network.router.ip("link", "set", port, "up")
        add_only_way(lab.network.router, "balancer-3")
    _wait_complete(lab)
    return Found(f"{load.failed} of {load.answered} requests failed", seconds, 1)


def drain(lab: FleetLab) -> Found:
    """A node is drained while clients that retry nothing ask: none fails, and the node gets no new connection."""
    node = "balancer-1"
    with lab.load("short", _RATE) as load:
        began = time.monotonic()
        lab.nodes.fleet("drain", node)
        wait(lambda: node not in lab.next_hops, "new connections still go to a drained node")
        seconds = time.monotonic() - began
        wait(lambda: _sessions(lab, node) == 0, "a drained node keeps sessions")
        lab.nodes.fleet("resume", node)
        _wait_complete(lab)
        time.sleep(_AROUND_S)
    if lab.spreading == "resilient" or lab.engine == "kernel":
        assert load.failed == 0, load.result
    return Found(f"{load.failed} of {load.answered} failed, drained in {seconds:.1f} s")


def upgrade(lab: FleetLab) -> Found:
    """All nodes are upgraded, one after the other, under requests and connections that stay: nothing fails."""
    with lab.load("short", _RATE) as load, lab.load("long", _FLOWS) as stays:
        for name in BALANCERS:
            before = _pid(lab, name)
            lab.nodes.l4lb(lab.network.balancers[name], "upgrade", "--admin", lab.nodes.admin(name))
            wait(lambda name=name, before=before: _pid(lab, name) not in (0, before), "the new process does not answer")
            wait(lambda: lab.next_hops == set(BALANCERS), "an upgrade took a route away")
        time.sleep(_AROUND_S)
    assert (load.failed, stays.result["living"]) == (0, _FLOWS), (load.result, stays.result)
    return Found(f"{load.answered} requests, {_FLOWS} flows")


def _pid(lab: FleetLab, balancer: str) -> int:
    with contextlib.suppress(AdminError), lab.client(balancer) as client:
        return int(client.status()["pid"])
    return 0


# ---- etcd ----


def discovered(lab: FleetLab) -> Found:
    """A backend that is put into etcd is in use on all nodes, and one that is deleted on none."""
    lab.nodes.etcdctl("del", "/backends/web/backend-3")
    wait(lambda: all(len(_backends(lab, name)) == 2 for name in BALANCERS), "a deleted backend stays")
    began = time.monotonic()
    lab.nodes.put_backend("backend-3")
    wait(lambda: all(_backends(lab, name) == set(BACKENDS) for name in BALANCERS), "a new backend is not in use")
    seconds = time.monotonic() - began
    assert len({lab.pool(name)["table_digest"] for name in BALANCERS}) == 1
    return Found("in use on all nodes", seconds, 0.5)


def _backends(lab: FleetLab, balancer: str) -> set[str]:
    return {one["id"] for one in lab.pool(balancer)["backends"] if one["usable"]}


def etcd_away(lab: FleetLab) -> Found:
    """etcd is killed, started and compacted, under requests: nothing fails, no backend comes or goes."""
    versions = {name: _version(lab, name) for name in BALANCERS}
    with lab.load("short", _RATE) as load:
        lab.processes.kill("etcd")
        wait(lambda: not any(_connected(lab, name) for name in BALANCERS), "nobody notices that etcd is away")
        assert all(_backends(lab, name) == set(BACKENDS) for name in BALANCERS)
        lab.nodes.start_etcd()
        wait(lab.nodes.etcd_answers, "etcd does not come back")
        said = lab.nodes.etcdctl("put", "/elsewhere", "1", "-w", "json")
        revision = re.search(r'"revision":(\d+)', said)
        assert revision is not None
        lab.nodes.etcdctl("compact", revision[1])
        wait(lambda: all(_connected(lab, name) for name in BALANCERS), "a node does not find etcd again")
    assert load.failed == 0, load.result
    assert {name: _version(lab, name) for name in BALANCERS} == versions, "snapshots were published meanwhile"
    return Found(f"{load.answered} requests")


def _version(lab: FleetLab, balancer: str) -> int:
    with lab.client(balancer) as client:
        return int(client.status()["snapshot_version"])


def _connected(lab: FleetLab, balancer: str) -> bool:
    with lab.client(balancer) as client:
        return bool(client.status()["fleet"]["connected"])


Check = Callable[[FleetLab], Found]
CHECKS: dict[str, Check] = {
    "start": start,
    "spread": spread,
    "same backend": same_backend,
    "balancer killed": killed,
    "link cut": host_gone,
    "drain of a node": drain,
    "rolling upgrade": upgrade,
    "new backend": discovered,
    "etcd away": etcd_away,
}
