"""How other systems' servers are followed: in turn while they fail, whether they are quiet or gone, and no faster than
they can bear. Control loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable
from itertools import cycle
from typing import TYPE_CHECKING, TypeVar

from l4lb.net.services.json_api import Access, ApiError, open_session

if TYPE_CHECKING:
    import aiohttp

AGAIN_MIN_S = 0.5
AGAIN_MAX_S = 5.0

T = TypeVar("T")
Ask = Callable[["aiohttp.ClientSession", str], AsyncGenerator[T, None]]


async def in_turn(access: Access, ask: Ask[T]) -> AsyncGenerator[T | ApiError, None]:
    """What `ask` yields of one server until it raises ApiError, which is yielded too, and then of the next, after a
    pause of random length: many machines lose a server at the same moment. Certificates are read again each time."""
    longest_s = AGAIN_MIN_S
    for endpoint in cycle(access.endpoints):
        try:
            async with open_session(access) as session, contextlib.aclosing(ask(session, endpoint)) as news:
                async for one in news:
                    yield one
                    longest_s = AGAIN_MIN_S
        except ApiError as error:
            yield error
        await asyncio.sleep(random.uniform(AGAIN_MIN_S, longest_s))
        longest_s = min(longest_s * 2, AGAIN_MAX_S)


async def with_silence(items: AsyncGenerator[T, None], quiet_s: float) -> AsyncGenerator[T | None, None]:
    """Each item as it comes, and None each time that none has come for so long. The caller closes `items`."""
    waiting = asyncio.ensure_future(anext(items))
    try:
        while True:
            done, _ = await asyncio.wait([waiting], timeout=quiet_s)
            if not done:
                yield None
                continue
            found = waiting.result()
            waiting = asyncio.ensure_future(anext(items))
            yield found
    except StopAsyncIteration:
        return
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


class Pace:
    """At most `burst` at once, and one every `every_s` after that: what happens rarely never waits."""

    def __init__(self, burst: int, every_s: float) -> None:
        self._ahead_s, self._every_s = (burst - 1) * every_s, every_s
        self._due = 0.0  # in monotonic time: when the next one would come at an even pace

    async def wait(self) -> None:
        early_s = self._due - time.monotonic() - self._ahead_s
        if early_s > 0:
            await asyncio.sleep(early_s)
        self._due = max(self._due, time.monotonic()) + self._every_s
