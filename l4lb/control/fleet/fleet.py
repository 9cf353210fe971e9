"""This node in its fleet: what `ControlPlane` makes, starts and stops. Control loop only.

Nothing here is needed to go on: without etcd, the node keeps the configuration that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from l4lb.config import Config
from l4lb.control.fleet.banning import FleetBans
from l4lb.control.fleet.following import Changed, Following
from l4lb.control.fleet.judging import Judging
from l4lb.control.fleet.keys import CONFIG, DRAIN, NODES, Document, node_record, parse_document, parse_node_record
from l4lb.control.fleet.limits import Limits
from l4lb.control.fleet.member import Member
from l4lb.control.fleet.reading import Origin, read_document, write_cache
from l4lb.control.publishing.reconciler import Reconciler
from l4lb.control.sessions.banning import Banning
from l4lb.control.state.events import Events
from l4lb.control.state.fleet import Before, FleetState
from l4lb.control.state.state import BackendState, PoolState, State
from l4lb.errors import ConfigError, L4lbError, Problem
from l4lb.model.forwarder import Counting
from l4lb.model.states import ProcessState
from l4lb.net.services.etcd import KeyValue
from l4lb.net.services.json_api import ApiError

NODES_MAX = 1000  # that are remembered
_AGAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Uses:
    """What a fleet does with its node: `reload` makes it read its configuration again, by `Fleet.read`; what it says of
    itself `reconciler` and `forwarder` know; `observed` hears of each backend whose health for routing has changed."""

    reload: Callable[[], Awaitable[object]]
    reconciler: Reconciler
    forwarder: Counting
    observed: Callable[[PoolState, BackendState], None]
    banning: Banning


class Fleet:
    """`before` is what the process before this one had, if there was one."""

    def __init__(self, origin: Origin, state: State, events: Events, uses: Uses, before: Before) -> None:
        first = origin.first or Document("", 0)
        self.known = state.fleet = FleetState(origin.node, origin.place.prefix, first.generation)
        self.known.refused, self.known.lease = origin.refused, before.lease
        self.known.draining = before.draining if origin.draining is None else origin.draining
        self._origin, self._state, self._events, self._reload = origin, state, events, uses.reload
        self._holds: Document = first
        self._newest: Document | None = None
        self._copied: Document | None = None
        self._may_hold_later = False
        self._read: dict[int, Document] = {}  # by the id of the configuration that was made of it
        self._news = asyncio.Event()
        self.following = Following(origin.place, self.known, events)
        self.following.subscribers.append(self._hear)
        ttl_s = math.ceil(state.config.fleet.node_ttl)
        self.member = Member(
            origin.place,
            self.known,
            events,
            lambda: node_record(state, uses.reconciler.version, uses.forwarder.stats(pools=False).sessions_left),
            ttl_s,
        )
        self._limits = Limits(state, self.known, events, uses.reconciler.request)
        servers = self.member.servers
        self._judging = Judging(origin.place, state, events, self.following, servers, uses.observed)
        self._bans = FleetBans(origin.place, state, events, self.following, servers, uses.banning)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._origin.refused:
            fields: dict[str, object] = {"path": self._origin.place.cache, "reason": self._origin.refused}
            self._events.emit("fleet_copy_used", fields, logging.WARNING)
        self.following.start()
        self.member.start()
        self._bans.start()
        self._judging.start()
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        await self._end_task()
        self._limits.stop()
        await self._bans.stop()
        await self._judging.stop()
        await self.following.stop()
        await self.member.stop()

    async def _end_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        """Around what may let another process take over, which writes this node's key already."""
        return self.member.quiet()

    def leave_to_successor(self) -> None:
        """Another process has taken over."""
        self._bans.cancel()
        self._judging.cancel()
        self.member.leave_to_successor()

    # ---- what the keys say ----

    def _hear(self, changed: Changed) -> None:
        for key, kv in changed.items():
            if key == CONFIG:
                self._hear_config(kv)
            elif key.startswith(NODES):
                self._hear_node(key, kv)
        self._limits.look()
        self._set_draining(DRAIN + self.known.node in self.following.kvs)

    def _hear_node(self, key: str, kv: KeyValue | None) -> None:
        name, nodes, broken = key.removeprefix(NODES), self.known.nodes, self.known.broken
        if name == self.known.node:
            self.member.key_changed(kv)
        broken.pop(key, None)
        if kv is None:
            nodes.pop(name, None)
        elif name in nodes or name == self.known.node or len(nodes) + len(broken) < NODES_MAX:
            try:
                nodes[name] = parse_node_record(name, kv.value)
            except ValueError as error:
                nodes.pop(name, None)
                broken[key] = str(error)

    def _set_draining(self, draining: bool) -> None:
        if self.known.draining != draining:
            self.known.draining = draining
            event = "fleet_node_drains" if draining else "fleet_node_resumes"
            self._events.emit(event, {"node": self.known.node})

    def _hear_config(self, kv: KeyValue | None) -> None:
        """A configuration that is no longer there goes on holding here."""
        try:
            document = None if kv is None else parse_document(kv)
            reason = "the key is gone" if document is None else ""
        except ValueError as error:
            document, reason = None, str(error)
        self.known.newest = kv.version if kv else 0
        self._newest = document
        if document is None:
            self._refuse(self.known.newest, reason)
        else:
            self.known.refused = ""  # that was about another one
            self._news.set()

    # ---- the configuration ----

    async def _work(self) -> None:
        """Makes the newest configuration hold, and keeps a copy of what holds."""
        while True:
            await self._apply_newest()
            await self._copy()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S if self._may_hold_later else None):
                    await self._news.wait()
            self._news.clear()

    async def _apply_newest(self) -> None:
        newest = self._newest
        if newest is None or self._state.process is not ProcessState.RUNNING:
            return
        try:
            if newest.text == self._holds.text:
                self._held(newest)
            else:
                await self._reload()
        except L4lbError:
            pass  # `refused` has it, and an event
        except Exception as error:  # such as a MemoryError
            self._refuse(newest.generation, f"{type(error).__name__}: {error}", later=True)

    async def read(self) -> Config:
        """The newest configuration. ConfigError when there is none that can be used."""
        document = self._newest
        if document is None or not self.known.connected:
            document = await self._fetch()
        try:
            config = await asyncio.to_thread(self._origin.parse, document)
        except ConfigError as error:
            self._refuse(document.generation, str(error))
            raise
        self._read[id(config)] = document
        return config

    async def _fetch(self) -> Document:
        place = self._origin.place
        try:
            return await self.member.servers.ask(lambda server: read_document(server, place))
        except ApiError as error:
            raise ConfigError([Problem("", f"cannot be read: {error}", place.config_name)]) from None

    @contextlib.contextmanager
    def applying(self, config: Config) -> Iterator[None]:
        """Around what makes `config` hold, which `read` returned, or somebody else gave."""
        document = self._read.pop(id(config), Document("", 0))
        try:
            yield
        except L4lbError as error:
            self._refuse(document.generation, str(error), later=True)
            raise
        self._held(document)
        self._news.set()

    def _held(self, document: Document) -> None:
        self._holds = document
        self.known.generation, self.known.refused, self._may_hold_later = document.generation, "", False

    async def _copy(self) -> None:
        document, place = self._holds, self._origin.place
        if not place.cache or not document.generation or document == self._copied:
            return
        try:
            await asyncio.to_thread(write_cache, place, document)
            self._copied = document
        except OSError as error:
            fields: dict[str, object] = {"path": place.cache, "reason": error.strerror or str(error)}
            self._events.emit("fleet_copy_failed", fields, logging.WARNING)

    def _refuse(self, generation: int, reason: str, *, later: bool = False) -> None:
        """`later`: the reason is this host's, such as a port in use, so the same configuration may do later."""
        self._may_hold_later = later
        first, *more = reason.splitlines()
        reason = f"generation {generation}: {first}" + (f" (and {len(more)} more)" if more else "")
        self.known.refused = reason
        self._events.emit("fleet_config_refused", {"generation": generation, "reason": reason}, logging.ERROR)
