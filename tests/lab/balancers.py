"""l4lb in a lab: the one in front, which forwards in the kernel, and the proxies of a second tier."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.cells import MODES, Cell
from tests.lab.network import SERVICE, bracketed, on_lan
from tests.lab.processes import Processes
from tests.support.namespaces import Host

_GLOBAL = """
[global]
workers = 1
drain_timeout = "1s"
[admin]
bind = "unix:{admin}"
"""
_LISTENER = """
[listeners.{name}]
bind = "{service}:{port}"
protocol = "{protocol}"
pool = "{pool}"
engine = "kernel"
devices = "eth0"
mode = "{mode}"
attach = "{attach}"
{more}
"""
# By the client's address alone, where one client makes several connections to the same backend (iperf3).
_POOL = """
[pools.{name}]
policy = "maglev"
hash_key = "{key}"
{source}
backends = [{backends}]
health = {{ interval = "200ms", fast_interval = "100ms", down_interval = "200ms", rise = 1, fall = 2, {check} }}
"""
_HTTP = 'type = "http"'
_DNS = 'type = "dns", name = "who.lab", record = "TXT"'
_PROXY = """
[listeners.web]
bind = ":80"
pool = "web"
[pools.web]
policy = "least_sessions"
send_proxy = "v2"
backends = [{backends}]
health = {{ interval = "200ms", fall = 2, send_proxy = true }}
"""


def _backends(names: Sequence[str], port: int, family: int) -> str:
    return ", ".join(f'{{ address = "{bracketed(on_lan(name, family))}:{port}", id = "{name}" }}' for name in names)


def front_configuration(cell: Cell, backends: Sequence[str]) -> str:
    listened = [("web", 80, "tcp", "web"), ("dns", 53, "udp", "dns")]
    listened += [("iperf", 5201, "tcp", "iperf"), ("iperf-udp", 5201, "udp", "iperf")]
    pools = [("web", 80, "source_ip_port", _HTTP), ("dns", 53, "source_ip_port", _DNS)]
    pools += [("iperf", 5201, "source_ip", f'address = ":80", {_HTTP}')]  # iperf3 takes a check for a client
    return _front(cell, backends, listened, pools)


def first_tier_configuration(cell: Cell, proxies: Sequence[str]) -> str:
    return _front(cell, proxies, [("web", 80, "tcp", "web")], [("web", 80, "source_ip_port", _HTTP)])


def _front(
    cell: Cell,
    backends: Sequence[str],
    listened: list[tuple[str, int, str, str]],
    pools: list[tuple[str, int, str, str]],
) -> str:
    mode = MODES[cell.mode]
    terms = {
        "service": bracketed(SERVICE[cell.family]),
        "mode": mode.option,
        "attach": cell.attach,
        "more": f'encapsulation = "{mode.encapsulation}"' if mode.encapsulation else "",
    }
    source = f'source_address = "{on_lan("balancer", cell.family)}"' if mode.full_nat else ""
    parts = [
        _LISTENER.format(name=name, port=port, protocol=protocol, pool=pool, **terms)
        for name, port, protocol, pool in listened
    ]
    parts += [
        _POOL.format(name=name, key=key, check=check, backends=_backends(backends, port, cell.family), source=source)
        for name, port, key, check in pools
    ]
    return "".join(parts)


def proxy_configuration(cell: Cell, services: Sequence[str]) -> str:
    return _PROXY.format(backends=_backends(services, 8080, cell.family))


def start_l4lb(processes: Processes, host: Host, name: str, directory: Path, configuration: str) -> str:
    """The address of its admin API."""
    own = directory / name
    own.mkdir(exist_ok=True)
    admin = own / "admin.sock"
    file = own / "lb.toml"
    file.write_text(_GLOBAL.format(admin=admin) + configuration)
    processes.start(host, f"{name}-l4lb", sys.executable, "-m", "l4lb", "serve", "-c", str(file))
    return f"unix:{admin}"
