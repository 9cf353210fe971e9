"""Listeners with when_no_backend = "refuse": they stop listening while no pool that they name has a usable backend, so
that a tier above sees it by its own check. Control loop only.

A backend is usable for this by the same rules as for sessions, except that one whose health is not known yet is not.
What flaps is kept down by the checks' own rise and fall.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from l4lb.control.publishing.pools import PoolView
from l4lb.control.state.events import Events
from l4lb.control.state.state import ListenerState, State
from l4lb.errors import ConfigError
from l4lb.model.address import SocketAddress
from l4lb.model.forwarder import Forwarding
from l4lb.model.states import ProcessState
from l4lb.net.privileges import may_write

_RETRY_S = 1.0
_POLL_S = 0.02


def _why(listener: ListenerState, pools: Mapping[str, PoolView]) -> str:
    """Why it refuses clients; empty when it is to accept."""
    names = listener.config.pools
    if listener.config.when_no_backend == "accept" or any(pools[name].serves for name in names):
        return ""
    listed = ", ".join(f'"{name}"' for name in names)
    return f"no usable backend in pool{'s' if len(names) > 1 else ''} {listed}"


def _cannot_return(listener: ListenerState) -> Iterator[str]:
    """Directories in which it could not make its unix socket again."""
    for address in listener.bind:
        if isinstance(address, SocketAddress) and address.host.startswith("/"):
            directory = Path(address.host).parent
            if not may_write(directory):
                yield str(directory)


class Refusing:
    def __init__(self, state: State, forwarder: Forwarding, events: Events) -> None:
        self._state = state
        self._forwarder = forwarder
        self._events = events
        self._failed: dict[str, tuple[str, float]] = {}  # why it could not listen again, and when to try it anew
        self._kept_open: set[str] = set()
        self._closing: asyncio.Task[None] | None = None

    def of(self, listeners: Mapping[str, ListenerState], pools: Mapping[str, PoolView]) -> dict[str, str]:
        """Those that are to refuse clients, and why."""
        now, found = time.monotonic(), {}
        self._failed = {name: one for name, one in self._failed.items() if name in listeners and now < one[1]}
        self._kept_open &= listeners.keys()
        for name, one in listeners.items():
            reason = _why(one, pools)
            if reason and name not in self._state.refusing and self._stays_open(one):
                continue
            if not reason and name in self._failed and name in self._state.refusing:
                reason = self._failed[name][0]
            if reason:
                found[name] = reason
        return found

    def _stays_open(self, listener: ListenerState) -> bool:
        if not (directories := list(_cannot_return(listener))):
            return False
        if listener.name not in self._kept_open:
            reason = f"it goes on accepting: it could not make its socket in {directories[0]} again"
            fields: dict[str, object] = {"listener": listener.name, "reason": reason}
            self._events.emit("listener_cannot_refuse", fields, logging.WARNING)
        self._kept_open.add(listener.name)
        return True

    def note_failures(self, error: ConfigError, refusing: Collection[str]) -> bool:
        """Publishing failed: those that were to listen again, and cannot, go on refusing for a while. False when the
        failure is none of theirs."""
        back = self._state.refusing.keys() - set(refusing)
        reasons = {name: one.message for name in back for one in error.problems if one.path == f"listeners.{name}.bind"}
        for name, reason in reasons.items():
            self._failed[name] = (f"it cannot listen again: {reason}", time.monotonic() + _RETRY_S)
        return bool(reasons)

    @property
    def retry_s(self) -> float | None:
        """How long from now somebody should try again to listen."""
        left = [until - time.monotonic() for _, until in self._failed.values()]
        return max(0.0, min(left)) if left else None

    def published(self, refusing: Mapping[str, str]) -> None:
        """Workers are to go by it from now on."""
        before, self._state.refusing = self._state.refusing, refusing
        for name, reason in self._state.refusing_now.items():
            if before.get(name) != reason:
                self._events.emit("listener_refusing", {"listener": name, "reason": reason}, logging.WARNING)
        back = (before.keys() & self._state.listeners.keys()) - refusing.keys() - self._state.drained
        if self._state.process is ProcessState.RUNNING:
            self.announce(back)
        if refusing.keys() - before.keys() and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._until_adopted())

    def announce(self, names: Collection[str]) -> None:
        """Emit where they listen."""
        for name, listener in self._state.listeners.items():
            if name in names:
                addresses = " ".join(self._forwarder.addresses(name))
                fields: dict[str, object] = {"listener": name, "address": addresses, "pool": listener.config.pool}
                self._events.emit("listening", fields)

    async def _until_adopted(self) -> None:
        """The forwarder suspends sockets as soon as it sees that no worker uses them any more."""
        while not self._forwarder.adopted():
            await asyncio.sleep(_POLL_S)
        self._closing = None

    async def stop(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            await asyncio.gather(self._closing, return_exceptions=True)
