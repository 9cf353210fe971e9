"""Replaces this process by a new one: starts it, sends it the listening sockets, waits until it is ready; then this
process drains. Control loop only.

| this process | the new one |
|---|---|
| starts it, sends it sockets, runtime changes, health | receives them, starts, accepts |
| goes on as before | sends ``ready``, or ``failed`` with the reason, or ends, or sends nothing for too long |
| at ``ready``: sends its sessions, `tcp_handover.py` says how | reads no UDP socket before, accepts no TCP client |
| no longer owns the sockets' files, sends ``yours`` | owns them, notifies the service manager |
| drains, and reports its progress | shows that in its status |

The new process gets the same sockets, so either process serves the clients in their accept queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from l4lb.control.changes.applying import Applying
from l4lb.control.changes.names import Names
from l4lb.control.process.host import Successor
from l4lb.control.process.inheritance import observed_by, send_inheritance, send_sessions, send_tags
from l4lb.control.process.tcp_handover import Leaving, NotTaken, move_sessions, send_counted, until
from l4lb.control.reporting.outputs import Outputs
from l4lb.control.state.actor import by_whom
from l4lb.control.state.events import Events
from l4lb.control.state.state import State
from l4lb.control.state.tags import SessionTags
from l4lb.errors import UpgradeError
from l4lb.model.forwarder import ExportedSession, HandOver
from l4lb.model.states import ProcessState
from l4lb.net.handover import Channel, close_all
from l4lb.net.listen.admin_socket import AdminSocket

TAKEOVER_FD = "L4LB_TAKEOVER_FD"  # environment: the new process's end
_REPORT_EVERY_S = 0.5
_MOVED_WITHIN_S = 5.0  # workers do it in their next turn
_MOVED_POLL_S = 0.001


class HasSocket(Protocol):
    """The admin API's server."""

    @property
    def socket(self) -> AdminSocket | None: ...


@dataclass(frozen=True, slots=True)
class Handed:
    """What goes to the next process: sockets and sessions of `forwarder`, what is wanted by `applying`, what is known
    in `state` and of `names`; `outputs` go on there."""

    state: State
    tags: SessionTags
    forwarder: HandOver
    applying: Applying
    names: Names
    outputs: Outputs

    def removed_ways(self) -> dict[str, str]:
        """on_backend_removed by pool."""
        return {name: pool.config.on_backend_removed for name, pool in self.state.pools.items()}

    def numbers(self) -> dict[str, int]:
        tcp, fleet = self.forwarder.tcp, self.state.fleet
        of_fleet = {"fleet_lease": fleet.lease, "fleet_draining": int(fleet.draining)} if fleet else {}
        return {"epoch": tcp.epoch, "tcp_format": tcp.format, **of_fleet}

    def leaving(self, count: int) -> Leaving:
        return Leaving(self.forwarder.tcp, count, self.removed_ways(), self.tags)


async def export_udp(forwarder: HandOver) -> list[ExportedSession]:
    """The sessions of UDP, which workers have let go of. A worker that does not do so in time keeps them."""
    forwarder.begin_export()
    deadline = time.monotonic() + _MOVED_WITHIN_S
    while (sessions := forwarder.exported_sessions(anyway=time.monotonic() > deadline)) is None:
        await asyncio.sleep(_MOVED_POLL_S)
    return sessions


