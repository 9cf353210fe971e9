"""This node's own key: there for as long as its lease is kept alive, and written when what it says has changed. Control
loop only.

| the key | what is done |
|---|---|
| is not there, or has this node's lease | it is written |
| has another lease, that of a process of this name which crashed | when that lease ends, the key is written |
| has another lease, that of a process of this name which runs | nobody takes it from the other: it is reported |

A process that takes over from another, as at an upgrade, goes on with the same lease, so the key never goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from l4lb.control.fleet.keys import NODES, node_value, parse_node_record
from l4lb.control.fleet.place import Place
from l4lb.control.state.events import Events
from l4lb.control.state.fleet import FleetState, NodeRecord
from l4lb.net.services.etcd import Done, Etcd, KeyValue, get_op, lease_is, put_op, txn_op, version_is
from l4lb.net.services.etcd_servers import EtcdServers
from l4lb.net.services.json_api import ApiError

_LOOK_EVERY_S = 1.0
_SESSIONS_EVERY_S = 5.0  # a number of sessions alone is not worth a write each second
_SEEN_WITHIN_S = 3.0  # what was written is seen by this node's own watch, or it was removed again
_LEAVE_WITHIN_S = 1.0


class Member:
    """`describe` says what the key is to say now. `ttl_s` is of a lease that is new."""

    def __init__(
        self, place: Place, state: FleetState, events: Events, describe: Callable[[], NodeRecord], ttl_s: int
    ) -> None:
        self._ttl_s = ttl_s
        self._state, self._events, self._describe = state, events, describe
        self._key = f"{place.prefix}{NODES}{state.node}"
        timeout_s = min(place.access.timeout_s, ttl_s / 4)  # a server that hangs must not cost the lease
        self.servers = EtcdServers(replace(place.access, timeout_s=timeout_s), place.login)
        self._written: NodeRecord | None = None
        self._written_at = 0.0
        self._kept_at = 0.0
        self._failing_since: float | None = None
        self._reported = False
        self._registered = False
        self._quiet = False  # another process may be writing already
        self._handed_over = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Remove the key, unless another process has it, now or still, or etcd does not answer at once: then its lease
        ends."""
        started = self._task is not None
        await self._end_task()
        if started and self._state.lease and not self._handed_over:
            with contextlib.suppress(ApiError, TimeoutError):
                async with asyncio.timeout(_LEAVE_WITHIN_S):
                    await self.servers.ask(lambda server: server.revoke(self._state.lease))
        await self.servers.close()

    async def _end_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """While another process may be writing the key already, with the same lease."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def leave_to_successor(self) -> None:
        """The key and its lease are another process's from now on."""
        self._handed_over = True
        if self._task is not None:
            self._task.cancel()

    def key_changed(self, kv: KeyValue | None) -> None:
        """Somebody removed or changed this node's key, or it was this node itself."""
        if kv is None or kv.lease != self._state.lease:
            self._written = None

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except ApiError as error:
                self._failed(str(error))
            except Exception as error:  # such as a MemoryError: the next look may succeed
                self._failed(f"{type(error).__name__}: {error}")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _look(self) -> None:
        await self._keep_lease()
        record = self._describe()
        if not self._quiet and (not self._is_news(record) or await self._write(record)):
            self._succeeded()

    async def _keep_lease(self) -> None:
        lease, now = self._state.lease, time.monotonic()
        if lease and now - self._kept_at < self._ttl_s / 3:
            return
        if not lease or not await self.servers.ask(lambda server: server.keep_alive(lease)):
            self._written, self._registered = None, False
            self._state.lease = await self.servers.ask(lambda server: server.grant(self._ttl_s))
        self._kept_at = now

    def _is_news(self, record: NodeRecord) -> bool:
        written, age_s = self._written, time.monotonic() - self._written_at
        lost = self._state.connected and self._state.node not in self._state.nodes and age_s > _SEEN_WITHIN_S
        if written is None or lost:
            return True
        if age_s > _SESSIONS_EVERY_S:
            return record != written
        return replace(record, sessions_active=written.sessions_active) != written

    async def _write(self, record: NodeRecord) -> bool:
        """False when another process has the key."""
        lease, value = self._state.lease, node_value(record)
        holder = await self.servers.ask(lambda server: _put_own(server, self._key, value, lease))
        if holder is not None:
            name = self._state.node
            advice = "give one of the two another --node"
            self._failed(f'the name "{name}" is in use by {_who(name, holder)}: {advice}')
            return False
        self._written, self._written_at = record, time.monotonic()
        return True

    def _failed(self, reason: str) -> None:
        """Reported once a process of this name that crashed would be forgotten, and this one is."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since > self._ttl_s + _LOOK_EVERY_S and not self._reported:
            self._reported, self._registered = True, False
            fields: dict[str, object] = {"node": self._state.node, "reason": reason}
            self._events.emit("fleet_not_registered", fields, logging.WARNING)
        self._state.unregistered = reason

    def _succeeded(self) -> None:
        if not self._registered:
            self._events.emit("fleet_registered", {"node": self._state.node})
        self._registered = True
        self._failing_since, self._reported, self._state.unregistered = None, False, ""


async def _put_own(server: Etcd, key: str, value: bytes, lease: int) -> KeyValue | None:
    """None once it is written; otherwise the key of whoever has it."""
    put = put_op(key, value, lease)
    elsewise = txn_op([version_is(key, 0)], [put], [get_op(key)])
    done = await server.txn([lease_is(key, lease)], [put], [elsewise])
    inner = done.found[0] if done.found else []
    if done.succeeded or not isinstance(inner, Done) or inner.succeeded:
        return None
    return inner.kvs[0] if inner.kvs else KeyValue(key, b"")


def _who(node: str, kv: KeyValue) -> str:
    try:
        record = parse_node_record(node, kv.value)
    except ValueError:
        return "a key that no l4lb wrote"
    return f"process {record.pid}, started {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(record.started))} UTC"
