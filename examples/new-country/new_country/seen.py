"""Countries that were seen at each listener, and a file that keeps them for the next start."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

logger = logging.getLogger("l4lb.new_country")
Countries = dict[str, set[str]]  # by listener
EXPECTED = 'expected JSON such as {"web": ["DE"]}'


class Seen:
    """ValueError when there is a file that is none of this kind. Any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen = read(path)
        self._remembered = read(path)

    def is_new(self, listener: str, country: str) -> bool:
        """True once for each."""
        with self._lock:
            countries = self._seen.setdefault(listener, set())
            is_new = country not in countries
            countries.add(country)
            return is_new

    def remember(self, listener: str, country: str) -> None:
        """In the file. An error is reported: then the next start reports the country again."""
        with self._lock:
            self._remembered.setdefault(listener, set()).add(country)
            try:
                self._write()
            except (OSError, ValueError) as error:
                fields = {"path": str(self._path), "reason": str(error)}
                logger.warning("countries cannot be saved", extra={"fields": fields})

    def _write(self) -> None:
        """With what another process has written: at an upgrade there are two for a while."""
        for listener, countries in read(self._path).items():
            self._remembered.setdefault(listener, set()).update(countries)
        text = json.dumps({listener: sorted(countries) for listener, countries in self._remembered.items()}, indent=1)
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        new.write_text(text + "\n")
        new.replace(self._path)


def read(path: Path) -> Countries:
    """Nothing when there is no file yet."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {EXPECTED}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(countries, list) for countries in found.values()):
        raise ValueError(f"{path}: {EXPECTED}")
    return {listener: set(map(str, countries)) for listener, countries in found.items()}
