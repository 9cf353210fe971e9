"""The process that this one replaces, from when everything here is up until the other one has exited: the other end
of `upgrade.py`. Control loop only.

A process that replaces none begins where the others end: everything is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from l4lb.control.process.inheritance import receive_sessions
from l4lb.control.process.status import Status
from l4lb.control.process.supervision import Supervision
from l4lb.control.state.events import Events
from l4lb.model.forwarder import ExportedSession, HandOver, QuicIds
from l4lb.net.handover import Channel


class Claimable(Protocol):
    """Something that still belongs to the previous process until it is claimed: the admin API's socket."""

    def claim(self) -> None: ...


class Predecessor:
    """`channel` leads to it; None: there is none."""

    def __init__(
        self,
        channel: Channel | None,
        forwarder: HandOver,
        events: Events,
        status: Status,
        admin: Claimable,
        supervision: Supervision,
    ) -> None:
        self._channel = channel
        self._forwarder = forwarder
        self._events = events
        self._status = status
        self._admin = admin
        self._supervision = supervision
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
        """Report ready, take its UDP sessions, and follow its drain. When it ends without a message, everything belongs
        to this process too."""
        try:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(channel.send, {"kind": "ready"})
            received = await receive_sessions(channel)
            self._take_sessions(received.sessions, received.quic_ids)
            over = received.over or await channel.wait_for_message() is None  # or "yours"
            self._forwarder.claim_sockets()
            self._admin.claim()
            self._go_on_alone()
            while not over and (message := await channel.wait_for_message()) is not None:
                said, _ = message
                self._status.predecessor = {"pid": said["pid"], "sessions_active": said["sessions_active"]}
        finally:
            self._status.predecessor = None
            channel.close()

    def _take_sessions(self, sessions: Sequence[ExportedSession], quic_ids: Sequence[QuicIds]) -> None:
        count = self._forwarder.import_sessions(sessions, quic_ids)
        if sessions:
            self._events.emit("sessions_moved", {"sessions": count, "ended": len(sessions) - count})

    def _go_on_alone(self) -> None:
        self._has_all.set()
        self._supervision.start()
