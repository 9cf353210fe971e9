"""The network of the fleet's lab: a client, a router that spreads connections, three balancers, and what is behind
them, each in a namespace.

    client 198.51.100.7 --- router --+--- 10.0.1.1 balancer-1 10.1.0.101 ---+
                                     +--- 10.0.2.1 balancer-2 10.1.0.102 ---+--- lan: backend-1 10.1.0.1 ...
                                     +--- 10.0.3.1 balancer-3 10.1.0.103 ---+         etcd 10.1.0.200

The service's address, 203.0.113.10, is on the loopback devices of the balancers when they are proxies, and of the
backends when balancers forward in the kernel (mode dsr). The router is on the lan too: that is the backends' way to the
client.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.support.namespaces import Host, link, namespaces

SERVICE = "203.0.113.10"
CLIENT = "198.51.100.7"
OUTSIDE = "198.51.100.1"  # the router's, towards the client
COUNT = 3  # of balancers, and of backends
BALANCERS = tuple(f"balancer-{number}" for number in range(1, COUNT + 1))
BACKENDS = tuple(f"backend-{number}" for number in range(1, COUNT + 1))
ETCD = "10.1.0.200"
ONLY_BY = {name: str(100 + number) for number, name in enumerate(BALANCERS, 1)}  # the router's tables with one next hop
_ROUTER_ON_LAN = "10.1.0.254"
_OWN_ADDRESSES_ONLY = ("net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")


@dataclass(frozen=True)
class Network:
    client: Host
    router: Host
    etcd: Host
    balancers: dict[str, Host]
    backends: dict[str, Host]


def number_of(host: str) -> int:
    return int(host.rpartition("-")[2])


def uplink(balancer: str) -> str:
    """Its address towards the router."""
    return f"10.0.{number_of(balancer)}.1"


def router_to(balancer: str) -> str:
    """The router's address, and with `port_to` its device, towards that balancer."""
    return f"10.0.{number_of(balancer)}.254"


def port_to(balancer: str) -> str:
    return f"to-{number_of(balancer)}"


def on_lan(host: str) -> str:
    return f"10.1.0.{number_of(host) + (100 if host in BALANCERS else 0)}"


@contextlib.contextmanager
def network(name: str, at_service: Sequence[str]) -> Iterator[Network]:
    """Their namespaces begin with `name`. `at_service`: who has the service's address."""
    roles = ("client", "router", "etcd", *BALANCERS, *BACKENDS)
    with namespaces(*(f"{name}-{role}" for role in roles)) as made:
        hosts = dict(zip(roles, made, strict=True))
        router = hosts["router"]
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.fib_multipath_hash_policy=1")  # by ports too
        router.ip("link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
        _up(router, "lan", f"{_ROUTER_ON_LAN}/24")
        _cable(hosts["client"], "eth0", f"{CLIENT}/24", router, "outside", f"{OUTSIDE}/24")
        hosts["client"].ip("route", "add", "default", "via", OUTSIDE)
        _on_lan(hosts["etcd"], "eth0", f"{ETCD}/24", router, "etcd")
        for role in BALANCERS:
            _connect_balancer(hosts[role], role, router)
        for role in BACKENDS:
            _connect_backend(hosts[role], role, router)
        for role in at_service:
            hosts[role].ip("addr", "add", f"{SERVICE}/32", "dev", "lo")
        router.make_devices_cards()
        balancers = {role: hosts[role] for role in BALANCERS}
        backends = {role: hosts[role] for role in BACKENDS}
        yield Network(hosts["client"], router, hosts["etcd"], balancers, backends)


def _connect_balancer(host: Host, role: str, router: Host) -> None:
    _cable(host, "eth0", f"{uplink(role)}/24", router, port_to(role), f"{router_to(role)}/24")
    _on_lan(host, "eth1", f"{on_lan(role)}/24", router, role)
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", *_OWN_ADDRESSES_ONLY)
    host.ip("route", "add", "default", "via", router_to(role))
    add_only_way(router, role)


def add_only_way(router: Host, balancer: str) -> None:
    """To the router's table of that balancer; the kernel forgets it while the link is down."""
    router.ip("route", "replace", SERVICE, "via", uplink(balancer), "table", ONLY_BY[balancer])


def _connect_backend(host: Host, role: str, router: Host) -> None:
    host.run("sysctl", "-qw", *_OWN_ADDRESSES_ONLY)
    _on_lan(host, "eth0", f"{on_lan(role)}/24", router, role)
    host.ip("route", "add", "default", "via", _ROUTER_ON_LAN)


def _cable(host: Host, device: str, address: str, router: Host, its_device: str, its_address: str) -> None:
    link(host, device, router, its_device)
    _up(host, device, address)
    _up(router, its_device, its_address)


def _on_lan(host: Host, device: str, address: str, router: Host, port: str) -> None:
    link(host, device, router, port)
    router.ip("link", "set", port, "master", "lan", "up")
    _up(host, device, address)


def _up(host: Host, device: str, address: str) -> None:
    host.ip("link", "set", device, "up")
    host.ip("addr", "add", address, "dev", device)
