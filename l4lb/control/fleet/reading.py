"""The configuration of a fleet, read once: from etcd or, where that does not help, from the copy on this host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from l4lb.config import Config, Flags, loads
from l4lb.control.fleet.keys import CONFIG, DRAIN, Document, parse_document
from l4lb.control.fleet.place import Place, is_url, parse_place
from l4lb.errors import ConfigError, Problem
from l4lb.net.files import read_text, replace_file
from l4lb.net.services.etcd import Etcd
from l4lb.net.services.etcd_servers import EtcdServers
from l4lb.net.services.json_api import ApiError

_AGAIN_S = 0.2
_HEAD = "# l4lb: generation "


@dataclass(slots=True)
class Origin:
    """Where this node's configuration comes from, and who the node is. `first` is what it starts with, and `refused`
    why that is not what etcd has; `draining`: whether an operator drains the node, None if etcd did not say."""

    place: Place
    node: str
    flags: Flags | None = None
    first: Document | None = None
    refused: str = ""
    draining: bool | None = None

    def parse(self, document: Document) -> Config:
        """ConfigError with every problem."""
        return loads(document.text, file=self.place.config_name, flags=self.flags)

    def load_first(self) -> Config:
        """For the start. Blocks, for not much longer than the timeout of the place. ConfigError when there is no
        configuration that can be used."""
        try:
            document, self.draining = asyncio.run(_fetch(self.place, self.node))
            config = self.parse(document)
        except ConfigError as error:
            if not self.place.cache:
                raise
            return self._from_cache(error)
        self.first = document
        return config

    def _from_cache(self, error: ConfigError) -> Config:
        try:
            document = read_cache(self.place)
            config = self.parse(document)
        except ConfigError as unusable:
            place = f"{self.place.cache}, the copy on this host"
            reasons = [Problem(one.path, one.message, place) for one in unusable.problems]
            raise ConfigError([*error.problems, *reasons]) from None
        self.first, self.refused = document, str(error.problems[0])
        return config


def place_of(url: str) -> Place:
    """ConfigError, which names what is wrong with it."""
    try:
        return parse_place(url)
    except ValueError as error:
        raise ConfigError([Problem("", str(error), url)]) from None


def load(file: str) -> Config:
    """The configuration of a file or of the fleet at a URL, as it is there now. ConfigError with every problem."""
    if not is_url(file):
        return Config.load(file)
    return Origin(replace(place_of(file), cache=""), node="").load_first()


async def _fetch(place: Place, node: str) -> tuple[Document, bool]:
    """The configuration as etcd has it, asked until the timeout is over, and whether the node is drained. ConfigError,
    which names the place."""
    servers = EtcdServers(place.access, place.login)
    deadline = time.monotonic() + place.access.timeout_s
    try:
        while True:
            try:
                drained = await servers.ask(lambda server: server.get(place.prefix + DRAIN + node))
                return await servers.ask(lambda server: read_document(server, place)), drained is not None
            except ApiError as error:
                if time.monotonic() + _AGAIN_S > deadline:
                    raise ConfigError([Problem("", f"cannot be read: {error}", place.config_name)]) from None
                await asyncio.sleep(_AGAIN_S)
    finally:
        await servers.close()


async def read_document(server: Etcd, place: Place) -> Document:
    """ConfigError when there is none, or no text; ApiError when etcd does not say."""
    kv = await server.get(place.prefix + CONFIG)
    if kv is None:
        message = "there is no such key in etcd yet: `l4lb fleet config put FILE` makes it"
        raise ConfigError([Problem("", message, place.config_name)])
    try:
        return parse_document(kv)
    except ValueError as error:
        raise ConfigError([Problem("", str(error), place.config_name)]) from None


# ---- the copy on this host: the text, below a line that says what it is ----


def write_cache(place: Place, document: Document) -> None:
    """Readable for this user alone. OSError."""
    path = Path(place.cache)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    head = f"{_HEAD}{document.generation} of {place.prefix}{CONFIG}\n"
    replace_file(path, (head + document.text).encode())


def read_cache(place: Place) -> Document:
    """ConfigError when there is none, or it is of another fleet."""
    wanted = place.prefix + CONFIG
    try:
        head, _, text = read_text(place.cache).partition("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError([Problem("", f"cannot be read: {reason}", place.cache)]) from None
    generation, _, key = head.removeprefix(_HEAD).partition(" of ")
    if not head.startswith(_HEAD) or not generation.isdecimal() or len(generation) > 18:
        raise ConfigError([Problem("", f'the first line: expected "{_HEAD}NUMBER of {wanted}"', place.cache)])
    if key != wanted:
        raise ConfigError([Problem("", f"it is of another fleet, {key}; expected {wanted}", place.cache)])
    return Document(text, int(generation))
