"""What a configuration needs from the process that runs it: checked at the start and at each reload. `l4lb check`,
which may run elsewhere, only warns about it."""

from __future__ import annotations

from collections.abc import Iterator

from l4lb.config import Config
from l4lb.errors import Problem
from l4lb.net.environment import TRANSPARENT_CAPABILITY, can_be_transparent, namespace_name, why_not_source


def needs_transparent(config: Config) -> bool:
    """Whether anything in it needs TRANSPARENT_CAPABILITY for as long as it runs."""
    listeners = any(listener.transparent for listener in config.listeners.values())
    return listeners or any(pool.source_address == "client" for pool in config.pools.values())


def source_problems(config: Config) -> Iterator[Problem]:
    """Source addresses that this host cannot connect from."""
    for name, pool in config.pools.items():
        source = pool.source_address
        if source and source != "client" and (reason := why_not_source(source)):
            yield config.problem(("pools", name, "source_address"), f'"{source}": {reason}')


def environment_problems(config: Config) -> Iterator[Problem]:
    """What this process cannot do. For listeners, opening their sockets shows that."""
    transparent = [name for name, pool in config.pools.items() if pool.source_address == "client"]
    if transparent and not can_be_transparent():
        for name in transparent:
            yield config.problem(
                ("pools", name, "source_address"), f'"client": needs {TRANSPARENT_CAPABILITY}, which this process lacks'
            )
    yield from source_problems(config)
    for name, pool in config.pools.items():
        if "netns" in pool.send_proxy_tlvs and not namespace_name():
            message = "netns: this process is in no network namespace that has a name (ip-netns(8))"
            yield config.problem(("pools", name, "send_proxy_tlvs"), message)
