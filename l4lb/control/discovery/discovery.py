"""The sources of all pools, and how what they find becomes backends. Control loop only.

An answer is applied like a change at runtime: planned, checked, in one snapshot, one at a time with all other changes.
What is the same as before is not touched: see `l4lb.control.state.desired` for what wins over what.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from l4lb.config import Backend, Config
from l4lb.control.changes.applying import Applying
from l4lb.control.discovery.following import Following
from l4lb.control.state.desired import Discovered
from l4lb.control.state.events import Events, logger
from l4lb.control.state.state import State
from l4lb.errors import ChangeError, ConfigError
from l4lb.model.states import ProcessState

FIRST_WITHIN_S = 2.0  # as names have
AGAIN_S = 5.0  # after an answer could not be applied
_POLL_S = 0.02


class Discovery:
    def __init__(self, state: State, applying: Applying, events: Events) -> None:
        self._state = state
        self._applying = applying
        self._events = events
        self._following: dict[str, Following] = {}
        self._one_at_a_time = asyncio.Lock()  # reloads

    async def start(self) -> None:
        """What is found within FIRST_WITHIN_S is in the first snapshot. ConfigError when it cannot be."""
        async with self.following(self._applying.desired.file) as found:
            await self._applying.begin_with(found)

    async def stop(self) -> None:
        before, self._following = self._following, {}
        await _stop(before.values())

    @contextlib.asynccontextmanager
    async def following(self, file: Config) -> AsyncIterator[Discovered]:
        """Follow the sources that `file` has; on the way out of the context, without an exception, no others. Gives
        what the new ones of pools without an answer have found within FIRST_WITHIN_S."""
        async with self._one_at_a_time:
            kept = {name: one for name, one in self._following.items() if _settings(file, name) == one.settings}
            new = {
                name: Following(name, pool.discovery, self._events)
                for name, pool in file.pools.items()
                if pool.discovery is not None and name not in kept
            }
            try:
                known = self._applying.desired.discovered
                await _looked([one for name, one in new.items() if name not in known])
                yield {name: one.found for name, one in new.items() if name not in known and one.found is not None}
            except BaseException:
                await _stop(new.values())
                raise
            await self._switch(kept, new)

    async def _switch(self, kept: Mapping[str, Following], new: Mapping[str, Following]) -> None:
        """From now on these are followed, and no others."""
        gone = [one for name, one in self._following.items() if kept.get(name) is not one]
        self._following = {**kept, **new}
        for name, pool in self._state.pools.items():
            pool.discovery = self._following[name].known if name in self._following else None
        for one in new.values():
            one.also(asyncio.create_task(self._keep_applied(one)))
        for one in kept.values():
            one.news.set()  # what could not be applied may fit now
        await _stop(gone)

    async def _keep_applied(self, one: Following) -> None:
        while self._state.process is ProcessState.STARTING:  # what is found meanwhile waits
            await asyncio.sleep(_POLL_S)
        again_s: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_wait_s(one, again_s)):
                    await one.news.wait()
            one.news.clear()
            again_s = None if await self._apply(one) else AGAIN_S

    async def _apply(self, one: Following) -> bool:
        """Make the last answer what holds. False when it cannot be: then nothing has changed."""
        if one.found is None or self._state.process is not ProcessState.RUNNING:
            return True
        before = self._applying.desired.discovered.get(one.pool)
        wanted = one.holding.merged(before or (), one.found, time.monotonic())
        try:
            if wanted != before:
                await self._applying.set_discovered(one.pool, wanted)
                one.known.changes += 1
                self._report(one, before or (), wanted)
        except (ChangeError, ConfigError) as error:
            one.not_applied(f"cannot be used: {error}")
            return False
        except Exception as error:  # a defect: backends stay as they are
            logger.error("what was discovered could not be applied", exc_info=error)
            return False
        one.applied()
        return True

    def _report(self, one: Following, before: Sequence[Backend], after: Sequence[Backend]) -> None:
        same = set(map(id, before)) & set(map(id, after))
        old, new = ({one.key: one for one in some if id(one) not in same} for some in (before, after))
        fields: dict[str, object] = {
            "pool": one.pool,
            "type": one.settings.type,
            "backends": len(after),
            "added": len(new.keys() - old.keys()),
            "removed": len(old.keys() - new.keys()),
            "changed": sum(backend != old.get(key, backend) for key, backend in new.items()),
        }
        self._events.emit("discovery_changed", fields, logging.INFO)


def _settings(file: Config, pool: str) -> object:
    return file.pools[pool].discovery if pool in file.pools else None


def _wait_s(one: Following, again_s: float | None) -> float | None:
    """Until the next look without news."""
    ends = one.holding.ends_next
    held_s = None if ends is None else max(0.0, ends - time.monotonic())
    return min((wait_s for wait_s in (again_s, held_s) if wait_s is not None), default=None)


async def _looked(some: Sequence[Following]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_WITHIN_S):
            for one in some:
                await one.looked.wait()


async def _stop(some: Iterable[Following]) -> None:
    await asyncio.gather(*(one.stop() for one in some))
