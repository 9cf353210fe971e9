"""All keys of etcd below a prefix, read once and then watched. Control loop.

Whatever breaks the watch, compaction too, has everything read again, at the next of the servers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from itertools import count

from l4lb.net.services.etcd import Change, Etcd, KeyValue, Login
from l4lb.net.services.json_api import Access, ApiError, open_session

AGAIN_MIN_S = 0.5
AGAIN_MAX_S = 5.0
CONFIRM_S = 5.0  # a server that says nothing for so long is asked whether it is there


@dataclass(frozen=True, slots=True)
class News:
    """Either `all` keys that there are, or the `changes` since; with neither, that the server is there and nothing has
    changed."""

    all: Sequence[KeyValue] | None = None
    changes: Sequence[Change] = ()


async def follow_prefix(
    access: Access, login: Login, prefix: str, *, only: Sequence[str] = ()
) -> AsyncGenerator[News | ApiError, None]:
    """Yields after each change, and at least every CONFIRM_S; an ApiError while no server answers. Raises ApiError
    for certificates that cannot be used. `only`: what follows the prefix in the keys that are wanted."""
    wanted = tuple(prefix + one for one in only) or (prefix,)
    pause_s = AGAIN_MIN_S
    async with open_session(access) as session:
        for attempt in count():
            server = Etcd(session, access.endpoints[attempt % len(access.endpoints)], access, login)
            try:
                await server.log_in()
                async with contextlib.aclosing(_follow(server, prefix, wanted)) as news:
                    async for one in news:
                        yield one
                        pause_s = AGAIN_MIN_S
            except ApiError as error:
                yield error
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, AGAIN_MAX_S)


async def _follow(server: Etcd, prefix: str, wanted: tuple[str, ...]) -> AsyncGenerator[News, None]:
    kvs, revision = await server.range(*wanted)
    yield News(all=kvs)
    async with contextlib.aclosing(server.watch(prefix, revision + 1)) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        try:
            while True:
                done, _ = await asyncio.wait([waiting], timeout=CONFIRM_S)
                if not done:
                    await server.is_there(prefix)
                    yield News()
                    continue
                found = [one for one in waiting.result() if one.kv.key.startswith(wanted)]
                waiting = asyncio.ensure_future(anext(changes))
                yield News(changes=found)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
