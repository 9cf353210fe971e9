"""What is asked of a lab with two tiers: services behind proxies behind a balancer."""

from __future__ import annotations

import re

from l4lb import Client
from tests.lab import network
from tests.lab.checks import Check, answers, curl, visitors
from tests.lab.labs import PROXIES, SERVICES, Lab
from tests.support.waiting import wait_until

_SETTLED_S = 30.0
_SAID = re.compile(r"(service-\d), for (\S+) port (\d+) through (\S+)")


def _through(lab: Lab, proxy: str) -> str:
    """How answers end that came by way of it."""
    return f"through {network.on_lan(proxy, lab.cell.family)}"


def requests(lab: Lab) -> None:
    """All services answer, by way of all proxies."""
    found = [_SAID.match(one) for one in answers(lab)]
    assert {one[1] for one in found if one} == set(SERVICES), found
    ways = {network.on_lan(proxy, lab.cell.family) for proxy in PROXIES}
    assert {one[4] for one in found if one} == ways, found


def real_address(lab: Lab) -> None:
    """A service sees the address and port that the client has on its own host; by full NAT, the balancer's."""
    said, port = curl(lab, "-w", "%{local_port}", lab.url).splitlines()
    found = _SAID.match(said)
    assert found is not None, said
    assert found[2] == lab.seen_client, said
    assert (found[3] == port) is (lab.seen_client == network.CLIENT[lab.cell.family]), (said, port)


def drain(lab: Lab) -> None:
    """A proxy is drained in the first tier: its sessions go on, and new ones go through the other."""
    first, second = (_through(lab, proxy) for proxy in PROXIES)
    with visitors(lab, (first, second)) as known, Client(lab.admin["balancer"]) as balancer:
        balancer.pools["web"]["proxy-1"].drain()
        assert all(one.endswith(second) for one in answers(lab)), "a new client of a proxy that drains"
        assert [one.ask() for one in known] == [one.backend for one in known]
        balancer.pools["web"]["proxy-1"].ready()
    assert wait_until(lambda: any(one.endswith(first) for one in answers(lab)), _SETTLED_S)


def kill(lab: Lab) -> None:
    """A proxy is killed: sessions through the other one go on, and once it was found, every new one is served."""
    first, second = (_through(lab, proxy) for proxy in PROXIES)
    with visitors(lab, (first, second)) as known:
        lab.processes.kill("proxy-2-l4lb")
        assert wait_until(lambda: lab.up("web") == {"proxy-1"}, _SETTLED_S)
        assert all(one.endswith(first) for one in answers(lab))
        others = [one for one in known if one.backend.endswith(first)]
        assert [one.ask() for one in others] == [one.backend for one in others]


TWO_TIERS: dict[str, Check] = {"requests": requests, "address": real_address, "drain": drain, "kill -9": kill}
