"""What a source of backends is. Control loop.

A source is an async generator: `async def source(asked: Asked)`. What it yields is what there is now, all of it, each
time that it has looked:

- the entries, each as it would stand in `backends`: an address, or a table of options; or an `Answer` with them;
- an exception: there is no answer now, for this reason; the one before stays. The generator goes on.

One that raises is begun again after a pause. One that is no longer wanted is closed where it waits: what it holds it
must release in a `finally`. It must not block.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from l4lb.config import DiscoveryConfig
from l4lb.net.services.json_api import Access

Entry = str | Mapping[str, Any]
REMARKS_MAX = 3  # of an answer with much that is wrong


@dataclass(frozen=True, slots=True)
class Asked:
    """For which pool, and how: `settings.options` are those of another package's type."""

    pool: str
    settings: DiscoveryConfig


@dataclass(frozen=True, slots=True)
class Answer:
    """`places` say where each entry stands, for messages; without them, by number; `within`: in what, if anything.
    `remark`: what is wrong with the answer, which counts nevertheless."""

    entries: Sequence[Entry]
    places: Sequence[str] = ()
    remark: str = ""
    within: str = ""

    def place(self, index: int) -> str:
        """Of an entry, by its index."""
        place = self.places[index] if self.places else f"backends[{index}]"
        return f"{self.within}: {place}" if self.within else place


class NoAnswer(Exception):
    """Why there is none."""


Yielded = Answer | Sequence[Entry] | Exception
Source = Callable[[Asked], AsyncGenerator[Yielded, None]]


def access_of(settings: DiscoveryConfig) -> Access:
    """To the servers of another system."""
    return Access(settings.endpoints, settings.timeout, settings.ca_file, settings.cert_file, settings.key_file)