class Upgrade:
    """Hands on what is `handed`, and the socket of `admin`. One `upgrade` at a time: the caller sees to that."""

    def __init__(self, handed: Handed, events: Events, admin: HasSocket, successor: Successor) -> None:
        self.successor = successor
        self._handed = handed
        self._state = handed.state
        self._forwarder = handed.forwarder
        self._events = events
        self._admin = admin
        self._channel: Channel | None = None
        self._reporting: asyncio.Task[None] | None = None

    async def upgrade(self) -> int:
        """Let a new process take over, and return its pid. This process then has to be drained and stopped.

        UpgradeError when the new one does not start; this one then goes on as before.
        """
        try:
            pid = await self._upgrade(self.successor)
        except UpgradeError as error:
            self._events.emit("upgrade_failed", {"reason": str(error)}, logging.ERROR)
            raise
        self._events.emit("upgraded", {"pid": pid, **by_whom()})
        return pid

    async def _upgrade(self, successor: Successor) -> int:
        if successor.command is None:
            raise UpgradeError(successor.reason)
        if self._state.process is not ProcessState.RUNNING:
            raise UpgradeError(f"the process is {self._state.process}")
        return await self._replace(successor, successor.command)

    async def _replace(self, successor: Successor, command: Sequence[str]) -> int:
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        process = None
        try:
            with theirs:
                environment = {**successor.environment(), TAKEOVER_FD: str(theirs.fileno())}
                process = await asyncio.to_thread(_start, successor, command, environment, theirs.fileno())
            await self._transfer(channel, process, successor.ready_within_s)
        except BaseException as error:
            if process is not None:
                await asyncio.to_thread(_end, process)  # first: it would take the end of the channel for ours
            channel.close()
            if isinstance(error, OSError):
                raise UpgradeError(f"{command[0]}: cannot be started: {error.strerror or error}") from error
            raise
        self._channel = channel
        return process.pid

    async def _transfer(self, channel: Channel, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        sockets, kernel = self._forwarder.export_sockets(), self._forwarder.export_kernel()
        admin, desired = self._admin.socket, self._handed.applying.desired
        seen = observed_by(self._state, self._handed.names.answers())
        try:
            numbers = self._handed.numbers()
            await asyncio.to_thread(send_inheritance, channel, sockets, kernel, admin, desired, seen, numbers)
            said, _ = await asyncio.to_thread(channel.receive, timeout_s)
        except TimeoutError:
            raise UpgradeError(f"the new process (pid {process.pid}) was not ready within {timeout_s:g} s") from None
        except OSError:
            code = await asyncio.to_thread(_exit_code, process)
            raise UpgradeError(f"the new process (pid {process.pid}) ended with exit code {code}") from None
        if said["kind"] != "ready":
            raise UpgradeError(f"the new process (pid {process.pid}) could not start: {said.get('reason', said)}")
        if self._state.process is not ProcessState.RUNNING:
            raise UpgradeError(f"the process is {self._state.process}: it was told to end meanwhile")
        await self._move_sessions(channel, process, tcp=said.get("tcp_format") == self._forwarder.tcp.format)
        self._forwarder.give_up_sockets()
        if admin is not None:
            admin.give_up()

    async def _move_sessions(self, channel: Channel, process: subprocess.Popen[bytes], *, tcp: bool) -> None:
        """Move the sessions; on failure all stay here as before. Without `tcp`, those of TCP drain here: the new
        process knows them in another format."""
        sessions = await export_udp(self._forwarder)
        try:
            if tcp:
                await asyncio.to_thread(send_tags, channel, self._handed.tags.all())
            await asyncio.to_thread(send_sessions, channel, sessions, self._forwarder.quic_ids(), tcp=tcp)
            if tcp:
                await self._move_tcp(channel, process)
        except BaseException as error:
            self._forwarder.tcp.hold_clients(False)
            self._forwarder.import_sessions(sessions)
            if isinstance(error, OSError):
                raise UpgradeError(f"the new process (pid {process.pid}) did not take over: {error}") from error
            raise
        close_all([one.fd for one in sessions])
        if not tcp:
            self._stay("the new process has another version")

    async def _move_tcp(self, channel: Channel, process: subprocess.Popen[bytes]) -> None:
        leaving = self._handed.leaving(self._forwarder.stats().sessions_left)
        try:
            await move_sessions(channel, leaving, lambda: _end(process))
        except NotTaken as error:
            self._stay(str(error))
        else:
            await self._move_counts(channel)

    async def _move_counts(self, channel: Channel) -> None:
        """What has been counted here counts there from now on. OSError when that process, with all sessions, is gone;
        one that is merely slow counts anew."""
        with contextlib.suppress(TimeoutError):  # of a worker that hangs
            await until(self._forwarder.tcp.settled)
        reported = await self._handed.outputs.pause_statsd()
        try:
            await asyncio.to_thread(send_counted, channel, self._forwarder.tcp.counted(), reported)
        except TimeoutError:
            channel.close()
        except BaseException:
            self._handed.outputs.resume_statsd(reported)
            raise

    def _stay(self, reason: str) -> None:
        if left := self._forwarder.stats().sessions_left:
            self._events.emit("sessions_stay", {"sessions": left, "reason": reason}, logging.WARNING)

    def retire(self, pid: int) -> None:
        """Call this after `upgrade`: tells the new process that everything is its own, then reports this drain's
        progress to it."""
        if self._channel is not None:
            self._reporting = asyncio.create_task(self._report_drain(self._channel))
        self.successor.replaced(pid)

    async def _report_drain(self, channel: Channel) -> None:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(channel.send, {"kind": "yours"})
            while True:
                left = self._forwarder.stats().sessions_left
                said = {"kind": "draining", "pid": os.getpid(), "sessions_active": left}
                await asyncio.to_thread(channel.send, said)
                await asyncio.sleep(_REPORT_EVERY_S)

    async def stop(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.gather(self._reporting, return_exceptions=True)
        if self._channel is not None:
            self._channel.close()


def _start(
    successor: Successor, command: Sequence[str], environment: dict[str, str], fd: int
) -> subprocess.Popen[bytes]:
    with successor.lending():
        return subprocess.Popen(command, env=environment, pass_fds=[fd])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(5)
    except subprocess.TimeoutExpired:
        return None
