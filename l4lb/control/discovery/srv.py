"""The ``srv`` source: hosts, ports, weights and priorities from SRV records (RFC 2782), asked for again when their TTL
ends; and the addresses of those hosts, each when its own does.

A priority is one of l4lb's: 0 goes first. A weight of 0, which means "hardly ever", becomes 1: l4lb's 0 means never. A
host with several addresses is as many backends, each with the record's weight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple

from l4lb.control.discovery.dns import backend_at
from l4lb.control.discovery.hosts import HostLookups, Hosts, again_s, resolver_of, ttl_of
from l4lb.control.discovery.sources import Answer, Asked, NoAnswer, Yielded
from l4lb.net.querying import NotAnswered, Records, query


class _Record(NamedTuple):
    priority: int
    target: str
    port: int
    weight: int


async def follow_srv(asked: Asked) -> AsyncGenerator[Yielded, None]:
    """Yields in the order of priorities, then of targets, then of addresses."""
    records, lookups = _Records(asked), HostLookups(asked.settings)
    while True:
        await records.ask_if_due()
        if records.error:
            yield NoAnswer(records.error)
            await asyncio.sleep(records.wait_s)
            continue
        hosts = await lookups.of(sorted({one.target for one in records.found}))
        nothing = bool(hosts) and all(one.failed for one in hosts.values())
        yield NoAnswer(next(iter(hosts.values())).remark) if nothing else _answer(records, hosts)
        await asyncio.sleep(min([records.wait_s, *(one.wait_s for one in hosts.values())]))


class _Records:
    """The SRV records themselves. `error`: why they could not be had; `none`: why there are none."""

    def __init__(self, asked: Asked) -> None:
        self._settings = asked.settings
        self._until = 0.0
        self._failures = 0
        self.found: list[_Record] = []
        self.error = self.none = ""

    @property
    def wait_s(self) -> float:
        return max(0.0, self._until - time.monotonic())

    async def ask_if_due(self) -> None:
        if self.wait_s:
            return
        try:
            resolver = await asyncio.to_thread(resolver_of, self._settings)
            answer = await query(resolver, self._settings.name, "SRV")
        except (NotAnswered, NoAnswer) as error:
            self.error = f"{self._settings.name}: {error}"
            self._again()
        else:
            self._take(answer)

    def _take(self, answer: Records) -> None:
        self.error, self.none = "", answer.none and f"{self._settings.name}: {answer.none}"
        found: list[Any] = list(answer.rdatas)
        self.found = sorted(
            _Record(one.priority, one.target.to_text(omit_final_dot=True), one.port, one.weight)
            for one in found
            if one.target.labels != (b"",)  # "." says that there is no such service
        )
        if self.found:
            self._failures, self._until = 0, time.monotonic() + ttl_of(answer)
        else:
            self.none = self.none or f"{self._settings.name}: there is no such service"
            self._again()

    def _again(self) -> None:
        self._failures += 1
        self._until = time.monotonic() + again_s(self._failures)


def _answer(records: _Records, hosts: Mapping[str, Hosts]) -> Answer:
    """Of several records for one address the first counts."""
    entries: dict[str, Mapping[str, Any]] = {}
    for one in records.found:
        for host in hosts[one.target].hosts:
            address = backend_at(host, one.port)
            entry = {"address": address, "weight": max(1, one.weight), "priority": one.priority}
            entries.setdefault(address, entry)
    remarks = [one.remark for one in hosts.values() if one.remark]
    return Answer(list(entries.values()), remark="; ".join(filter(None, [records.none, *remarks[:3]])))
