"""Keeps this node's bans and those in etcd the same, with [fleet] bans = "shared". Control loop only.

What is banned here holds at once, whatever etcd does; the rules are in `shared_bans.py`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from functools import partial

from l4lb.control.fleet.following import Changed, Following
from l4lb.control.fleet.keys import BANS
from l4lb.control.fleet.place import Place
from l4lb.control.fleet.shared_bans import SHARED_MAX, BanKey, ban_key, ban_value, merged, parse_ban, unshared
from l4lb.control.sessions.banning import Banning
from l4lb.control.state.events import Event, Events
from l4lb.control.state.state import State
from l4lb.errors import L4lbError
from l4lb.model.bans import Ban
from l4lb.model.states import ProcessState
from l4lb.net.services.etcd import Etcd, KeyValue, delete_op, put_op, revision_is
from l4lb.net.services.etcd_servers import EtcdServers
from l4lb.net.services.json_api import ApiError

_AGAIN_S = 1.0
_LEASE_MORE_S = 10  # the key is there for so long after the end of its ban: by their own clocks, nodes end it first
_BROKEN_MAX = 100


class FleetBans:
    def __init__(
        self,
        place: Place,
        state: State,
        events: Events,
        following: Following,
        servers: EtcdServers,
        banning: Banning,
    ) -> None:
        self._prefix, self._state, self._events = place.prefix, state, events
        self._following, self._servers, self._banning = following, servers, banning
        self._shared: dict[BanKey, Ban] = {}
        self._revisions: dict[BanKey, int] = {}
        self._leaving: dict[BanKey, int] = {}  # removed here; the revision that etcd had then, 0 if that is not known
        self._put: dict[BanKey, float] = {}  # when the ban was made that is on its way to here again
        self._left_out = False
        self._reads = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        following.subscribers.append(self._hear)
        banning.subscribers.append(self._changed_here)
        events.subscribe(self._hear_event)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        self.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    # ---- what is new ----

    def _hear(self, changed: Changed) -> None:
        known = self._state.fleet
        assert known is not None
        for name, kv in changed.items():
            if name.startswith(BANS):
                known.broken.pop(name, None)
                try:
                    self._hear_ban(name, kv)
                except ValueError as error:
                    if len(known.broken) < _BROKEN_MAX:
                        known.broken[name] = str(error)
        if self._reads != self._following.reads:
            self._reads = self._following.reads
            self._put.clear()  # what was on its way may be lost
            self._leaving = {key: revision for key, revision in self._leaving.items() if key in self._shared}
        self._news.set()

    def _hear_ban(self, name: str, kv: KeyValue | None) -> None:
        """ValueError for what is none."""
        if kv is None:
            network, _, listener = name.removeprefix(BANS).partition("@")
            self._forget((network, listener))
            return None
        ban = parse_ban(name, kv.value)
        key = (ban.network, ban.listener)
        if key not in self._shared and len(self._shared) >= SHARED_MAX:
            return self._leave_out(name)
        self._shared[key], self._revisions[key] = ban, kv.revision
        if key in self._leaving and 0 < self._leaving[key] < kv.revision:
            del self._leaving[key]  # somebody has made it anew
        return None

    def _forget(self, key: BanKey) -> None:
        for known in (self._shared, self._revisions, self._leaving, self._put):
            known.pop(key, None)

    def _leave_out(self, name: str) -> None:
        """Once: whoever writes there may write many."""
        if not self._left_out:
            self._left_out = True
            reason = f"there are more than {SHARED_MAX} bans: the others do not hold here"
            self._events.emit("fleet_bans_left_out", {"key": name, "reason": reason}, logging.WARNING)

    def _changed_here(self, ban: Ban, held: bool) -> None:
        key = (ban.network, ban.listener)
        if held:
            self._leaving.pop(key, None)
        elif key in self._shared or key in self._put:
            self._leaving[key] = self._revisions.get(key, 0)
        self._news.set()

    def _hear_event(self, event: Event) -> None:
        if event.kind == "reloaded":  # there may be other listeners, or another `bans`
            self._news.set()

    # ---- what is done ----

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._carry_out()
            except (ApiError, L4lbError, RuntimeError, MemoryError):  # away, or no thread to be had: in a moment
                self._news.set()
                await asyncio.sleep(_AGAIN_S)

    async def _carry_out(self) -> None:
        known = self._state.fleet
        assert known is not None
        shared = self._state.config.fleet.bans == "shared" and self._state.process is ProcessState.RUNNING
        if not shared or not self._reads:  # before all were read, none is known to be gone
            return
        listeners = list(self._state.listeners)
        await self._banning.merge(lambda own: merged(own, self._shared, self._leaving, listeners, time.time()))
        if known.connected:
            await self._remove_leaving()
            await self._put_new()

    async def _put_new(self) -> None:
        for ban in unshared(self._banning.held, time.time()):
            key = (ban.network, ban.listener)
            if self._put.get(key) == ban.since:
                continue
            if key not in self._shared and len(self._shared) + len(self._put) >= SHARED_MAX:
                return self._leave_out(ban_key(ban))
            await self._servers.ask(partial(self._put_one, ban=ban))
            self._put[key] = ban.since
        return None

    async def _put_one(self, server: Etcd, ban: Ban) -> None:
        lease = 0
        if ban.until:
            lease = await server.grant(max(1, math.ceil(ban.until - time.time())) + _LEASE_MORE_S)
        await server.txn([], [put_op(self._prefix + ban_key(ban), ban_value(ban), lease)])

    async def _remove_leaving(self) -> None:
        for key, revision in list(self._leaving.items()):
            name = self._prefix + ban_key(Ban(*key))
            same = [revision_is(name, revision)] if revision else []
            await self._servers.ask(partial(Etcd.txn, compare=same, success=[delete_op(name)]))
