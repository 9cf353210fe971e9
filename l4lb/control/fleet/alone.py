"""Instead of `Fleet`, for a process that belongs to none: its configuration is from a file. Control loop only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from l4lb.config import Config
from l4lb.config.options.base import given
from l4lb.config.options.process import FleetConfig
from l4lb.control.state.events import Events
from l4lb.errors import ConfigError, Problem


class Alone:
    """`load` reads the configuration again; by default, the file that `config` is from."""

    def __init__(self, config: Config, load: Callable[[], Config] | None, events: Events) -> None:
        self._load = load or (lambda: _load_again(config))
        self._first, self._events = config, events

    async def read(self) -> Config:
        return await asyncio.to_thread(self._load)

    @contextlib.contextmanager
    def applying(self, config: Config) -> Iterator[None]:
        yield
        self._report_unused(config)

    def _report_unused(self, config: Config) -> None:
        """What a configuration says of a fleet, which is in a file."""
        if keys := [key for key in FleetConfig.model_fields if given(config.fleet, key)]:
            reason = "they have no effect: the configuration is not from etcd, so this process belongs to no fleet"
            fields: dict[str, object] = {"keys": ", ".join(f"fleet.{key}" for key in keys), "reason": reason}
            self._events.emit("fleet_options_unused", fields, logging.WARNING)

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def leave_to_successor(self) -> None:
        pass

    def start(self) -> None:
        self._report_unused(self._first)

    async def stop(self) -> None:
        pass


def _load_again(config: Config) -> Config:
    if not config.file:
        raise ConfigError([Problem("", "there is no file to reload: this instance was started without one")])
    return Config.load(config.file)
