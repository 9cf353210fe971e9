"""All keys of etcd below a prefix, read once and then watched. Control loop.

Whatever breaks the watch, compaction too, has everything read again, at the next of the servers.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from l4lb.net.services.etcd import Change, Etcd, KeyValue, Login
from l4lb.net.services.in_turn import in_turn, with_silence
from l4lb.net.services.json_api import Access, ApiError

if TYPE_CHECKING:
    import aiohttp

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
    """Yields after each change, and at least every CONFIRM_S; an ApiError while no server answers. `only`: what follows
    the prefix in the keys that are wanted."""
    wanted = tuple(prefix + one for one in only) or (prefix,)

    def ask(session: aiohttp.ClientSession, endpoint: str) -> AsyncGenerator[News, None]:
        return _follow(Etcd(session, endpoint, access, login), prefix, wanted)

    async with contextlib.aclosing(in_turn(access, ask)) as news:
        async for one in news:
            yield one


async def _follow(server: Etcd, prefix: str, wanted: tuple[str, ...]) -> AsyncGenerator[News, None]:
    await server.log_in()
    kvs, revision = await server.range(*wanted)
    yield News(all=kvs)
    async with (
        contextlib.aclosing(server.watch(prefix, revision + 1)) as changes,
        contextlib.aclosing(with_silence(changes, CONFIRM_S)) as found,
    ):
        async for some in found:
            if some is None:
                await server.is_there(prefix)
            yield News(changes=[one for one in some or () if one.kv.key.startswith(wanted)])
