"""`Config`: the options, with the ways to read them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from l4lb.config.options.models import Options
from l4lb.config.reading import loader
from l4lb.config.reading.flags import Flags
from l4lb.errors import ConfigError


class Config(Options):
    """A whole configuration. `Config.load` reads a file, `Config.loads` a string; the constructor takes models."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read and check the TOML file at `path`. Raises `l4lb.errors.ConfigError` with every problem found."""
        return loader.load(cls, Path(path))

    @classmethod
    def loads(cls, text: str, *, file: str = "") -> Self:
        """The same for a string; `file` is how messages call it."""
        return loader.loads(cls, text, file=file)

    def with_lists_read(self) -> Self:
        """With the files of `allow` and `deny` as they are now; itself when none has changed. ConfigError when one
        cannot be read or is broken."""
        listeners, problems = {}, []
        for name, listener in self.listeners.items():
            try:
                listeners[name] = listener.with_lists_read()
            except ValueError as error:
                problems.append(self.problem(("listeners", name), str(error)))
        if problems:
            raise ConfigError(problems)
        if all(one is self.listeners[name] for name, one in listeners.items()):
            return self
        return self.model_copy(update={"listeners": listeners})


def load(path: Path, flags: Flags | None = None) -> Config:
    """The config of a file, with command-line flags over it."""
    return loader.load(Config, path, flags)


def loads(text: str, *, file: str = "", flags: Flags | None = None) -> Config:
    """The config of a TOML text, with command-line flags over it."""
    return loader.loads(Config, text, file=file, flags=flags)


def from_flags(flags: Flags) -> Config:
    """A config of command-line flags alone; ConfigError names the flags."""
    return loader.from_flags(Config, flags)
