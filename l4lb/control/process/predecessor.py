"""The process that this one replaces, from when everything here is up until the other one has exited: the other end
of `upgrade.py`. Control loop only.

A process that replaces none begins where the others end: everything is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from l4lb.control.process.inheritance import Received, receive_sessions
from l4lb.control.process.status import Status
from l4lb.control.process.supervision import Supervision
from l4lb.control.process.tcp_handover import NOT_OURS, Taken, Taking, counted_of, reported_of, take_sessions
from l4lb.control.reporting.outputs import Reported
from l4lb.control.state.events import Events
from l4lb.control.state.tags import SessionTags
from l4lb.model.forwarder import Counted, HandOver
from l4lb.net.handover import Channel, Message


class Claimable(Protocol):
    """Something that still belongs to the previous process until it is claimed: the admin API's socket."""

    def claim(self) -> None: ...


class Heir(Protocol):
    """What is to hear of what comes from there."""

    def removed_before(self, pool: str, way: str, backends: list[str]) -> None:
        """Sessions have backends that are not in this configuration: a pool's name, its on_backend_removed there, and
        their ids."""

    def count_on(self, counted: Counted, reported: Reported | None) -> None:
        """From what it has counted, and what it has reported of that. ValueError for what another version means."""

    def has_all(self) -> None:
        """Nothing more comes that this process depends on."""


class Predecessor:
    """`channel` leads to it; None: there is none."""

    def __init__(
        self,
        channel: Channel | None,
        forwarder: HandOver,
        tags: SessionTags,
        events: Events,
        status: Status,
        admin: Claimable,
        supervision: Supervision,
        heir: Heir,
    ) -> None:
        self._channel = channel
        self._forwarder = forwarder
        self._tags = tags
        self._events = events
        self._status = status
        self._admin = admin
        self._supervision = supervision
        self._heir = heir
        self._has_all = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Call this when everything here is up."""
        if self._channel is not None:
            self._task = asyncio.create_task(self._replace(self._channel))
        else:
            self._go_on_alone()

    @property
    def is_over(self) -> bool:
        return self._has_all.is_set()

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
            for session_id, tags in received.tags.items():
                self._tags.keep(session_id, tags)
            taken = await self._take_tcp(channel) if received.tcp else Taken()
            self._take_udp(received, taken)
            over = received.over or await self._until_mine(channel)
            self._forwarder.claim_sockets()
            self._admin.claim()
            self._go_on_alone()
            while not over and (message := await channel.wait_for_message()) is not None:
                said, _ = message
                self._status.predecessor = {"pid": said["pid"], "sessions_active": said["sessions_active"]}
        finally:
            self._forwarder.tcp.hold_clients(False)
            self._status.predecessor = None
            channel.close()

    async def _take_tcp(self, channel: Channel) -> Taken:
        taken = await take_sessions(channel, Taking(self._forwarder.tcp, self._tags, self._heir.removed_before))
        self._forwarder.tcp.hold_clients(False)
        return taken

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
        with contextlib.suppress(*NOT_OURS):  # another version counts otherwise
            self._heir.count_on(counted_of(said), reported_of(said))
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
        self._heir.has_all()
        self._supervision.start()
