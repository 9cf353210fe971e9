"""Countries of addresses, from a file such as GeoLite2-Country.mmdb, read again when it changes."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

from maxminddb import MODE_MEMORY, InvalidDatabaseError, Reader, open_database

CLIENTS_KEPT = 65_536  # whose country is not looked up again

logger = logging.getLogger("l4lb.new_country")


class GeoIP:
    """Used by one thread at a time. ValueError when there is no file that can be read; a later one that cannot be read
    is reported, and what was read before goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = version_of(path)
        try:
            self._look_up = self._opened()
        except (OSError, InvalidDatabaseError) as error:
            raise ValueError(f"{path}: expected a GeoIP database in MaxMind's format: {error}") from error

    def country(self, client: str) -> str:
        """By its ISO code; empty for an address that the file does not have, and for clients of a unix socket."""
        if client.startswith("unix:"):
            return ""
        self._follow()
        return self._look_up(client)

    def _follow(self) -> None:
        version = version_of(self._path)
        if version == self._version:
            return
        self._version = version  # first: what cannot be read is reported once
        fields = {"path": str(self._path)}
        try:
            self._look_up = self._opened()
        except (OSError, InvalidDatabaseError) as error:
            fields["reason"] = str(error)
            logger.warning("geoip file cannot be read, the last one goes on", extra={"fields": fields})
        else:
            logger.info("geoip file read", extra={"fields": fields})

    def _opened(self) -> Callable[[str], str]:
        """In memory and not mapped: a file that is written in place would end the process with SIGBUS."""
        reader = open_database(self._path, MODE_MEMORY)
        return functools.lru_cache(CLIENTS_KEPT)(functools.partial(country_of, reader))


def version_of(path: Path) -> tuple[int, int, int] | None:
    """Another one when the file has changed; None when it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def country_of(reader: Reader, client: str) -> str:
    try:
        found = reader.get(client)
    except ValueError:  # an IPv6 address, and a file of IPv4 only
        return ""
    for kind in ("country", "registered_country"):
        country = found.get(kind) if isinstance(found, dict) else None
        code = country.get("iso_code") if isinstance(country, dict) else None
        if isinstance(code, str):
            return code
    return ""
