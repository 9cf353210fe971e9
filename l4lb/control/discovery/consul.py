"""The ``consul`` source: a service's instances whose checks pass or warn. `l4lb.net.services.consul` asks for them.

An instance that is broken counts for itself alone: what was said of it before stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from l4lb.config import DiscoveryConfig
from l4lb.control.discovery.dns import backend_at
from l4lb.control.discovery.entries import backend_of
from l4lb.control.discovery.sources import REMARKS_MAX, Answer, Asked, Entry, Yielded, access_of
from l4lb.net.services.consul import Found, Query, follow_service
from l4lb.net.services.json_api import Access, ApiError

AGENT = "http://127.0.0.1:8500"  # where Consul's own tools look for it, too

_Id = tuple[str, str]  # of the node, and of the service there


async def follow_consul(asked: Asked) -> AsyncGenerator[Yielded, None]:
    """Yields after each change, and whenever a query has waited in vain."""
    access, query = _asked(asked.settings)
    instances = _Instances()
    async with contextlib.aclosing(follow_service(access, query)) as news:
        async for one in news:
            yield one if isinstance(one, ApiError) else instances.answer(one)


def _asked(settings: DiscoveryConfig) -> tuple[Access, Query]:
    access = access_of(settings)
    query = Query(
        settings.service,
        tags=settings.tags,
        passing=settings.passing,
        datacenter=settings.datacenter,
        namespace=settings.namespace,
        partition=settings.partition,
        stale=settings.stale,
        token_file=settings.token_file,
        wait_s=settings.wait,
    )
    return replace(access, endpoints=access.endpoints or (AGENT,)), query


class _Instances:
    """`answer` is the same object until what Consul says changes."""

    def __init__(self) -> None:
        self._found: Found | None = None
        self._entries: dict[_Id, Entry | None] = {}
        self._answer = Answer([])

    def answer(self, found: Found) -> Answer:
        """In the order of nodes and services. Of several instances with one address the first counts."""
        if found == self._found:
            return self._answer
        broken = self._take(found.instances)
        by_address: dict[str, Entry] = {}
        for _, entry in sorted(self._entries.items()):
            if entry is not None:
                by_address.setdefault(_address(entry), entry)
        remarks = [*filter(None, [found.remark]), *broken]
        self._found, self._answer = found, Answer(list(by_address.values()), remark="; ".join(remarks[:REMARKS_MAX]))
        return self._answer

    def _take(self, instances: Sequence[Mapping[str, Any]]) -> list[str]:
        """What is wrong with which."""
        before, self._entries, broken = self._entries, {}, []
        for number, one in enumerate(instances):
            id_, place = _id(one), _place(one, number)
            try:
                self._entries[id_] = _entry(one, place)
            except ValueError as error:
                self._entries[id_] = before.get(id_)
                broken.append(str(error))
            except (AttributeError, KeyError, TypeError):
                self._entries[id_] = before.get(id_)
                broken.append(f"{place}: not an instance of a service")
        return broken


def _id(one: Mapping[str, Any]) -> _Id:
    node, service = one.get("Node"), one.get("Service")
    name, id_ = (some.get(key) if isinstance(some, dict) else "" for some, key in ((node, "Node"), (service, "ID")))
    return str(name), str(id_)


def _place(one: Mapping[str, Any], number: int) -> str:
    node, id_ = _id(one)
    return f"instance {id_} on {node}" if node and id_ else f"instance {number}"


def _entry(one: Mapping[str, Any], place: str) -> Entry | None:
    """None for one that must not be used. ValueError, or what comes of reading anything else, for a broken one."""
    service, statuses = one["Service"], {check["Status"] for check in one.get("Checks") or ()}
    if statuses - {"passing", "warning"}:  # critical, which maintenance is too
        return None
    host, port = service.get("Address") or one["Node"]["Address"], service.get("Port", 0)
    if not isinstance(port, int) or not 0 < port <= 65535:
        raise ValueError(f"{place}: {port!r}: expected a port, from 1 to 65535")
    weight = (service.get("Weights") or {}).get("Warning" if "warning" in statuses else "Passing", 1)
    entry = {"address": backend_at(host, port), "weight": weight}
    return {**entry, "address": backend_of(entry, place).address}


def _address(entry: Entry) -> str:
    return entry if isinstance(entry, str) else str(entry["address"])
