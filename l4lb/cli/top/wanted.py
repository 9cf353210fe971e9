"""What is wanted of the instance, besides its status, by what is on the screen. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from l4lb.model.sessions import LIMIT_MAX, SourceOrder

SESSIONS = 200  # asked for at first; more once the user scrolls to their end
SESSIONS_SEARCHED = 2000  # where words are looked for among them
SOURCES = 200


@dataclass(frozen=True, slots=True)
class Wanted:
    """`part` as in `Seen.parts`, `query` and `limit` are of sessions, `by` of sources; `pool`: with the latest checks
    of its backends."""

    part: str = ""
    query: tuple[tuple[str, str], ...] = ()
    limit: int = SESSIONS
    by: SourceOrder = "sessions"
    pool: str = ""

    def query_of(self, name: str) -> object:
        """What an answer of that name, as in `Seen.parts`, is about."""
        return self.pool if name == "pool" else self.query if name == "sessions" else ()

    def is_about(self, other: Wanted) -> bool:
        """Whether an answer to that fits, if perhaps with fewer rows."""
        return (self.part, self.query, self.pool) == (other.part, other.query, other.pool)


def limit_for(row: int, listed: int) -> int:
    """How many sessions to ask for, of which so many are `listed` now, so that there are some below `row`: what the
    user does not look at is asked for no longer."""
    limit = SESSIONS
    while limit < min(row, listed + 1):
        limit *= 2
    return min(limit, LIMIT_MAX)
