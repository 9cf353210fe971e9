"""The options `allow` and `deny`: what their entries may be, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated
from weakref import WeakValueDictionary

from pydantic import AfterValidator

from l4lb.net.access import Entry, ListFile, entry_of, list_file, refused_ranges


def _entry(text: str) -> str:
    entry_of(text)
    return text


AccessEntry = Annotated[str, AfterValidator(_entry)]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Access:
    """The compiled lists of a listener; `files` as they were when they were read. Listeners with the same lists share
    one: it may take megabytes, and goes with the last configuration that has it."""

    files: tuple[ListFile, ...] = ()
    refused: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, allow: Sequence[str], deny: Sequence[str]) -> Access:
        """ValueError when a file cannot be read, or for the line in it that is no CIDR."""
        lists = tuple(map(entry_of, allow)), tuple(map(entry_of, deny))
        found = _known.get(lists)
        if found is None:
            files = tuple(one for entries in lists for one in entries if isinstance(one, ListFile))
            found = _known[lists] = cls(files, refused_ranges(*lists))
        return found

    def is_current(self) -> bool:
        """False once a file has changed, or cannot be looked at."""
        try:
            return all(list_file(one.path) == one for one in self.files)
        except ValueError:
            return False


_known: WeakValueDictionary[tuple[tuple[Entry, ...], tuple[Entry, ...]], Access] = WeakValueDictionary()
