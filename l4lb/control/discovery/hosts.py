"""The addresses of names, from DNS, for the sources that need them. Control loop.

A server that fails takes nothing away: where one kind of record, A or AAAA, cannot be had, its last answer stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from l4lb.config import DiscoveryConfig
from l4lb.control.discovery.sources import NoAnswer
from l4lb.net.querying import NotAnswered, Records, query, resolver_for

if TYPE_CHECKING:
    import dns.asyncresolver

TTL_MIN_S = 1.0  # a TTL of 0 is no reason to ask all the time
TTL_MAX_S = 3600.0
AGAIN_MIN_S = 1.0
AGAIN_MAX_S = 30.0
KINDS = {"any": ("A", "AAAA"), "ipv4": ("A",), "ipv6": ("AAAA",)}
_AT_ONCE = 16


@dataclass(slots=True)
class _Known:
    """Of one name and kind. `until`: when it is to be asked for again, in monotonic time. `error`: why the last
    question was not answered; `none`: why there are no addresses."""

    hosts: tuple[str, ...] = ()
    until: float = 0.0
    error: str = ""
    none: str = ""
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Hosts:
    """The last answer. `wait_s`: until something is to be asked again. `remark`: what is wrong; `failed`: nothing was
    answered."""

    hosts: tuple[str, ...]
    wait_s: float
    remark: str
    failed: bool


@dataclass(slots=True)
class HostLookups:
    """Of any names, for one source."""

    settings: DiscoveryConfig
    _known: dict[tuple[str, str], _Known] = field(default_factory=dict)

    async def of(self, names: Sequence[str]) -> dict[str, Hosts]:
        """Asks for what has run out, a few at a time; forgets other names. Raises NoAnswer when no server is known."""
        kinds = KINDS[self.settings.family]
        self._known = {(name, kind): self._known.get((name, kind)) or _Known() for name in names for kind in kinds}
        due = [key for key, known in self._known.items() if known.until <= time.monotonic()]
        limit = asyncio.Semaphore(_AT_ONCE)
        resolver = await asyncio.to_thread(resolver_of, self.settings) if due else None

        async def ask(name: str, kind: str) -> None:
            async with limit:
                assert resolver is not None
                try:
                    self._take(name, kind, await query(resolver, name, kind))
                except NotAnswered as error:
                    self._failed(self._known[name, kind], str(error))

        await asyncio.gather(*(ask(*key) for key in due))
        return {name: self._hosts(name) for name in names}

    def _take(self, name: str, kind: str, found: Records) -> None:
        known = self._known[name, kind]
        known.hosts = tuple(sorted({str(one) for one in found.rdatas}))
        known.error, known.none = "", found.none
        if found.none:  # that may be an accident: soon again, whatever its TTL is
            known.failures += 1
            known.until = time.monotonic() + again_s(known.failures)
        else:
            known.failures = 0
            known.until = time.monotonic() + ttl_of(found)

    def _failed(self, known: _Known, reason: str) -> None:
        known.failures += 1
        known.error, known.until = reason, time.monotonic() + again_s(known.failures)

    def _hosts(self, name: str) -> Hosts:
        some = {kind: self._known[name, kind] for kind in KINDS[self.settings.family]}
        hosts = tuple(host for one in some.values() for host in one.hosts)
        remarks = [f"{name}: {kind}: {one.error}" for kind, one in some.items() if one.error]
        if not hosts and not remarks:
            remarks = [f"{name}: {next(iter(some.values())).none}"]
        wanted = [one for one in some.values() if one.hosts or one.error] or some.values()
        wait_s = max(0.0, min(one.until for one in wanted) - time.monotonic())
        return Hosts(hosts, wait_s, "; ".join(remarks), all(one.error for one in some.values()))


def resolver_of(settings: DiscoveryConfig) -> dns.asyncresolver.Resolver:
    """Any thread: reads a file, and imports much the first time. NoAnswer when no server is known."""
    try:
        return resolver_for(settings.servers, settings.timeout)
    except NotAnswered as error:
        raise NoAnswer(str(error)) from None


def ttl_of(found: Records) -> float:
    return min(max(found.ttl_s, TTL_MIN_S), TTL_MAX_S)


def again_s(failures: int) -> float:
    """After so many in a row."""
    return min(AGAIN_MIN_S * 2.0 ** min(failures - 1, 10), AGAIN_MAX_S)
