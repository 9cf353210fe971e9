"""What a person sees of a lab: a drawing with the addresses, and commands to paste."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.lab import network
from tests.lab.cells import MODES
from tests.lab.labs import Lab


def _drawing(lab: Lab) -> str:
    family, mode = lab.cell.family, MODES[lab.cell.mode]
    client, outside, inside = network.CLIENT[family], network.OUTSIDE[family], network.on_lan("router", family)
    front = f"{lab.name}-client  {client}  ---  {outside}  {lab.name}-router  {inside}  ---+"
    members = [role for role in lab.hosts if role not in ("client", "router")]
    places = [f"{lab.name}-{role}".ljust(len(lab.name) + 11) + network.on_lan(role, family) for role in members]
    lines = [front, *(" " * (len(front) - 1) + f"+---  {place}" for place in places)]
    behind = "backend" if "backend-1" in lab.hosts else "proxy (and on to a service)"
    lines += ["", f"service: {lab.service}", f"packets go client -> router -> balancer -> {behind},"]
    lines += [f"answers {mode.way_back.replace('backend', behind.partition(' ')[0])}"]
    return "\n".join(lines)


def _questions(lab: Lab) -> list[tuple[str, str]]:
    """Comment and command."""
    client = f"ip netns exec {lab.name}-client"
    found = [
        ("which backend answers, and whom it sees", f"{client} curl -sS '{lab.url}/#[1-6]' -H 'Connection: close'")
    ]
    if "backend-1" in lab.hosts:
        found += [
            ("the same over UDP", f"{client} dig +short TXT who.lab @{lab.service}"),
            ("how fast", f"{client} iperf3 --time 3 --client {lab.service}"),
        ]
    return found


def _operations(lab: Lab) -> list[tuple[str, str]]:
    l4lb = f"{Path(sys.executable).parent}/l4lb"
    socket = lab.admin["balancer"].removeprefix("unix:")
    admin = f"--admin unix:{socket}"
    first = next(role for role in lab.hosts if role.endswith("-1"))
    last = [role for role in lab.hosts if role.rpartition("-")[0] == first.rpartition("-")[0]][-1]
    dying = f"{last}-nginx" if f"{last}-nginx" in lab.processes else f"{last}-l4lb"
    return [
        ("listeners, pools, backends", f"{l4lb} status {admin}"),
        ("the same live (q quits)", f"{l4lb} top {admin}"),
        (
            "whom a client gets, and why",
            f"{l4lb} explain web '{network.bracketed(network.CLIENT[lab.cell.family])}:40000' {admin}",
        ),
        ("no new clients; ask again", f"{l4lb} backend drain web {first} {admin}"),
        ("and back", f"{l4lb} backend ready web {first} {admin}"),
        (f"{dying} dies", f"kill -9 {lab.processes.pid(dying)}"),
        ("what l4lb says of it", f"tail {lab.directory}/balancer-l4lb.log"),
        ("what became of packets", f"curl -sS --unix-socket {socket} http://l4lb/metrics | grep ^l4lb_kernel_packets"),
    ]


def text(lab: Lab) -> str:
    tried = "\n".join(f"  # {comment}\n  {command}" for comment, command in [*_questions(lab), *_operations(lab)])
    cell = lab.cell
    title = f"mode {cell.mode}, IPv{cell.family}, attached by {cell.attach}; files and logs: {lab.directory}"
    return f"{title}\n\n{_drawing(lab)}\n\nTo try, in another terminal as root:\n\n{tried}\n\nCtrl-C ends it."
