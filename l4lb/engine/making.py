"""The forwarder of a configuration."""

from __future__ import annotations

import contextlib
import os

from l4lb.config import Config
from l4lb.engine.engines import Engines
from l4lb.errors import ConfigError
from l4lb.model.forwarder import Pinning
from l4lb.net.cpus import usable_cpus, worker_count
from l4lb.net.limits import local_ports, raise_file_limit, sessions_for
from l4lb.net.privileges import identity_of


def native_forwarder(config: Config) -> Engines:
    """A forwarder with the workers and limits of `config`. Raises this process's file limit to its hard limit."""
    cpus = usable_cpus()
    settings = config.global_
    file_limit = raise_file_limit()
    return Engines(
        worker_count(settings.workers),
        max_sessions=sessions_for(file_limit) if settings.max_sessions == "auto" else settings.max_sessions,
        ports=local_ports() if settings.max_sessions == "auto" else 0,
        affinity=settings.worker_affinity,
        cpus=cpus,
        busy_poll_s=settings.busy_poll,
        pinning=_pinning(config),
    )


def _pinning(config: Config) -> Pinning | None:
    """ConfigError when nobody could find what is pinned."""
    settings = config.global_
    if config.file:
        owner = os.geteuid()
        with contextlib.suppress(ValueError):  # no such user: the process will not start
            owner = identity_of(settings.user, settings.group).uid if settings.user else owner
        return Pinning(config.file, settings.kernel_pin, owner)
    if settings.kernel_pin:
        reason = "there is no file, by whose path the next start would find what is pinned"
        raise ConfigError([config.problem(("global", "kernel_pin"), reason)])
    return None
