"""For `l4lb check`: the problems that `l4lb serve` would meet on this host, as this user. Starts nothing. What may
differ on another host, or later, is a warning."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from l4lb.config import Config
from l4lb.config.options.callables import load_record_sink
from l4lb.config.options.reporting import record_sink_of
from l4lb.config.rules.loops import Hosts, loop_conflicts
from l4lb.control.changes.in_kernel import kernel_problems
from l4lb.errors import RAISED_BY_OTHERS, Problem
from l4lb.net.address import name_of, parse_address
from l4lb.net.output.record_sink import made_record_sink
from l4lb.net.resolving import Answer, Lookup, Lookups, NotResolved, look_up
from l4lb.net.services.kubernetes import NOT_IN_A_CLUSTER, cluster_endpoint

_WITHIN_S = 5.0
Key = tuple[str | int, ...]


def preflight(config: Config, lookup: Lookup = look_up) -> tuple[list[Problem], list[Problem]]:
    """Errors and warnings."""
    named = list(_named(config))
    found = _look_up({name for _, _, name in named}, lookup)
    hosts: dict[str, Hosts] = {name: one.hosts for name, one in found.items() if isinstance(one, Answer)}
    loops = loop_conflicts(config, resolve=lambda name: hosts.get(name, ()))
    warnings = [
        config.problem(path, f'"{text}": name {name} does not resolve: {found[name]}')
        for path, text, name in named
        if name not in hosts
    ]
    warnings += [
        config.problem(path, message)
        for path, message in (
            *_places(config),
            *_sources(config),
            *kernel_problems(config),
            *_unused(config),
            *_slow_checks(config),
        )
    ]
    return [config.problem(path, message) for path, message in (*loops, *_record_sinks(config))], warnings


def _record_sinks(config: Config) -> Iterator[tuple[Key, str]]:
    """A sink of another package says what is wrong with its options when it is made; it connects later."""
    settings = config.global_
    name = record_sink_of(settings.access_log)
    if name is None:
        return
    try:
        made = made_record_sink(load_record_sink(name), settings.access_log_options)
    except ValueError as error:
        yield ("global", "access_log"), f'"{settings.access_log}": cannot be opened: {error}'
        return
    try:
        made.close()
    except RAISED_BY_OTHERS as error:
        yield ("global", "access_log"), f'"{settings.access_log}": cannot be closed: {type(error).__name__}: {error}'


def _named(config: Config) -> Iterator[tuple[Key, str, str]]:
    """Everything that has to be looked up: its key, the address, the name."""
    for pool, one in config.pools.items():
        for index, backend in enumerate(one.backends):
            yield from _one_name(("pools", pool, "backends", index), backend.address)
        yield from _one_name(("pools", pool, "health", "address"), one.health.address)
    for listener, settings in config.listeners.items():
        for index, bind in enumerate(settings.bind):
            yield from _one_name(("listeners", listener, "bind", index), bind)
    if config.admin.bind != "off":
        yield from _one_name(("admin", "bind"), config.admin.bind)
    if config.global_.statsd != "off":
        yield from _one_name(("global", "statsd"), config.global_.statsd)
    if "syslog" in (config.global_.log, config.global_.access_log):
        yield from _one_name(("global", "syslog"), config.global_.syslog)


def _one_name(path: Key, text: str) -> Iterator[tuple[Key, str, str]]:
    if text and (name := name_of(text)):
        yield path, text, name


def _look_up(names: set[str], lookup: Lookup) -> Mapping[str, Answer | NotResolved]:
    """All at once, within _WITHIN_S."""
    found: dict[str, Answer | NotResolved] = {}
    more = threading.Condition()

    def done(name: str, answer: Answer | NotResolved) -> None:
        with more:
            found[name] = answer
            more.notify()

    lookups, deadline = Lookups(lookup), time.monotonic() + _WITHIN_S
    for name in names:
        lookups.begin(name, done)
    with more:
        while len(found) < len(names) and (left_s := deadline - time.monotonic()) > 0:
            more.wait(left_s)
        lookups.close()
        return {name: found.get(name) or NotResolved(f"no answer within {_WITHIN_S:g} s") for name in names}


# ---- what works, and is hardly meant ----


def _unused(config: Config) -> Iterator[tuple[Key, str]]:
    """Pools that no listener names. A hook may name any."""
    used = {pool for listener in config.listeners.values() for pool in listener.pools}
    if not config.hooks.module:
        for name in [one for one in config.pools if one not in used]:
            yield ("pools", name), "no listener uses it"


def _slow_checks(config: Config) -> Iterator[tuple[Key, str]]:
    for name, pool in config.pools.items():
        health = pool.health
        if health.type != "none" and health.timeout > health.interval:
            why = f"above interval ({health.interval:g} s): a backend that does not answer is found late"
            message = f"{health.timeout:g} s, {why}"
            yield ("pools", name, "health", "timeout"), message


# ---- places ----


def _places(config: Config) -> Iterator[tuple[Key, str]]:
    settings = config.global_
    for key in ("log", "access_log"):
        path = getattr(settings, key)
        if path.startswith("/") and (reason := _cannot_append(Path(path))):
            yield ("global", key), f'"{path}": {reason}'
    if settings.state_file and (reason := _cannot_make_files(Path(settings.state_file).resolve().parent)):
        yield ("global", "state_file"), f'"{settings.state_file}": {reason}'
    for name, listener in config.listeners.items():
        for index, bind in enumerate(listener.bind):
            if reason := _cannot_bind(bind, made=False):
                yield ("listeners", name, "bind", index), f'"{bind}": {reason}'
    if config.admin.bind not in ("", "off") and (reason := _cannot_bind(config.admin.bind, made=True)):
        yield ("admin", "bind"), f'"{config.admin.bind}": {reason}'


def _sources(config: Config) -> Iterator[tuple[Key, str]]:
    """Sources of backends that would begin without an answer."""
    for name, pool in config.pools.items():
        source = pool.discovery
        if source is None:
            continue
        for key in ("path", "password_file", "token_file", "ca_file", "cert_file", "key_file"):
            path = getattr(source, key)
            if path and not os.access(path, os.R_OK, effective_ids=True):
                yield ("pools", name, "discovery", key), f'"{path}": is not there, or this user may not read it'
        if source.command and shutil.which(source.command[0]) is None:
            message = f'"{source.command[0]}": is not there, or this user may not run it'
            yield ("pools", name, "discovery", "command"), message
        if source.type == "kubernetes" and not source.endpoints and not cluster_endpoint():
            yield ("pools", name, "discovery", "endpoints"), f"there are none, and here {NOT_IN_A_CLUSTER}"


def _cannot_append(path: Path) -> str:
    if path.is_dir():
        return "is a directory, expected a file"
    if path.exists():
        return "" if os.access(path, os.W_OK, effective_ids=True) else "this user may not write to it"
    return _cannot_make_files(path.parent)


def _cannot_make_files(directory: Path) -> str:
    if not directory.exists():
        return f"there is no directory {directory}"
    if not directory.is_dir():
        return f"{directory} is not a directory"
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return f"this user may not write to {directory}"
    return ""


def _cannot_bind(text: str, *, made: bool) -> str:
    """Why a unix socket cannot be created there. `made`: l4lb creates its directory when it is missing."""
    address = parse_address(text)
    if address.kind != "unix" or address.host.startswith("@"):
        return ""
    path = Path(address.host)
    if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
        return "something that is no socket is in the way"
    directory = path.parent
    while made and not directory.exists():
        directory = directory.parent
    return _cannot_make_files(directory)
