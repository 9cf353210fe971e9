"""The ``dns`` source: all addresses of a name, asked for again when their TTL ends.

NXDOMAIN, and no record of the type, are answers: there is no backend, which counts once the hold-down is over. SERVFAIL
and silence are none: the last answer stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from l4lb.control.discovery.hosts import HostLookups
from l4lb.control.discovery.sources import Answer, Asked, NoAnswer, Yielded


async def follow_dns(asked: Asked) -> AsyncGenerator[Yielded, None]:
    """Yields in the order of the addresses: servers change theirs with each answer."""
    name, port = asked.settings.name, int(asked.settings.port)
    lookups = HostLookups(asked.settings)
    while True:
        found = (await lookups.of([name]))[name]
        if found.failed:
            yield NoAnswer(found.remark)
        else:
            yield Answer([backend_at(host, port) for host in found.hosts], remark=found.remark)
        await asyncio.sleep(found.wait_s)


def backend_at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
