"""Finds what has to change in the running state to reach the desired one, and checks all of it before anything is
touched.

Looks names up, which may take long: on any thread, while nothing else changes the desired state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from l4lb.config import Backend, Config, Listener, Pool
from l4lb.config.rules.loops import loop_conflicts
from l4lb.control.changes.environment import environment_problems
from l4lb.control.changes.names import Names
from l4lb.control.checks.checks import Target
from l4lb.control.health.monitor import pool_targets
from l4lb.control.state.state import ListenerState, Location, PoolState, State, bind_of, source_of
from l4lb.errors import ConfigError, Problem
from l4lb.model.address import SocketAddress

# What a process reads only when it starts: a change applies from the next start or upgrade on.
STARTED_WITH = {
    "global_": ("workers", "worker_affinity", "busy_poll", "max_sessions", "user", "group", "kernel_pin"),
    "admin": ("bind", "token_file", "dashboard"),
    "fleet": ("node_ttl",),
}


@dataclass(frozen=True, slots=True)
class BackendPlan:
    config: Backend
    place: Location


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A pool that is new or differs. `positions` of all its backends in the configuration, by id, sorted by that.
    `backends` are those to look at, by id: what is new or configured in another way, or all of them when more differs
    than backends; `targets` of those that are checked."""

    name: str
    config: Pool
    source: SocketAddress | None
    positions: Mapping[str, int]
    backends: Mapping[str, BackendPlan]
    targets: Mapping[str, Target]


@dataclass(frozen=True, slots=True)
class Plan:
    """`pools` holds those that are new or differ, `listeners` all; an unchanged one is the same object as before."""

    config: Config
    pools: tuple[PoolPlan, ...]
    listeners: Mapping[str, ListenerState]


def _place(entry: Backend, pool: PoolState | None, names: Names) -> Location:
    """A backend that stays is where it is."""
    known = pool.backends.get(entry.key) if pool else None
    if known is not None and known.config.address == entry.address:
        return Location(known.address, known.unresolved)
    return names.location(entry.address)


@contextlib.contextmanager
def _noting(problems: list[Problem], config: Config, *path: str) -> Iterator[None]:
    """A ValueError in here becomes one of `problems`, at `path`."""
    try:
        yield
    except ValueError as error:
        problems.append(config.problem(path, str(error)))


def _pool_plan(name: str, config: Config, running: PoolState | None, names: Names, problems: list[Problem]) -> PoolPlan:
    """Use the result only when it added no problem."""
    pool, source = config.pools[name], None
    targets: dict[str, Target] = {}
    with _noting(problems, config, "pools", name, "source_address"):
        source = source_of(pool)
    entries = {entry.key: entry for entry in pool.backends}
    positions = {key: position for position, key in enumerate(entries)}
    looked_at = _looked_at(entries, pool, source, running)
    backends = {key: BackendPlan(entries[key], _place(entries[key], running, names)) for key in looked_at}
    with _noting(problems, config, "pools", name, "health"):
        targets = pool_targets(name, pool, source, _addresses(backends))
    return PoolPlan(name, pool, source, {key: positions[key] for key in sorted(positions)}, backends, targets)


def _looked_at(
    entries: Mapping[str, Backend], pool: Pool, source: SocketAddress | None, running: PoolState | None
) -> list[str]:
    """The ids of new backends, and of those that are not the same object as in the running configuration; all of them
    when the pool's own settings differ."""
    if running is None or source != running.source or _own_settings(pool) != _own_settings(running.config):
        return list(entries)
    there = {key: one.config for key, one in running.backends.items()}
    return [key for key, entry in entries.items() if there.get(key) is not entry]


def _own_settings(pool: Pool) -> dict[str, object]:
    """Without its backends."""
    return {option: getattr(pool, option) for option in type(pool).model_fields if option != "backends"}


def _addresses(backends: Mapping[str, BackendPlan]) -> dict[str, SocketAddress]:
    """Of those that have one."""
    return {key: one.place.address for key, one in backends.items() if not one.place.unresolved}


def _differs(plan: PoolPlan, running: PoolState) -> bool:
    if plan.config != running.config or plan.source != running.source:
        return True
    return any(running.backends[key].address != backend.place.address for key, backend in plan.backends.items())


def _listener(name: str, config: Listener, running: ListenerState | None) -> ListenerState:
    wanted = ListenerState(name, config, bind_of(config))
    return running if running is not None and running == wanted else wanted


def plan_changes(config: Config, state: State, names: Names, *, everything: bool) -> Plan:
    """From `state` to `config`. `names` say where a new backend is.

    ConfigError, with every problem, for listeners' names that do not resolve, backends that cannot be checked, and with
    `everything` for what this process may not do.
    """
    problems: list[Problem] = [*environment_problems(config)] if everything else []
    pools: list[PoolPlan] = []
    listeners: dict[str, ListenerState] = {}
    for name, pool in config.pools.items():
        running = state.pools.get(name)
        if running is not None and running.config is pool:
            continue
        plan = _pool_plan(name, config, running, names, problems)
        loops = loop_conflicts(config, [name], names.hosts, state.config)
        problems += [config.problem(path, message) for path, message in loops]
        if not problems and (running is None or _differs(plan, running)):
            pools.append(plan)
    for name, listener in config.listeners.items():
        known = state.listeners.get(name)
        with _noting(problems, config, "listeners", name, "bind"):
            listeners[name] = known if known and known.config is listener else _listener(name, listener, known)
    if problems:
        raise ConfigError(problems)
    return Plan(config, tuple(pools), listeners)


def needs_restart(started: Config, wanted: Config) -> list[str]:
    """The keys that differ and that a running process cannot change, such as ``global.workers``."""
    return [
        f"{section.rstrip('_')}.{key}"
        for section, keys in STARTED_WITH.items()
        for key in keys
        if getattr(getattr(started, section), key) != getattr(getattr(wanted, section), key)
    ]
