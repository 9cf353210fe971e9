"""The keys of a fleet as an operator reads and changes them: for commands, which run on a loop of their own."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from l4lb.control.fleet.keys import (
    CONFIG,
    DRAIN,
    HISTORY,
    NODES,
    Document,
    Entry,
    drain_value,
    entry_value,
    history_key,
    parse_entry,
    parse_node_record,
)
from l4lb.control.fleet.place import Place
from l4lb.control.state.fleet import NodeRecord
from l4lb.errors import L4lbError
from l4lb.net.services.etcd import Etcd, Op, delete_up_to, get_op, put_op, revision_is, version_is
from l4lb.net.services.etcd_servers import EtcdServers
from l4lb.net.services.json_api import ApiError

HISTORY_MAX = 100  # generations that are kept
_AT_ONCE = 10  # entries of the history, each of which has a whole configuration
_PUT_WITHOUT = "put without l4lb"


class FleetError(L4lbError):
    """What was asked for cannot be done; nothing has changed."""


@dataclass(slots=True)
class Overview:
    """`generation` 0: there is no configuration. `drained` are the nodes to be drained, alive or not; `broken` says by
    key what cannot be read."""

    generation: int = 0
    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    drained: set[str] = field(default_factory=set)
    broken: dict[str, str] = field(default_factory=dict)


class Store:
    """Raises ApiError when etcd does not answer."""

    def __init__(self, place: Place, servers: EtcdServers) -> None:
        self._place, self._servers = place, servers

    def _key(self, name: str) -> str:
        return self._place.prefix + name

    async def overview(self) -> Overview:
        parts = [self._key(part) for part in (CONFIG, NODES, DRAIN)]
        kvs, _ = await self._servers.ask(lambda server: server.range(*parts))
        found = Overview()
        for kv in kvs:
            key = kv.key.removeprefix(self._place.prefix)
            if key == CONFIG:
                found.generation = kv.version
            elif key.startswith(DRAIN):
                found.drained.add(key.removeprefix(DRAIN))
            elif key.startswith(NODES):
                _add_node(found, key, kv.value)
        return found

    # ---- nodes ----

    async def drain(self, node: str, by: str) -> None:
        """FleetError when no such node is alive."""
        alive = (await self.overview()).nodes
        if node not in alive:
            raise FleetError(f'no node "{node}" is alive; there {_listed(alive)}')
        value = drain_value(time.time(), by)
        await self._servers.ask(lambda server: server.put(self._key(DRAIN + node), value))

    async def resume(self, node: str) -> None:
        """FleetError when it is not to be drained."""
        drained = (await self.overview()).drained
        if node not in drained:
            raise FleetError(f'node "{node}" is not drained; of those that are, there {_listed(drained)}')
        await self._servers.ask(lambda server: server.delete(self._key(DRAIN + node)))

    # ---- the configuration ----

    async def current(self) -> Document | None:
        """One that is no UTF-8 can be replaced, too."""
        kv = await self._servers.ask(lambda server: server.get(self._key(CONFIG)))
        return None if kv is None else Document(kv.value.decode(errors="replace"), kv.version, kv.revision)

    async def entries(self) -> list[Entry]:
        """The history, the newest first, without what others wrote there."""
        keys = await self._servers.ask(lambda server: server.keys(self._key(HISTORY)))
        found = []
        for start in range(0, len(keys), _AT_ONCE):
            some = [get_op(key) for key in keys[start : start + _AT_ONCE]]
            done = await self._servers.ask(partial(Etcd.txn, compare=[], success=some))
            for kv in done.kvs:
                try:
                    found.append(parse_entry(kv.key.removeprefix(self._place.prefix), kv.value))
                except ValueError:
                    continue
        return sorted(found, key=lambda entry: entry.generation, reverse=True)

    async def entry(self, generation: int) -> Entry:
        """FleetError when the history has none."""
        key = history_key(generation)
        kv = await self._servers.ask(lambda server: server.get(self._key(key)))
        try:
            if kv is not None:
                return parse_entry(key, kv.value)
        except ValueError as error:
            raise FleetError(f"{self._place.prefix}{key}: {error}") from None
        known = [entry.generation for entry in await self.entries()]
        raise FleetError(f"the history has no generation {generation}; there {_listed(known)}")

    async def put(self, text: str, before: Document | None, by: str, comment: str) -> int:
        """Make `text` the configuration, if the one that holds is still `before`. Its generation."""
        generation = before.generation + 1 if before else 1
        entry = Entry(generation, time.time(), by, comment, text)
        ops: list[Op] = [
            put_op(self._key(CONFIG), text.encode()),
            put_op(self._key(history_key(generation)), entry_value(entry)),
            delete_up_to(self._key(HISTORY), self._key(history_key(max(0, generation - HISTORY_MAX + 1)))),
        ]
        server = await self._servers.server()  # one alone: whether the first has done it would not be known
        unchanged = revision_is(self._key(CONFIG), before.revision if before else 0)
        try:
            await self._note(before)
            done = await server.txn([unchanged], ops)
        except ApiError as error:
            raise _not_put(error) from None
        if not done.succeeded:
            raise FleetError("somebody else has put a configuration meanwhile: nothing was put")
        return generation

    async def _note(self, before: Document | None) -> None:
        """One that was put by other means gets its place in the history."""
        if before is None:
            return
        key = self._key(history_key(before.generation))
        entry = entry_value(Entry(before.generation, time.time(), "", _PUT_WITHOUT, before.text))
        await self._servers.ask(lambda server: server.txn([version_is(key, 0)], [put_op(key, entry)]))


def _add_node(found: Overview, key: str, value: bytes) -> None:
    name = key.removeprefix(NODES)
    try:
        found.nodes[name] = parse_node_record(name, value)
    except ValueError as error:
        found.broken[key] = str(error)


def _not_put(error: ApiError) -> FleetError:
    if "too large" in str(error):
        return FleetError(f"{error}: etcd --max-request-bytes must be more than twice the size of the configuration")
    if 400 <= error.status < 500:
        return FleetError(f"nothing was put: {error}")
    return FleetError(f"{error}: whether it was put is not known; `l4lb fleet config history` says so")


def _listed(names: Iterable[object]) -> str:
    listed = ", ".join(map(str, sorted(names)))  # type: ignore[type-var]
    return f"are {listed}" if listed else "are none"


@asynccontextmanager
async def opened(place: Place) -> AsyncGenerator[Store, None]:
    servers = EtcdServers(place.access, place.login)
    try:
        yield Store(place, servers)
    finally:
        await servers.close()
