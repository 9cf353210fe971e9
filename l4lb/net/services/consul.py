"""The instances of a service in Consul, by blocking queries: each waits at the server until something has changed.
Control loop.

https://developer.hashicorp.com/consul/api-docs/features/blocking says what `X-Consul-Index` may do. A query returns
without a change, too, so that a server that is silent for longer than it was asked to wait is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from l4lb.net.services.in_turn import Pace, in_turn
from l4lb.net.services.json_api import Access, ApiError, JsonApi, Reply, secret_in

if TYPE_CHECKING:
    import aiohttp

BURST = 5  # answers that may come at once; then one every EVERY_S, of a service that changes all the time
EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Query:
    """Which instances of a service, and how they are asked for: Consul's own parameters."""

    service: str
    tags: Sequence[str] = ()
    passing: bool = False
    datacenter: str = ""
    namespace: str = ""
    partition: str = ""
    stale: bool = False
    token_file: str = ""
    wait_s: float = 10.0

    def parameters(self) -> list[tuple[str, str]]:
        named = {"dc": self.datacenter, "ns": self.namespace, "partition": self.partition}
        flags = {"passing": self.passing, "stale": self.stale}
        return [
            *((name, value) for name, value in named.items() if value),
            *((name, "true") for name, given in flags.items() if given),
            *(("tag", tag) for tag in self.tags),
        ]


@dataclass(frozen=True, slots=True)
class Found:
    """All instances that there are. `remark`: why some may be missing, or old."""

    instances: Sequence[Mapping[str, Any]]
    remark: str = ""


async def follow_service(access: Access, query: Query) -> AsyncGenerator[Found | ApiError, None]:
    """Yields at least every `wait_s`, and a sixteenth of that; an ApiError while no server answers."""

    def ask(session: aiohttp.ClientSession, endpoint: str) -> AsyncGenerator[Found, None]:
        return _follow(JsonApi(session, endpoint, access.timeout_s), query)

    async with contextlib.aclosing(in_turn(access, ask)) as news:
        async for one in news:
            yield one


async def _follow(api: JsonApi, query: Query) -> AsyncGenerator[Found, None]:
    index, pace = 0, Pace(BURST, EVERY_S)
    while True:
        await pace.wait()
        reply = await _asked(api, query, index)
        found, index = _found(api, reply), _next_index(api, reply, index)
        yield found


async def _asked(api: JsonApi, query: Query, index: int) -> Reply:
    """The token is read each time: it may be replaced."""
    api.headers = {"X-Consul-Token": await secret_in(query.token_file)} if query.token_file else {}
    path, params, wait_s = f"/v1/health/service/{quote(query.service, safe='')}", query.parameters(), 0.0
    if index:
        params += [("index", str(index)), ("wait", f"{round(query.wait_s * 1000)}ms")]
        wait_s = query.wait_s * (1 + 1 / 16)  # the server adds so much at random
    return await api.ask("GET", path, params=params, wait_s=wait_s)


def _next_index(api: JsonApi, reply: Reply, before: int) -> int:
    """What the next query waits to be exceeded; 0: it does not wait. One that went back, as after a restored snapshot,
    begins anew; 0 would have each query answered at once."""
    said = reply.headers.get("X-Consul-Index", "")
    if not said.isdecimal() or len(said) > 20:  # of 64 bits
        raise api.failed("not an answer of Consul, it has no X-Consul-Index")
    index = int(said)
    return 0 if index < before else max(index, 1)


def _found(api: JsonApi, reply: Reply) -> Found:
    said = reply.content
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise api.failed("not an answer of Consul, expected a list of instances")
    if reply.headers.get("X-Consul-Results-Filtered-By-ACLs") == "true":
        if not said:
            raise api.failed("the token may not read this service, or its nodes")
        return Found(said, f"{api.endpoint}: the token may not read all instances")
    if reply.headers.get("X-Consul-KnownLeader") == "false":
        return Found(said, f"{api.endpoint}: knows no leader, its answer may be old")
    return Found(said)
