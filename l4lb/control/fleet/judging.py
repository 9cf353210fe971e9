"""Has backends go by what most nodes say, with [fleet] health = "majority". Control loop only.

| | goes by |
|---|---|
| three nodes or more have seen the backend, and most of them agree | what they say, whatever its own checks see |
| fewer, or a tie | its own checks |
| etcd is away | what the others said last, for as long as a node is taken for alive; then its own checks |
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from l4lb.control.fleet.following import Changed, Following
from l4lb.control.fleet.keys import VERDICTS
from l4lb.control.fleet.place import Place
from l4lb.control.fleet.verdicts import View, own_view, parse_view, verdict_on, view_value
from l4lb.control.state.events import Event, Events
from l4lb.control.state.state import BackendState, PoolState, State
from l4lb.model.states import Health, ProcessState
from l4lb.net.services.etcd_servers import EtcdServers
from l4lb.net.services.json_api import ApiError

_LOOK_EVERY_S = 1.0  # also the least time from one write to the next
_BROKEN_MAX = 100


class Judging:
    """`observed` is called for each backend whose health for routing has changed."""

    def __init__(
        self,
        place: Place,
        state: State,
        events: Events,
        following: Following,
        servers: EtcdServers,
        observed: Callable[[PoolState, BackendState], None],
    ) -> None:
        assert state.fleet is not None
        self._state, self._known, self._events = state, state.fleet, events
        self._servers, self._observed = servers, observed
        self._key = f"{place.prefix}{VERDICTS}{state.fleet.node}"
        self._others: dict[str, View] = {}
        self._differing: set[tuple[str, str]] = set()
        self._written: tuple[View, int] | None = None  # and with which lease
        self._written_at = 0.0
        self._connected_at = time.monotonic()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        following.subscribers.append(self._hear)
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
        for name, kv in changed.items():
            node = name.removeprefix(VERDICTS)
            if node == name or node == self._known.node:
                continue
            self._known.broken.pop(name, None)
            self._others.pop(node, None)
            try:
                if kv is not None:
                    self._others[node] = parse_view(kv.value)
            except ValueError as error:
                if len(self._known.broken) < _BROKEN_MAX:
                    self._known.broken[name] = str(error)
        self._news.set()

    def _hear_event(self, event: Event) -> None:
        if event.kind in ("backend_up", "backend_down", "reloaded"):
            self._news.set()

    # ---- what is done ----

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._news.wait()
            self._news.clear()
            if self._state.process is not ProcessState.RUNNING:
                continue
            own = own_view(self._state.pools.values())
            self._judge(own)
            with contextlib.suppress(ApiError):  # the next look tries again
                await self._write(own)

    def _judge(self, own: View) -> None:
        views = [own, *self._views()]
        for pool in self._state.pools.values():
            for id_, backend in pool.backends.items():
                self._set(pool, backend, verdict_on((pool.name, id_), views))
        self._report()

    def _views(self) -> list[View]:
        """Of the other live nodes, if they are to count."""
        now = time.monotonic()
        if self._known.connected:
            self._connected_at = now
        fleet = self._state.config.fleet
        if fleet.health == "own" or now - self._connected_at > fleet.node_ttl:
            return []
        return [view for node, view in self._others.items() if node in self._known.nodes]

    def _set(self, pool: PoolState, backend: BackendState, verdict: Health | None) -> None:
        before = backend.observed
        backend.set_verdict(verdict)
        if backend.observed is not before:
            self._observed(pool, backend)

    def _report(self) -> None:
        """Where this node and most others differ, and where they do no longer."""
        found = {
            (pool.name, id_): (str(backend.health), str(backend.verdict))
            for pool in self._state.pools.values()
            for id_, backend in pool.backends.items()
            if backend.overruled
        }
        for (pool, id_), (own, fleet) in found.items():
            if (pool, id_) not in self._differing:
                fields: dict[str, object] = {"pool": pool, "backend": id_, "own": own, "fleet": fleet}
                self._events.emit("fleet_health_differs", fields, logging.WARNING)
        for pool, id_ in self._differing - found.keys():
            self._events.emit("fleet_health_agrees", {"pool": pool, "backend": id_})
        self._differing = set(found)

    async def _write(self, own: View) -> None:
        """What this node's checks see, below its lease: so it goes when the node does."""
        lease, now = self._known.lease, time.monotonic()
        if not self._known.connected or not lease or self._known.unregistered:
            return
        if self._state.config.fleet.health == "own":
            if self._written is not None:
                await self._servers.ask(lambda server: server.delete(self._key))
                self._written = None
        elif self._written != (own, lease) and now - self._written_at >= _LOOK_EVERY_S:
            await self._servers.ask(lambda server: server.put(self._key, view_value(own), lease))
            self._written, self._written_at = (own, lease), now
