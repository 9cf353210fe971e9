"""The router: BIRD, which learns by BGP who has the service's address, and one of two ways to spread connections.

- `plain`: BIRD gives the kernel one route with all next hops. Linux then spreads by a hash of addresses and ports over
  their number, so that each change of the number moves flows of all of them.
- `resilient`: `tests.lab.fleet.resilient` keeps a resilient group of next hops (Linux 5.13) as BIRD's routes are. Then
  only the flows of a next hop that has gone move.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from tests.lab.fleet.network import BALANCERS, OUTSIDE, SERVICE, Network, router_to, uplink
from tests.lab.processes import Processes

Spreading = Literal["plain", "resilient"]
ROUTER_AS, BALANCERS_AS = 65000, 65001
PROGRAMS = ("bird", "birdc")
_CONFIGURATION = """
router id {id};
protocol device {{}}
protocol kernel {{ ipv4 {{ export {export}; }}; merge paths on limit 16; }}
protocol bfd {{ interface "to-*" {{ min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }}; }}
template bgp balancer {{
  local as {router_as};
  hold time 6; keepalive time 2; connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ import where net = {service}/32; export none; }};
}}
"""
_NEIGHBOR = "protocol bgp {name} from balancer {{ source address {local}; neighbor {address} as {their_as}; }}\n"


def start(processes: Processes, network: Network, directory: Path, spreading: Spreading) -> None:
    export = "where source = RTS_BGP" if spreading == "plain" else "none"
    text = _CONFIGURATION.format(id=OUTSIDE, export=export, router_as=ROUTER_AS, service=SERVICE)
    for name in BALANCERS:
        text += _NEIGHBOR.format(
            name=name.replace("-", "_"), local=router_to(name), address=uplink(name), their_as=BALANCERS_AS
        )
    configuration = directory / "bird.conf"
    configuration.write_text(text)
    socket = control_socket(directory)
    processes.start(network.router, "router-bird", "bird", "-f", "-c", str(configuration), "-s", socket)
    if spreading == "resilient":
        program = [sys.executable, "-m", "tests.lab.fleet.resilient", socket, SERVICE]
        processes.start(network.router, "router-resilient", *program)


def control_socket(directory: Path) -> str:
    return str(directory / "bird.ctl")


def next_hops(network: Network) -> set[str]:
    """The balancers to which the router sends new connections now: by the kernel, not by what BIRD knows."""
    routes = network.router.ip("-d", "route", "show", SERVICE)
    group = network.router.ip("nexthop", "show") if "nhid 10 " in f"{routes} " else ""
    buckets = network.router.ip("nexthop", "bucket", "show", "id", "10") if "id 10 " in group else ""
    if buckets:
        return {name for number, name in enumerate(BALANCERS, 1) if f"nhid {number} " in buckets}
    return {name for name in BALANCERS if f"via {uplink(name)} " in routes}
