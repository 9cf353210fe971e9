"""The control plane's life: start, run, drain, stop. All on the control loop's thread.

`start` either brings everything up or leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from l4lb.config import Config
from l4lb.config.rules.loops import loop_conflicts
from l4lb.control.admin.server import AdminServer
from l4lb.control.changes.applying import Applying, Subsystems
from l4lb.control.changes.environment import environment_problems
from l4lb.control.changes.lists import Lists
from l4lb.control.changes.names import Names
from l4lb.control.changes.resolution import NEW_NAMES_WITHIN_S, NamesIn, Resolution, Watchers
from l4lb.control.changes.session_cleanup import SessionCleanup
from l4lb.control.discovery.discovery import Discovery
from l4lb.control.fleet.alone import Alone
from l4lb.control.fleet.fleet import Fleet, Uses
from l4lb.control.health.agent import Agents
from l4lb.control.health.monitor import Monitor
from l4lb.control.health.passive import Passive
from l4lb.control.hooks.hooks import Hooks
from l4lb.control.hooks.modules import load_hooks
from l4lb.control.process.host import Host
from l4lb.control.process.inheritance import Inheritance, first_state
from l4lb.control.process.predecessor import Predecessor
from l4lb.control.process.restart import Restart
from l4lb.control.process.status import Status
from l4lb.control.process.supervision import Supervision
from l4lb.control.process.upgrade import Handed, Upgrade
from l4lb.control.publishing.listeners import listener_specs, now_still, prepare_listeners
from l4lb.control.publishing.reconciler import Reconciler
from l4lb.control.reporting import shapes
from l4lb.control.reporting.access_log import AccessLog
from l4lb.control.reporting.exposition import Metrics
from l4lb.control.reporting.gathered import Sources
from l4lb.control.reporting.outputs import Outputs, Reported
from l4lb.control.sessions.banning import Banning
from l4lb.control.sessions.draining import Draining
from l4lb.control.sessions.sessions import Sessions
from l4lb.control.sessions.tagging import Tagging
from l4lb.control.state.actor import by_whom
from l4lb.control.state.events import Events, FromThreads
from l4lb.control.state.state import BackendState, PoolState, State
from l4lb.control.state.state_file import StateFile
from l4lb.control.state.tags import SessionTags, TaggedRecords
from l4lb.control.watching import Watching
from l4lb.errors import ConfigError, L4lbError
from l4lb.model.changes import Changes
from l4lb.model.forwarder import Counted, Forwarder
from l4lb.model.states import Health, ProcessState
from l4lb.net.output.record_stream import RecordStream
from l4lb.net.resolving import Lookup, look_up

_POLL_S = 0.02


class ControlPlane:
    """Everything but the forwarding, for one `Config` and one forwarder, which it starts and closes.

    `load` reads the configuration again, for a reload; by default the file that `config` is from. `inheritance` is from
    the process that this one replaces, `host` the process that this runs in. `lookup` resolves a name.

    Its parts are made in the order in which they need each other. A part that must hear from one that was made before
    it subscribes to that one.
    """

    def __init__(
        self,
        config: Config,
        forwarder: Forwarder,
        load: Callable[[], Config] | None = None,
        inheritance: Inheritance | None = None,
        host: Host | None = None,
        lookup: Lookup = look_up,
    ) -> None:
        self.forwarder = forwarder
        self.host = host or Host()
        self.events = Events()

        # what is wanted and known at the start
        self.inheritance = inheritance or Inheritance()
        desired = self.inheritance.desired(config)
        self.state: State = first_state(desired, self.inheritance)
        self.names = Names(lookup)
        self.names.prime(self.inheritance.names)

        # what workers go by, and what is seen of backends
        self.cleanup = SessionCleanup(self.state, self.events, forwarder)
        self.tags = SessionTags()
        records = RecordStream(TaggedRecords(forwarder, self.tags))
        self.hooks = Hooks(self.state, self.tags, forwarder, records, FromThreads(self.events).emit)
        hooked = self.hooks.applied
        self.reconciler = Reconciler(self.state, forwarder, self.events, self.cleanup.removed, hooked=hooked)
        self.passive = Passive(self.state, self.events, forwarder, self._ejection_changed)
        self.monitor = Monitor(self.state, self.events, self._observed, self.passive.checked)
        self.agents = Agents(self.state, self.events, self._observed)

        # where this process reports to
        access_log = AccessLog(records, FromThreads(self.events).emit)
        self.sources = Sources(self.state, self.reconciler, self.monitor, forwarder, access_log, self.hooks.closing)
        self.outputs = Outputs(records, access_log, self.sources, self.events)

        # what changes it
        subsystems = Subsystems(self.monitor, self.agents, self.passive, self.cleanup, self.outputs)
        self.state_file = StateFile(self.events)
        self.applying = Applying(
            desired, self.state, forwarder, self.reconciler, self.events, subsystems, self.state_file.begin, self.names
        )
        self.resolution = Resolution(
            self.state,
            self.events,
            self.names,
            self.applying.one_at_a_time,
            Watchers(self.monitor, self.agents, self.passive),
            self.reconciler,
            forwarder,
        )
        self.discovery = Discovery(self.state, self.applying, self.events)
        self.lists = Lists(self.state, self.applying, self.events)
        self.sessions = Sessions(self.state, self.tags, forwarder, self.events)
        self.tagging = Tagging(self.tags, self.sessions, records)
        self.banning = Banning(self.state, self.applying, self.sessions, self.events)
        self.draining = Draining(
            self.state,
            forwarder,
            self.reconciler,
            self.applying,
            self.sessions,
            self.events,
            self.host.drain_asked,
        )

        # where the configuration is from
        origin, before = self.host.origin, self.inheritance.fleet
        self.fleet: Fleet | Alone = Alone(config, load, self.events)
        if origin is not None:
            uses = Uses(self.reload, self.reconciler, forwarder, self._observed, self.banning)
            self.fleet = Fleet(origin, self.state, self.events, uses, before)

        # who asks, and who is told
        self.status = Status(
            self.state, self.reconciler, self.monitor, forwarder, self.draining, self.sources, self.names
        )
        metrics = Metrics(self.sources)
        self.admin = AdminServer(config, self.status, self, self.events, metrics, self.inheritance.admin)
        self.supervision = Supervision(self.host.notifier, self.status, self.draining, self.events, forwarder)
        handed = Handed(self.state, self.tags, forwarder, self.applying, self.names, self.outputs)
        self.upgrading = Upgrade(handed, self.events, self.admin, self.host.successor)
        self.restart = Restart(handed, self.events, self.host.notifier, self.host.successor)
        self.predecessor = Predecessor(
            self.inheritance.channel,
            forwarder,
            self.tags,
            self.events,
            self.status,
            self.admin,
            self.supervision,
            self,
        )

        self.watching = Watching(forwarder, self.events, self.sources, self.resolution, self.tagging)
        self._stopped = False

    async def start(self) -> None:
        try:
            if problems := list(environment_problems(self.state.config)):
                raise ConfigError(problems)
            self.forwarder.tcp.epoch = self.inheritance.epoch
            self.forwarder.import_sockets(self.inheritance.sockets)
            if self.inheritance.kernel is not None:
                self.forwarder.import_kernel(self.inheritance.kernel)
            if self.inheritance.tcp_format == self.forwarder.tcp.format:
                self.forwarder.tcp.hold_clients(True)  # until the sessions of the other process are here
            outputs = self.outputs.prepare(self.state.config)  # on no other thread: see `_bind`
            try:
                self._bind()
            except BaseException:
                outputs.discard()
                raise
            if self.inheritance.channel is not None:
                await self.outputs.pause_statsd()  # until it is known what was sent of what was counted: `has_all`
            await self.outputs.commit(outputs)
            await self.discovery.start()
            await self._resolve()
            await self.hooks.start(load_hooks(self.state.config))
            self.forwarder.start()
            self.reconciler.reconcile()
            await self.admin.start()
        except BaseException:
            await self.stop()
            raise
        self.state.process = ProcessState.RUNNING
        self.monitor.start()
        self.passive.start()
        self.agents.start()
        self.lists.start()
        self.banning.start()
        self.watching.start()
        self.fleet.start()
        self._announce()
        self.host.started()
        self.predecessor.start()

    async def _resolve(self) -> None:
        """Names get a moment, all side by side: who has no address then is down until it has one."""
        names = NamesIn()(self.state.config)
        await self.names.look_up_new(names, NEW_NAMES_WITHIN_S)
        config = self.state.config
        if loops := list(loop_conflicts(config, resolve=self.names.hosts)):
            raise ConfigError([config.problem(path, message) for path, message in loops])
        await self.resolution.update_addresses()

    def _bind(self) -> None:
        """Everything that may need root; then be the user that the configuration names, before there is any other
        thread, which would keep no capability."""
        config = self.state.config
        if config.global_.user and self.host.identity is None:
            reason = "only `l4lb serve` changes its user: a program that embeds l4lb does so itself"
            raise ConfigError([config.problem(("global", "user"), reason)])
        now = now_still(self.state, self.state.listeners, self.applying.desired.drained)
        listeners = listener_specs(self.state.listeners, config.pools, now, self.state.banned)
        prepare_listeners(self.forwarder, config, listeners)
        self.admin.bind(self.host.identity)
        files = self.forwarder.socket_files()
        settings = config.global_
        logs = (path for path in (settings.log, settings.access_log, settings.state_file) if path.startswith("/"))
        self.host.give([*files, *(path for path in logs if os.path.exists(path))])
        self.host.chown_sockets(self.forwarder.chown_sockets)
        self.host.become_user(config)
        for path, reason in self.host.not_allowed(config, [*files, *self.admin.files()]):
            self.events.emit("not_allowed", {"path": path, "reason": reason}, logging.WARNING)

    def _observed(self, pool: PoolState, backend: BackendState) -> None:
        """What is known of a backend has changed: first nobody new goes there, then its sessions are seen to."""
        self.reconciler.request(lambda: self.cleanup.health_changed(pool, backend), (pool.name,))

    def _ejection_changed(self, pool: PoolState) -> None:
        self.reconciler.request(pools=(pool.name,))

    def _announce(self) -> None:
        self.reconciler.announce()
        self.watching.announce()
        if self.admin.address:
            self.events.emit("admin_listening", {"address": self.admin.address})

    def addresses(self, listener: str) -> list[str]:
        """Where `listener` really listens; empty once it no longer does."""
        counted = self.forwarder.stats().listeners.get(listener)
        return list(counted.addresses) if counted else []

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Stop accepting and wait for the sessions to end: True when none is left. At the latest after `timeout_s`;
        None: drain_timeout, or what a drain that was begun before has left."""
        await self.draining.begin(timeout_s)
        return await self.draining.wait() == 0

    # ---- changes of what is wanted: each returns when workers go by it, and raises when nothing has changed ----

    async def reload(self, config: Config | None = None) -> Changes:
        """`config`, or None for the file that this was started with, read again: see `Applying.reload`."""
        try:
            with self.supervision.reloading():
                config = await self.fleet.read() if config is None else config
                with self.fleet.applying(config):
                    changes = await self._apply(config)
        except L4lbError as error:
            self.sources.reloads_refused += 1
            for reason in error.problems if isinstance(error, ConfigError) else [error]:
                self.events.emit("reload_failed", {"reason": str(reason), **by_whom()}, logging.ERROR)
            raise
        self.sources.reloads_applied += 1
        return changes

    async def _apply(self, config: Config) -> Changes:
        async with self.hooks.configured(await asyncio.to_thread(load_hooks, config)):
            async with self.discovery.following(config) as found:
                return await self.applying.reload(config, found)

    def reopen_logs(self) -> None:
        """Open the access log's file again: it may have been renamed. Events say what came of it."""
        self.outputs.reopen()

    async def put_backend(self, pool: str, backend: str, settings: Mapping[str, Any]) -> tuple[shapes.Backend, bool]:
        """See `Applying.put_backend`. Returns what the status says of it, and whether it was added."""
        key, added = await self.applying.put_backend(pool, backend, settings)
        return self.status.backend(pool, key), added

    async def set_backend(self, pool: str, backend: str, settings: Mapping[str, Any]) -> None:
        """Of one that is there."""
        await self.applying.put_backend(pool, backend, settings, add=False)

    async def remove_backend(self, pool: str, backend: str, drain_s: float | None = None) -> shapes.Removed:
        """See `Applying.remove_backend`."""
        removed = await self.applying.remove_backend(pool, backend, drain_s)
        left = self.forwarder.sessions_of(pool, removed.key)
        return {"id": removed.key, "address": removed.address, "sessions_active": left}

    async def drain_backend(self, pool: str, backend: str, timeout_s: float) -> bool:
        """Give it no new session and wait for those that it has. True when none is left, at the latest after
        `timeout_s`; those that are left then go on."""
        key, _ = await self.applying.put_backend(pool, backend, {"admin_state": "drain"}, add=False)
        deadline = time.monotonic() + timeout_s
        while self.forwarder.sessions_of(pool, key) > 0:
            if time.monotonic() > deadline or self._stopped:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def upgrade(self) -> int:
        """Let a new process take over, see `Upgrade.upgrade`; its pid. This one leaves the admin API to it."""
        await self.predecessor.all_received()  # what this process is still to get it cannot hand on
        async with self.applying.one_at_a_time:  # what would change meanwhile would be lost
            with self.fleet.quiet():
                pid = await self.upgrading.upgrade()
            self.fleet.leave_to_successor()
            self.state.process = ProcessState.DRAINING
        self.supervision.name_successor(pid)
        self.admin.stop_accepting()
        self.upgrading.retire(pid)
        return pid

    async def keep_for_restart(self) -> bool:
        """At a restart by the service manager: see `Restart.keep`. If true, this process has only to end."""
        if not self.predecessor.is_over or not await self.restart.is_wanted():
            return False
        async with self.applying.one_at_a_time:  # what would change meanwhile would be lost
            kept = await self.restart.keep()
            if kept:
                self.fleet.leave_to_successor()
                self.state.process = ProcessState.DRAINING
        return kept

    # ---- what comes from the process before this one: see `l4lb.control.process.predecessor.Heir` ----

    def removed_before(self, pool: str, way: str, backends: list[str]) -> None:
        known = self.state.pools.get(pool)
        self.cleanup.removed(pool, known.config.on_backend_removed if known else way, backends)

    def count_on(self, counted: Counted, reported: Reported | None) -> None:
        self.forwarder.tcp.take_counted(counted)
        self.watching.know(self.forwarder.stats())
        self.outputs.resume_statsd(reported)

    def has_all(self) -> None:
        self.tagging.look_soon()
        self.outputs.resume_statsd(None)

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait until every backend is decided and every pool has a usable one. False after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self._ready():
            if time.monotonic() > deadline or self._stopped:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def _ready(self) -> bool:
        backends = (one for pool in self.state.pools.values() for one in pool.backends.values())
        decided = all(one.health is not Health.UNKNOWN for one in backends)
        return decided and self.reconciler.settled and not self.status.readiness()

    async def stop(self) -> None:
        """Idempotent. Sessions that are still there are reset; whoever waits in `drain` or `wait_ready` returns."""
        self._stopped = True
        await self.fleet.stop()
        self.sessions.stop()
        await self.draining.stop()
        await self.watching.stop()
        await self.predecessor.stop()
        await self.discovery.stop()
        self.names.stop()
        await self.lists.stop()
        await self.banning.stop()
        await self.resolution.stop()
        await self.upgrading.stop()
        await self.supervision.stop()
        await self.monitor.stop()
        await self.agents.stop()
        self.passive.stop()
        self.cleanup.stop()
        await self.reconciler.stop()
        await self.admin.stop()
        await asyncio.to_thread(self.hooks.stop)
        self.forwarder.close()
        await self.outputs.stop()
        await asyncio.to_thread(self.hooks.end)
