"""A configuration as TOML that loads again to an equal one: what was given, with units, without what is a default."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from l4lb.config.options.discovery import HOLD_DOWN_S
from l4lb.config.options.listener import UDP_IDLE_S
from l4lb.config.options.models import Options
from l4lb.config.options.units import AS_WRITTEN
from l4lb.errors import ConfigError, Problem
from l4lb.model.states import Protocol


def toml_of(config: Options) -> str:
    """ConfigError for what TOML does not have, such as a None in the options of a health check."""
    import tomli_w  # here: only who dumps needs it

    given = config.model_dump(by_alias=True, exclude_unset=True, context=AS_WRITTEN)
    _leave_defaults_of_udp(config, given)
    _leave_defaults_of_types(config, given)
    try:
        return tomli_w.dumps(_plain(given))
    except (TypeError, ValueError) as error:
        raise ConfigError([Problem("", f"cannot be written as TOML: {error}")]) from None


def _leave_defaults_of_udp(config: Options, given: dict[str, Any]) -> None:
    """What the models set for UDP was not given, and follows again from what was."""
    for name, listener in config.listeners.items():
        if listener.protocol is Protocol.UDP and listener.idle_timeout == UDP_IDLE_S:
            given["listeners"][name].pop("idle_timeout", None)
    for name, pool in config.pools.items():
        health = given["pools"][name].get("health")
        if health and pool.health.type == "none" and config.protocols_of(name) == {Protocol.UDP}:
            health.pop("type", None)
            if not health:
                del given["pools"][name]["health"]


def _leave_defaults_of_types(config: Options, given: dict[str, Any]) -> None:
    """The same for sources of backends."""
    for name, pool in config.pools.items():
        source = pool.discovery
        if source is not None and source.hold_down == HOLD_DOWN_S.get(source.type):
            given["pools"][name]["discovery"].pop("hold_down", None)


def _plain(value: Any) -> Any:
    """In the types that TOML has. None is left out: it stands for options that are off by default."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.value if isinstance(value, Enum) else value
