"""The process that this one replaces, from when everything here is up until the other one has exited: the other end
of `upgrade.py`. Control loop only.

A process that replaces none begins where the others end: everything is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from l4lb.control.process.inheritance import Received, receive_sessions
from l4lb.control.process.status import Status
from l4lb.control.process.supervision import Supervision
from l4lb.control.process.tcp_handover import Taken, counted_of, take_sessions
from l4lb.control.state.events import Events
from l4lb.model.forwarder import HandOver
from l4lb.net.handover import Channel, Message


class Claimable(Protocol):
    """Something that still belongs to the previous process until it is claimed: the admin API's socket."""

    def claim(self) -> None: ...


class Predecessor:
    """`channel` leads to it; None: there is none. `removed` is told of backends that sessions from there have and this
    configuration does not: a pool's name, its on_backend_removed there, their ids."""

    def __init__(
        self,
        channel: Channel | None,
        forwarder: HandOver,
        events: Events,
        status: Status,
        admin: Claimable,
        supervision: Supervision,
        removed: Callable[[str, str, list[str]], None],
    ) -> None:
        self._channel = channel
        self._forwarder = forwarder
        self._events = events
        self._status = status
        self._admin = admin
        self._supervision = supervision
        self._removed = removed
        self._has_all = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Call this when everything here is up."""
        if self._channel is not None:
            self._task = asyncio.create_task(self._replace(self._channel))
        else:
            self._go_on_alone()

    async def all_received(self) -> None:
        """Wait until this process has received everything from the previous one."""
        await self._has_all.wait()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _replace(self, channel: Channel) -> None:
        """Report ready, take its sessions, and follow its drain. When it ends without a message, everything belongs to
        this process too."""
        try:
            with contextlib.suppress(OSError):
                ready = {"kind": "ready", "tcp_format": self._forwarder.tcp.format}
                await asyncio.to_thread(channel.send, ready)
            received = await receive_sessions(channel)
            taken = Taken()
            if received.tcp:
                taken = await take_sessions(channel, self._forwarder.tcp, self._removed)
            self._forwarder.tcp.hold_clients(False)
            self._take_udp(received, taken)
            over = received.over or await self._until_mine(channel)
            self._forwarder.claim_sockets()
            self._admin.claim()
            self._go_on_alone()
            while not over and (message := await channel.wait_for_message()) is not None:
                said, _ = message
                self._status.predecessor = {"pid": said["pid"], "sessions_active": said["sessions_active"]}
        finally:
            self._status.predecessor = None
            channel.close()

    async def _until_mine(self, channel: Channel) -> bool:
        """Up to its last message before it drains; true when it has ended without one."""
        while (message := await channel.wait_for_message()) is not None:
            if not self._count_on(message[0]):
                return False
        return True

    def _count_on(self, said: Message) -> bool:
        """From what it has counted. False for another message."""
        if said.get("kind") != "counted":
            return False
        with contextlib.suppress(ValueError, LookupError, TypeError):  # another version counts otherwise
            self._forwarder.tcp.take_counted(counted_of(said))
        return True

    def _take_udp(self, received: Received, taken: Taken) -> None:
        count = self._forwarder.import_sessions(received.sessions, received.quic_ids)
        if taken.sessions or received.sessions:
            fields: dict[str, object] = {
                "sessions": taken.sessions + count,
                "ended": len(received.sessions) - count,
                "pause_ms": round(taken.pause_s * 1e3, 1),
            }
            self._events.emit("sessions_moved", fields)

    def _go_on_alone(self) -> None:
        self._has_all.set()
        self._supervision.start()
