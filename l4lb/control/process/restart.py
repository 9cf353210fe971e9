"""A restart by the service manager, which ends this process before it starts the next one. What an upgrade hands to a
process that runs, this gives to the manager to keep: listening sockets, sessions, what is known and counted. Sessions
stand still until the next process is up, and clients wait in the sockets' queues. Control loop only.

| | |
|---|---|
| the manager restarts this service and keeps descriptors | otherwise the process drains, as at any end |
| the same command would start, and knows sessions as this process does | likewise |
| sessions of UDP are let go of, clients held, sessions of TCP frozen | until the manager has all, they go on here |
| the manager has everything | the process forgets its sessions, adds what was counted, and ends |
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
from collections.abc import Sequence

from l4lb.control.process.host import Successor
from l4lb.control.process.inheritance import observed_by, send_inheritance, send_sessions, send_tags
from l4lb.control.process.tcp_handover import NotTaken, send_counted, store_sessions, until
from l4lb.control.process.upgrade import Handed, export_udp
from l4lb.control.state.events import Events
from l4lb.errors import UpgradeError
from l4lb.model.forwarder import ExportedSession
from l4lb.model.states import ProcessState
from l4lb.net.handover import close_all
from l4lb.net.stored import Store
from l4lb.net.systemd.sd_notify import Notifier
from l4lb.net.systemd.service_manager import keep, restarts_and_keeps

# Environment of a process that reads the configuration, says whether it could take over, and ends.
TRIAL = "L4LB_TRIAL_FORMAT"


class Restart:
    """`handed`: what goes from here to the next process. One at a time: the caller sees to that."""

    def __init__(self, handed: Handed, events: Events, notifier: Notifier, successor: Successor) -> None:
        self._handed = handed
        self._events = events
        self._notifier = notifier
        self._successor = successor

    async def is_wanted(self) -> bool:
        """Whether this process is to end by a restart, and the manager keeps what it is given."""
        if not self._notifier or self._handed.state.process is not ProcessState.RUNNING:
            return False
        return await asyncio.to_thread(restarts_and_keeps)

    async def keep(self) -> bool:
        """Whether everything is with the manager, so that this process has only to end. Otherwise nothing has
        changed."""
        sessions = self._handed.forwarder.stats().sessions_left
        try:
            await asyncio.to_thread(_try, self._successor, self._handed.forwarder.tcp.format)
            await self._keep(sessions)
        except (OSError, NotTaken, UpgradeError) as error:
            fields: dict[str, object] = {"sessions": sessions, "reason": str(error)}
            self._events.emit("sessions_not_kept", fields, logging.WARNING)
            return False
        self._events.emit("sessions_kept", {"sessions": sessions})
        return True

    async def _keep(self, sessions: int) -> None:
        handed = self._handed
        store = Store()
        try:
            seen = observed_by(handed.state, handed.names.answers())
            sockets, kernel = handed.forwarder.export_sockets(), handed.forwarder.export_kernel()
            # The admin API's socket is made anew: its file may be in a directory that ends with the service.
            send_inheritance(store, sockets, kernel, None, handed.applying.desired, seen, handed.numbers())
            exported = await export_udp(handed.forwarder)
            try:
                await self._keep_sessions(store, exported, sessions)
            except BaseException:
                store.discard()
                handed.forwarder.tcp.hold_clients(False)
                handed.forwarder.import_sessions(exported)
                raise
            close_all([one.fd for one in exported])
            handed.forwarder.give_up_sockets()
            with contextlib.suppress(OSError):  # the manager has the sessions: they go on from other numbers
                await self._add_counts(store)
        finally:
            store.close()

    async def _keep_sessions(self, store: Store, exported: Sequence[ExportedSession], sessions: int) -> None:
        handed = self._handed
        send_tags(store, handed.tags.all())
        send_sessions(store, exported, handed.forwarder.quic_ids(), tcp=True)
        await store_sessions(store, handed.leaving(sessions), lambda: keep(self._notifier, store.kept()))

    async def _add_counts(self, store: Store) -> None:
        handed = self._handed
        await until(handed.forwarder.tcp.settled)
        send_counted(store, handed.forwarder.tcp.counted(), await handed.outputs.pause_statsd())
        store.send({"kind": "yours"})


def _try(successor: Successor, tcp_format: int) -> None:
    """UpgradeError when the same command would not start, or would not know the sessions."""
    if successor.command is None:
        raise UpgradeError(successor.reason)
    environment = {**successor.environment(), TRIAL: str(tcp_format)}
    environment.pop("NOTIFY_SOCKET", None)
    try:
        done = subprocess.run(
            successor.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=successor.ready_within_s,
        )
    except subprocess.TimeoutExpired as error:
        raise UpgradeError(f"the next process would not start within {error.timeout:g} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise UpgradeError(f"the next process would not start: {said}")


def is_trial(tcp_format: int) -> bool:
    """Whether this process was started for `_try`. UpgradeError when it knows sessions in another format."""
    wanted = os.environ.pop(TRIAL, "")
    if wanted and wanted != str(tcp_format):
        raise UpgradeError("it is another version, which does not know these sessions")
    return bool(wanted)
