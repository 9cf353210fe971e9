"""This node in its fleet: what `ControlPlane` makes, starts and stops. Control loop only.

Nothing here is needed to go on: without etcd, the node keeps the configuration that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

from l4lb.config import Config
from l4lb.control.fleet.following import Changed, Following
from l4lb.control.fleet.keys import CONFIG, DRAIN, NODES, Document, parse_document, parse_node_record
from l4lb.control.fleet.member import Member
from l4lb.control.fleet.reading import Origin, read_document, write_cache
from l4lb.control.state.events import Events
from l4lb.control.state.fleet import FleetState, NodeRecord
from l4lb.control.state.state import State
from l4lb.errors import ConfigError, L4lbError, Problem
from l4lb.model.states import ProcessState
from l4lb.net.services.etcd import KeyValue
from l4lb.net.services.json_api import ApiError

NODES_MAX = 1000  # that are remembered


class Fleet:
    """`reload` makes the process read its configuration again, by `read`. `describe` says what is known of this node.
    `lease` is that of the process before this one, if there was one."""

    def __init__(
        self,
        origin: Origin,
        state: State,
        events: Events,
        reload: Callable[[], Awaitable[object]],
        describe: Callable[[], NodeRecord],
        lease: int = 0,
    ) -> None:
        first = origin.first or Document("", 0)
        self.known = state.fleet = FleetState(origin.node, origin.place.prefix, first.generation, lease=lease)
        self.known.refused = origin.refused
        self._origin, self._state, self._events, self._reload = origin, state, events, reload
        self._holds: Document = first
        self._newest: Document | None = None
        self._copied: Document | None = None
        self._read: dict[int, Document] = {}  # by the id of the configuration that was made of it
        self._news = asyncio.Event()
        self.following = Following(origin.place, self.known, events)
        self.following.subscribers.append(self._hear)
        self.member = Member(origin.place, self.known, events, describe)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.following.start()
        self.member.start()
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        await self._end_task()
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
        self.member.leave_to_successor()

    # ---- what the keys say ----

    def _hear(self, changed: Changed) -> None:
        for key, kv in changed.items():
            if key == CONFIG:
                self._hear_config(kv)
            elif key.startswith(NODES):
                self._hear_node(key, kv)
            elif key == DRAIN + self.known.node:
                self._hear_drain(kv)

    def _hear_node(self, key: str, kv: KeyValue | None) -> None:
        name, nodes, broken = key.removeprefix(NODES), self.known.nodes, self.known.broken
        if name == self.known.node:
            self.member.key_changed(kv)
        broken.pop(key, None)
        if kv is None:
            nodes.pop(name, None)
        elif name in nodes or len(nodes) + len(broken) < NODES_MAX:
            try:
                nodes[name] = parse_node_record(name, kv.value)
            except ValueError as error:
                nodes.pop(name, None)
                broken[key] = str(error)

    def _hear_drain(self, kv: KeyValue | None) -> None:
        if self.known.draining != (kv is not None):
            self.known.draining = kv is not None
            event = "fleet_node_drains" if kv is not None else "fleet_node_resumes"
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
            newest = self._newest
            if newest is not None and newest.text == self._holds.text:
                self._held(newest)
            elif newest is not None and self._state.process is ProcessState.RUNNING:
                with contextlib.suppress(L4lbError):  # `refused` has it, and an event
                    await self._reload()
            await self._copy()
            await self._news.wait()
            self._news.clear()

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
            self._refuse(document.generation, str(error))
            raise
        self._held(document)
        self._news.set()

    def _held(self, document: Document) -> None:
        self._holds = document
        self.known.generation, self.known.refused = document.generation, ""

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

    def _refuse(self, generation: int, reason: str) -> None:
        first, *more = reason.splitlines()
        reason = f"generation {generation}: {first}" + (f" (and {len(more)} more)" if more else "")
        self.known.refused = reason
        self._events.emit("fleet_config_refused", {"generation": generation, "reason": reason}, logging.ERROR)
