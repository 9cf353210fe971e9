"""The options `allow` and `deny`: what their entries may be, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from l4lb.net.access import ListFile, entry_of, list_file, refused_ranges


def _entry(text: str) -> str:
    entry = entry_of(text)
    if isinstance(entry, ListFile):
        refused_ranges((), (entry,))  # names the line that is no network
    return text


AccessEntry = Annotated[str, AfterValidator(_entry)]


@dataclass(frozen=True, slots=True)
class Access:
    """The lists of a listener as they are now: files as they were when they were read."""

    files: tuple[ListFile, ...] = ()
    refused: bytes = b""

    @classmethod
    def of(cls, allow: Sequence[str], deny: Sequence[str]) -> Access:
        """ValueError when a file cannot be read or is broken."""
        if not allow and not deny:
            return _NO_LISTS
        lists = tuple(map(entry_of, allow)), tuple(map(entry_of, deny))
        files = tuple(one for entries in lists for one in entries if isinstance(one, ListFile))
        return cls(files, refused_ranges(*lists))

    def is_current(self) -> bool:
        """False once a file has changed, or cannot be looked at."""
        try:
            return all(list_file(one.path) == one for one in self.files)
        except ValueError:
            return False


_NO_LISTS = Access()
