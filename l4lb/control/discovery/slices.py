"""What EndpointSlices say of a Service's endpoints. Pure.

| conditions | is |
|---|---|
| ready, or it does not say | a backend |
| not ready; terminating, and still serving | drained: its sessions go on, no new one comes to it |
| anything else | not there |

While no endpoint at all is ready, those that terminate and still serve are backends like others, as for kube-proxy.

https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from l4lb.control.discovery.dns import backend_at
from l4lb.control.discovery.sources import Entry

Port = int | str  # its number or its name; 0: the only one
_FAMILIES = {"IPv4": 4, "IPv6": 6}


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    address: str
    draining: bool = False
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Of one slice. `remark`: why it has none that can be used."""

    endpoints: tuple[Endpoint, ...] = ()
    remark: str = ""


def endpoints_of(content: Mapping[str, Any], port: Port) -> Endpoints:
    """ValueError for what is no slice."""
    try:
        return _endpoints(content, port)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise ValueError("not an EndpointSlice") from None


def _endpoints(content: Mapping[str, Any], port: Port) -> Endpoints:
    said, type_ = content.get("endpoints") or (), content["addressType"]
    if not said:
        return Endpoints()
    if type_ not in _FAMILIES:
        return Endpoints(remark=f"addressType {type_}: expected IPv4 or IPv6")
    numbers, remark = _ports(content.get("ports") or (), port)
    wanted = [(one, draining) for one in said if (draining := _drains(one.get("conditions") or {})) is not None]
    found = {
        Endpoint(backend_at(_host(one, _FAMILIES[type_]), number), draining, _zone(one))
        for one, draining in wanted
        for number in numbers
    }
    return Endpoints(tuple(sorted(found)), remark)


def _drains(conditions: Mapping[str, bool | None]) -> bool | None:
    """None: it cannot serve."""
    if conditions.get("ready") is not False:
        return False
    return True if conditions.get("terminating") and conditions.get("serving") else None


def _host(endpoint: Mapping[str, Any], family: int) -> str:
    """The first address: all of them lead to the same place."""
    host = str(endpoint["addresses"][0])
    if ipaddress.ip_address(host).version != family:
        raise ValueError(f"{host}: expected an IPv{family} address")
    return host


def _zone(endpoint: Mapping[str, Any]) -> str:
    zone = endpoint.get("zone") or ""
    if not isinstance(zone, str) or len(zone) > 255 or not zone.isprintable():
        raise ValueError(f"zone {zone!r:.50}: expected a name")
    return zone


def _ports(said: Iterable[Mapping[str, Any]], port: Port) -> tuple[set[int], str]:
    """The numbers of the ports that are wanted, and why there is none. Of UDP and TCP alike: the listener decides."""
    named = [(one.get("name") or "", _number(one)) for one in said if one.get("port") is not None]
    numbers = {number for name, number in named if port in (name if isinstance(port, str) else number, 0)}
    if not port:
        some = " and ".join(sorted(name or str(number) for name, number in named))
        return (numbers, "") if len(numbers) == 1 else (set(), f"expected port, to choose one of {some or 'none'}")
    if not named and isinstance(port, int):  # all ports
        return {port}, ""
    has = ", ".join(sorted(f"{name} ({number})" if name else str(number) for name, number in named))
    return numbers, "" if numbers else f"has no port {port}, only {has or 'none'}"


def _number(port: Mapping[str, Any]) -> int:
    number = port["port"]
    if not isinstance(number, int) or not 0 < number <= 65535:
        raise ValueError(f"port {number!r}: expected 1 to 65535")
    return number


def entries_of(slices: Iterable[Endpoints]) -> list[Entry]:
    """In the order of the addresses. One that several slices have is ready when it is so in any of them."""
    found: dict[str, Endpoint] = {}
    everyone = (one for some in slices for one in some.endpoints)
    for one in sorted(everyone):  # of the same address, those that drain come after those that do not
        found.setdefault(one.address, one)
    only_draining = all(one.draining for one in found.values())
    return [_entry(one, draining=one.draining and not only_draining) for one in found.values()]


def _entry(one: Endpoint, *, draining: bool) -> Entry:
    zone = {"zone": one.zone} if one.zone else {}
    state = {"admin_state": "drain"} if draining else {}
    return {"address": one.address, **zone, **state}
