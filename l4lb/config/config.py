"""`Config`: the options, with the ways to read them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from l4lb.config.dumping import toml_of
from l4lb.config.options.models import Options
from l4lb.config.reading import loader
from l4lb.config.reading.flags import Flags
from l4lb.errors import ConfigError
from l4lb.model.hints import shown_names
from l4lb.net.files import replace_file


class Config(Options):
    """A whole configuration. `Config.load` reads a file, `Config.loads` a string; the constructor takes models.

        Config(
            listeners={"web": Listener(bind=["0.0.0.0:443"], pool="web")},
            pools={"web": Pool(backends=[Backend(address="10.0.0.1:8443")])},
        )

    Each way raises `l4lb.errors.ConfigError` with every problem found. Two are equal when all their options are,
    wherever they came from.
    """

    if not TYPE_CHECKING:  # type checkers know the constructor by the fields

        def __init__(self, /, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            loader.expect_no_conflicts(self)

        __init__.__pydantic_base_init__ = True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Config):
            return NotImplemented
        return all(getattr(self, option) == getattr(other, option) for option in type(self).model_fields)

    __hash__ = None  # type: ignore[assignment]  # its tables have none

    def __repr__(self) -> str:
        where = f" {self.file}:" if self.file else ""
        return f"<Config{where} {shown_names('listeners', self.listeners)}; {shown_names('pools', self.pools)}>"

    __str__ = __repr__

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read and check the TOML file at `path`. Raises `l4lb.errors.ConfigError` with every problem found."""
        return loader.load(cls, Path(path))

    @classmethod
    def loads(cls, text: str, *, file: str = "") -> Self:
        """The same for a string; `file` is how messages call it."""
        return loader.loads(cls, text, file=file)

    def dumps(self) -> str:
        """The configuration as TOML: what was given, without what is a default. It loads to an equal `Config`.

        Comments of a file that it was loaded from are not kept. Secrets, as in headers of health checks, are in it.
        """
        return toml_of(self)

    def dump(self, path: str | os.PathLike[str]) -> None:
        """Write `dumps` to the file at `path`, which is replaced as a whole. Raises OSError."""
        replace_file(Path(path), self.dumps().encode())

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
