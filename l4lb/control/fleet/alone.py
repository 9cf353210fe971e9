"""Instead of `Fleet`, for a process that belongs to none: its configuration is from a file. Control loop only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from l4lb.config import Config
from l4lb.errors import ConfigError, Problem


class Alone:
    """`load` reads the configuration again; by default, the file that `config` is from."""

    def __init__(self, config: Config, load: Callable[[], Config] | None) -> None:
        self._load = load or (lambda: _load_again(config))

    async def read(self) -> Config:
        return await asyncio.to_thread(self._load)

    def applying(self, config: Config) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def leave_to_successor(self) -> None:
        pass

    def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


def _load_again(config: Config) -> Config:
    if not config.file:
        raise ConfigError([Problem("", "there is no file to reload: this instance was started without one")])
    return Config.load(config.file)
