"""The EndpointSlices of a Service, listed once and then watched. Control loop.

A watch that the server ends in order, as it does all the time, goes on from where it was. Once the server does not know
that version any more (410), all slices are listed again there; whatever else breaks the watch has that done at the next
server.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from l4lb.net.services.in_turn import Pace, in_turn, with_silence
from l4lb.net.services.json_api import Access, ApiError, StreamEnded
from l4lb.net.services.kubernetes import GONE, Event, Kubernetes, Slice, Slices

if TYPE_CHECKING:
    import aiohttp

WATCH_S = (60, 90)  # how long the server is asked to let a watch last, at random
CONFIRM_S = 15.0  # a server that says nothing for so long is asked whether it is there
BURST = 5  # watches that may be begun at once; then one every EVERY_S, where a server ends them as soon as they begin
EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class News:
    """Either `all` slices that there are, or one that has `changed` or is `gone`; with none of them, that the server is
    there and nothing has changed."""

    all: Sequence[Slice] | None = None
    changed: Slice | None = None
    gone: Slice | None = None


async def follow_slices(access: Access, slices: Slices) -> AsyncGenerator[News | ApiError, None]:
    """Yields after each change, and at least every CONFIRM_S; an ApiError while no server answers."""

    def ask(session: aiohttp.ClientSession, endpoint: str) -> AsyncGenerator[News, None]:
        return _follow(Kubernetes(session, endpoint, access.timeout_s, slices), access.timeout_s)

    async with contextlib.aclosing(in_turn(access, ask)) as news:
        async for one in news:
            yield one


async def _follow(server: Kubernetes, timeout_s: float) -> AsyncGenerator[News, None]:
    version, pace = "", Pace(BURST, EVERY_S)
    while True:
        await pace.wait()
        try:
            if not version:
                slices, version = await server.all()
                yield News(all=slices)
            async with contextlib.aclosing(_watch(server, version, timeout_s)) as events:
                async for event in events:
                    version = event.version or version
                    yield _news(event)
        except StreamEnded:
            yield News()
        except ApiError as error:
            if error.status != GONE or not version:
                raise
            version = ""


async def _watch(server: Kubernetes, version: str, timeout_s: float) -> AsyncGenerator[Event, None]:
    """Events, and one without a version each time that a silent server is there. Ends when the watch lasts longer than
    it should: it may be stuck where the server itself is not."""
    within_s = random.randint(*WATCH_S)
    until = time.monotonic() + within_s + timeout_s
    async with (
        contextlib.aclosing(server.watch(version, within_s)) as events,
        contextlib.aclosing(with_silence(events, min(CONFIRM_S, within_s + timeout_s))) as found,
    ):
        async for event in found:
            if event is None:
                await server.is_there()
            yield event or Event("")
            if time.monotonic() > until:
                return


def _news(event: Event) -> News:
    return News(gone=event.slice) if event.gone else News(changed=event.slice)
