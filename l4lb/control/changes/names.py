"""The names in backend addresses: looked up off the loop, and again when the TTL ends. Control loop only.

A look-up that fails removes nothing: the last answer stays, stale, and is asked for again, less and less often.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from l4lb.control.state.state import NOT_YET, Location, located_at, location_of, unresolved_at
from l4lb.net.address import name_of
from l4lb.net.resolving import Answer, Host, Lookup, Lookups, NotResolved, look_up

TTL_MIN_S = 1.0  # a TTL of 0 is no reason to ask all the time
TTL_MAX_S = 3600.0
AGAIN_MIN_S = 1.0
AGAIN_MAX_S = 30.0


@dataclass(slots=True)
class Name:
    """`hosts` are from the last answer; with an `error`, from the last look-up, they are stale. `looked_up` is set once
    the first look-up has ended."""

    hosts: tuple[Host, ...] = ()
    error: str = NOT_YET
    failures: int = 0
    due: asyncio.TimerHandle | None = None
    under_way: bool = False
    looked_up: asyncio.Event = field(default_factory=asyncio.Event)


class Names:
    """`lookup` resolves a name."""

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._subscribers: list[Callable[[str], None]] = []
        self._lookups = Lookups(lookup)
        self._names: dict[str, Name] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with a name after its answer, or the reason for having none, is another one."""
        self._subscribers.append(changed)

    def known(self, name: str) -> Name:
        return self._names.get(name) or Name()

    def hosts(self, name: str) -> tuple[Host, ...]:
        return self.known(name).hosts

    def location(self, address: str) -> Location:
        """Where a new backend with that configured address is."""
        name = name_of(address)
        if not name:
            return location_of(address)
        known = self.known(name)
        return located_at(address, known.hosts[0]) if known.hosts else unresolved_at(address, known.error)

    def prime(self, known: Mapping[str, Iterable[Host]]) -> None:
        """Take what the previous process knew: stale until it is looked up here."""
        for name, hosts in known.items():
            self._names[name] = Name(tuple(hosts))

    def answers(self) -> dict[str, tuple[Host, ...]]:
        """The answers of all names that have one, for the next process."""
        return {name: one.hosts for name, one in self._names.items() if one.hosts}

    async def look_up_new(self, names: Iterable[str], within_s: float) -> None:
        """Look up the names that were never looked up, and wait for all of them, at most `within_s` seconds."""
        self._loop = asyncio.get_running_loop()
        wanted = {name: self._names.setdefault(name, Name()) for name in names}
        for name, one in wanted.items():
            if not one.looked_up.is_set():
                self._begin(name)
        waiting = [one.looked_up.wait() for one in wanted.values() if not one.hosts]
        if not waiting:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.gather(*waiting)

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget all others."""
        names = set(names)
        for name in self._names.keys() - names:
            if (due := self._names.pop(name).due) is not None:
                due.cancel()

    def refresh(self) -> None:
        """Look up every name now, whatever its TTL says."""
        for name in self._names:
            self._begin(name)

    def stop(self) -> None:
        self._lookups.close()
        self.keep_only(())

    def _begin(self, name: str) -> None:
        one = self._names.get(name)
        if one is None or one.under_way or self._loop is None:
            return
        one.under_way = True
        if one.due is not None:
            one.due.cancel()
            one.due = None
        self._lookups.begin(name, self._done)

    def _done(self, name: str, found: Answer | NotResolved) -> None:
        """On a thread of the look-ups."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(self._look_up_ended, name, found)

    def _look_up_ended(self, name: str, found: Answer | NotResolved) -> None:
        one = self._names.get(name)
        if one is None or self._loop is None:
            return
        before = (one.hosts, one.error)
        if isinstance(found, Answer):
            one.hosts, one.error, one.failures = found.hosts, "", 0
            wait_s = min(max(found.ttl_s, TTL_MIN_S), TTL_MAX_S)
        else:
            one.error = str(found)
            wait_s = min(AGAIN_MIN_S * 2**one.failures, AGAIN_MAX_S)
            one.failures = min(one.failures + 1, 10)
        one.under_way = False
        one.looked_up.set()
        one.due = self._loop.call_later(wait_s, self._begin, name)
        if (one.hosts, one.error) != before:
            for changed in self._subscribers:
                changed(name)
