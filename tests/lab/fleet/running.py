"""`make lab ARGS=--fleet`: what a person sees of a fleet, and the table of its checks."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from typing import cast

from l4lb.errors import AdminError
from tests.lab.fleet import nodes, router
from tests.lab.fleet.checks import CHECKS
from tests.lab.fleet.lab import Engine, FleetLab, fleet
from tests.lab.fleet.network import BACKENDS, BALANCERS, CLIENT, ETCD, SERVICE, on_lan, uplink
from tests.lab.fleet.nodes import FLEET, L4LB
from tests.lab.place import LabError
from tests.lab.servers import PROGRAMS as SERVERS

ENGINES = ("proxy", "kernel")
SPREADINGS = ("resilient", "plain")
PROGRAMS = (*SERVERS, *nodes.PROGRAMS, *router.PROGRAMS)


def check(name: str, engine: str, spreading: str, wanted: Sequence[str], stop: threading.Event) -> bool:
    """Whether all checks of these names hold. Ends before the next one when `stop` is set."""
    print(f"{engine}, {spreading} spreading", flush=True)
    problems = 0
    try:
        with fleet(name, cast(Engine, engine), cast(router.Spreading, spreading)) as lab:
            for title in wanted:
                if stop.is_set():
                    return False
                said, held = _checked(lab, title)
                problems += not held
                print(f"  {title.ljust(16)} {said}", flush=True)
    except (LabError, AssertionError) as error:
        print(f"  {error}", flush=True)
        return False
    return not problems


def _checked(lab: FleetLab, title: str) -> tuple[str, bool]:
    try:
        return str(CHECKS[title](lab)), True
    except (AssertionError, OSError, AdminError, subprocess.TimeoutExpired) as error:
        return f"FAILED: {type(error).__name__}: {error}", False


def text(lab: FleetLab, name: str) -> str:
    """A drawing with the addresses, and commands to paste."""
    lines = [f"{lab.engine}, {lab.spreading} spreading; files and logs: {lab.nodes.directory}", ""]
    front = f"{name}-client  {CLIENT}  ---  {name}-router  ---+"
    for balancer in BALANCERS:
        lines.append(f"{front}---  {uplink(balancer)}  {name}-{balancer}  {on_lan(balancer)}  ---+")
        front = " " * (len(front) - 1) + "+"
    behind = [f"{name}-{backend} {on_lan(backend)}" for backend in BACKENDS]
    lines += ["", f"behind them: {', '.join(behind)}, {name}-etcd {ETCD}", f"service: {SERVICE}", ""]
    lines += ["To try, in another terminal as root:", ""]
    for comment, command in _tries(lab, name):
        lines += [f"  # {comment}", f"  {command}"]
    return "\n".join([*lines, "", "Ctrl-C ends it."])


def _tries(lab: FleetLab, name: str) -> list[tuple[str, str]]:
    client, routed = f"ip netns exec {name}-client", f"ip netns exec {name}-router ip route show {SERVICE}"
    operator = f"ip netns exec {name}-etcd env L4LB_FLEET={FLEET} {L4LB} fleet"
    last, admin = BALANCERS[-1], lab.nodes.admin(BALANCERS[0])
    return [
        ("which backend answers, through which balancer", f"{client} curl -sS 'http://{SERVICE}/#[1-6]'"),
        ("all nodes", f"{operator} status"),
        ("where the router sends connections", routed),
        (f"take {last} out of service, and back", f"{operator} drain {last}; sleep 5; {operator} resume {last}"),
        ("the configuration of all, as it was put", f"{operator} config history"),
        ("one node, by its own API", f"{L4LB} status --admin {admin}"),
        (f"{last} dies", f"kill -9 {lab.processes.pid(f'{last}-l4lb')}"),
    ]
