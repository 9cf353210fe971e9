"""The network of a lab: a client, a router with a switch, and the hosts on it, each in a namespace.

    client 198.51.100.7 --- 198.51.100.1 router 10.0.0.254 ---+--- 10.0.0.100 balancer
                                                              +--- 10.0.0.1   backend-1, and so on

The service's address, 203.0.113.10, belongs to no link: the router sends it to the balancer. What a host needs beyond
its addresses are the commands of docs/kernel.md, run as they stand there.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.namespaces import Host, link, namespaces

PAGE = Path(__file__).parents[2] / "docs" / "kernel.md"
SERVICE = {4: "203.0.113.10", 6: "2001:db8::10"}
CLIENT = {4: "198.51.100.7", 6: "2001:db8:1::7"}
OUTSIDE = {4: "198.51.100.1", 6: "2001:db8:1::1"}  # the router's, towards the client
_LAN = {4: "10.0.0.{}", 6: "2001:db8:2::{}"}
_BITS = {4: 24, 6: 64}
_NUMBERS = {"router": 254, "balancer": 100}
_FAMILIES = (4, 6)
_SWITCHED = "2000"  # bytes that the switch carries; the router itself has an MTU of 1500


def on_lan(host: str, family: int) -> str:
    """Its address: backend-1 and proxy-1 are number 1 there, service-1 is number 11."""
    kind, _, number = host.partition("-")
    return _LAN[family].format(_NUMBERS.get(host) or int(number) + (10 if kind == "service" else 0))


def bracketed(address: str) -> str:
    """For what a port follows."""
    return f"[{address}]" if ":" in address else address


def commands(role: str, topic: str, family: int) -> list[str]:
    """The blocks of docs/kernel.md for hosts of a role (router, balancer, backend), each a shell script. Comments
    before each say whom it is for: the role, what it is about (a mode, or `any`) and the family."""
    marked = re.findall(r"((?:<!-- [^\n]* -->\n)+)```\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [script for comments, script in marked if f"<!-- {role} {topic} IPv{family} -->\n" in comments]


def prepare(host: Host, role: str, topic: str, family: int) -> None:
    for script in commands(role, topic, family):
        host.run("sh", "-e", "-c", script)


@contextlib.contextmanager
def network(name: str, members: Sequence[str]) -> Iterator[dict[str, Host]]:
    """Client, router and members of its network, by what they are; their namespaces begin with `name`."""
    roles = ("client", "router", *members)
    with namespaces(*(f"{name}-{role}" for role in roles)) as made:
        hosts = dict(zip(roles, made, strict=True))
        _make_router(hosts["router"])
        _connect_client(hosts["client"], hosts["router"])
        for role in members:
            _connect_member(hosts[role], role, hosts["router"])
        hosts["router"].make_devices_cards()
        yield hosts


def _make_router(router: Host) -> None:
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    router.ip("link", "add", "lan", "mtu", "1500", "type", "bridge", "mcast_snooping", "0")
    _bring_up(router, "lan", {family: on_lan("router", family) for family in _FAMILIES})


def _connect_client(client: Host, router: Host) -> None:
    link(client, "eth0", router, "outside")
    _bring_up(router, "outside", OUTSIDE)
    _bring_up(client, "eth0", CLIENT)
    set_gateway(client, OUTSIDE)


def _connect_member(host: Host, role: str, router: Host) -> None:
    link(host, "eth0", router, role)
    router.ip("link", "set", role, "mtu", _SWITCHED, "master", "lan", "up")
    _bring_up(host, "eth0", {family: on_lan(role, family) for family in _FAMILIES})
    set_gateway(host, {family: on_lan("router", family) for family in _FAMILIES})


def _bring_up(host: Host, device: str, addresses: dict[int, str]) -> None:
    host.ip("link", "set", device, "up")
    for family, address in addresses.items():
        host.ip("addr", "add", f"{address}/{_BITS[family]}", "dev", device, *(["nodad"] if family == 6 else []))


def set_gateway(host: Host, gateways: dict[int, str]) -> None:
    for family, gateway in gateways.items():
        host.ip(f"-{family}", "route", "replace", "default", "via", gateway)
