"""What the process around a balancer provides: its service manager, its successor, the user that it is to become. A
program that embeds a balancer provides none of these: they are its own matter.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from l4lb.config import Config
from l4lb.control.fleet.reading import Origin
from l4lb.errors import ConfigError
from l4lb.net.privileges import (
    NET_ADMIN,
    NET_BIND_SERVICE,
    NET_RAW,
    Identity,
    become,
    cannot_become,
    identity_of,
    may_write,
)
from l4lb.net.systemd.sd_notify import Notifier

READY_WITHIN_S = 60.0


def needed_capabilities(config: Config) -> set[int]:
    """The capabilities needed after everything is bound: reloads may bind low ports, sockets use clients' addresses
    and get filters."""
    transparent = any(listener.transparent for listener in config.listeners.values())
    as_client = any(pool.source_address == "client" for pool in config.pools.values())
    raw = {NET_RAW} if transparent or as_client else set()
    drops = {NET_ADMIN} if any(listener.drops for listener in config.listeners.values()) else set()
    return {NET_BIND_SERVICE} | raw | drops


@dataclass(slots=True)
class Successor:
    """How to start the process that takes over. `command` None: this process cannot be replaced (`reason`).

    It starts on another thread, within `lending`, which may give it capabilities of that thread; `replaced` is called
    with its pid once it has taken over.
    """

    command: Sequence[str] | None = None
    reason: str = "only a process of `l4lb serve` can be replaced by another"
    ready_within_s: float = READY_WITHIN_S
    environment: Callable[[], dict[str, str]] = lambda: dict(os.environ)
    lending: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    replaced: Callable[[int], None] = field(default=lambda pid: None)


@dataclass(slots=True)
class Host:
    """`identity` None: the process keeps its user; `origin` None: it belongs to no fleet. `drain_asked` is called when
    the admin API has begun to drain the process, which then has to end; `started` once everything is up, before
    sessions of another process come."""

    notifier: Notifier = field(default_factory=Notifier)
    identity: Identity | None = None
    successor: Successor = field(default_factory=Successor)
    origin: Origin | None = None
    drain_asked: Callable[[], None] = lambda: None
    started: Callable[[], None] = lambda: None

    @classmethod
    def of_process(cls, config: Config) -> Host:
        """For this process and the user in `config`. Call it before threads start: if the process is that user already,
        as after an upgrade, all threads get its few capabilities. ConfigError when there is no such user."""
        host = cls(Notifier.from_environment(), _identity(config))
        if host.identity is not None and host.identity.is_current:
            host.become_user(config)
        return host

    def become_user(self, config: Config) -> None:
        """See `l4lb.net.privileges.become`. ConfigError when that is not allowed."""
        if self.identity is None:
            return
        try:
            become(self.identity, needed_capabilities(config))
        except OSError as error:
            raise ConfigError([config.problem(("global", "user"), cannot_become(self.identity, error))]) from error

    def give(self, paths: Sequence[str]) -> None:
        """Give files that this process made to the user that it becomes."""
        if self.identity is not None and os.geteuid() == 0:
            for path in paths:
                os.chown(path, self.identity.uid, self.identity.gid, follow_symlinks=False)

    def chown_sockets(self, give: Callable[[int, int], None]) -> None:
        """The listening sockets, to who this process becomes; `give` does it. Without CAP_CHOWN (EPERM) they stay
        root's, and an address that overlaps theirs cannot be had later, which is an error then."""
        if self.identity is not None and os.geteuid() == 0:
            with contextlib.suppress(PermissionError):
                give(self.identity.uid, self.identity.gid)

    def not_allowed(self, config: Config, files: Sequence[str]) -> Iterator[tuple[str, str]]:
        """What the new user may not do, as (path, reason). `files` are to be removed at the end."""
        if self.identity is None:
            return
        name = self.identity.name
        lists = (file.path for listener in config.listeners.values() for file in listener.access.files)
        own = self.origin.place.files if self.origin is not None else [config.file] if config.file else []
        for path in (*own, *lists):
            if not os.access(path, os.R_OK, effective_ids=True):
                yield path, f"user {name} may not read it: reloads and upgrades will fail"
        cache = self.origin.place.cache if self.origin is not None else ""
        if cache and not may_write(Path(cache).parent):
            yield cache, f"user {name} may not write there: no copy of the configuration is kept"
        for path in files:
            if not may_write(Path(path).parent):
                yield path, f"user {name} may not remove files there: it stays when this process ends"


def _identity(config: Config) -> Identity | None:
    settings = config.global_
    try:
        return identity_of(settings.user, settings.group) if settings.user else None
    except ValueError as error:
        raise ConfigError([config.problem(("global", "user"), str(error))]) from error
