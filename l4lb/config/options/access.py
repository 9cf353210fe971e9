"""Whom a listener lets in: the options `allow` and `deny`, what their entries may be and what follows from them; limits
by source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal
from weakref import WeakValueDictionary

from pydantic import AfterValidator, BeforeValidator, Field

from l4lb.config.options.base import Count, Model, reject_bool
from l4lb.config.options.units import Bandwidth, Rate
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


class PerSourceConfig(Model):
    """Limits of each source of a listener: all clients whose addresses begin with the same bits."""

    sessions: Count = Field(default=0, description="at once; 0: any number")
    session_rate: Rate = Field(default=0.0, description="new sessions a second; a second's worth may come at once")
    bandwidth_up: Bandwidth = Field(default=0.0, description="of all its sessions together, client to backend")
    bandwidth_down: Bandwidth = Field(default=0.0, description="of all its sessions together, backend to client")
    prefix_v4: Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=32)] = Field(
        default=32, description="so many bits of an address tell a source"
    )
    prefix_v6: Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=128)] = Field(
        default=64, description="of IPv6; 64: one network, of which a client may use any address"
    )
    action: Literal["reset", "close"] = Field(default="reset", description="what a refused client sees; udp: nothing")
    dry_run: bool = Field(default=False, description="count what exceeds a limit; refuse and delay nothing")

    @property
    def limits(self) -> bool:
        """Whether there is a limit: only then sources are counted."""
        return bool(self.sessions or self.session_rate or self.bandwidth_up or self.bandwidth_down)
