"""What has been seen of the instance: its latest answers, its events, and since when it does not answer. Pure; written
by `following.py`."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l4lb.cli.top.state.rates import Rates
from l4lb.control.state.events import Event

EVENTS_MAX = 1000
SLOW_S = 3.0  # from when on an answer that has not come is mentioned

Shape = Mapping[str, Any]


@dataclass(slots=True)
class Seen:
    """Times are seconds since 1970, but `asked_at` is of the monotonic clock. `parts` are the answers for the panes
    that need one of their own, by its name: "sessions", "sources", "bans", "pool"; `errors` are those of these
    requests, `queries` what they were asked with. `version` grows with each change."""

    status: Shape | None = None
    parts: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    queries: dict[str, object] = field(default_factory=dict)
    events: deque[tuple[int, Event]] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))
    events_error: str = ""
    rates: Rates = field(default_factory=Rates)
    lost_since: float | None = None
    lost: str = ""
    lost_how: str = ""
    asked_at: float | None = None
    read_only: bool = False
    version: int = 0
    _numbered: int = 0

    def answered(self, status: Shape, at: float) -> None:
        """`at` is of the monotonic clock."""
        self.rates.feed(status, at)
        self.status, self.lost_since, self.lost = status, None, ""
        self.version += 1

    def not_answered(self, error: str, now: float, how: str = "not reachable") -> None:
        self.lost_since = now if self.lost_since is None else self.lost_since
        self.lost, self.lost_how = error, how
        self.version += 1

    def not_understood(self, error: Exception, now: float) -> None:
        """Its answers have another form. What they were is of no use."""
        self.status, self.parts = None, {}
        self.not_answered(f"is it another version? {error!r}", now, "not understood")

    def set_part(self, name: str, answer: Any, error: str = "", query: object = ()) -> None:
        self.errors[name], self.queries[name] = error, query
        if not error:
            self.parts[name] = answer
        self.version += 1

    def forget_other(self, name: str, query: object) -> None:
        """Forget the part if it was asked with another query."""
        if self.queries.get(name, query) != query:
            self.parts.pop(name, None)
            self.errors.pop(name, None)
            self.version += 1

    def part(self, name: str) -> Sequence[Shape]:
        found: Sequence[Shape] = self.parts.get(name, ())
        return found

    def happened(self, event: Event) -> None:
        self._numbered += 1
        self.events.append((self._numbered, event))
        self.version += 1

    def knows_event(self, event: Event) -> bool:
        """A stream that begins anew repeats the latest ones."""
        newer = not self.events or event.time > self.events[-1][1].time
        return not newer and any(one == event for _, one in self.events)

    def backend(self, pool: str, id_: str) -> Shape | None:
        """With the latest checks where the answer for its pool is there."""
        detailed = self.parts.get("pool")
        for one in [detailed] if detailed and detailed["name"] == pool else []:
            if found := _with_id(one["backends"], id_):
                return found
        found_pool = self.pool(pool)
        return _with_id(found_pool["backends"], id_) if found_pool else None

    def pool(self, name: str) -> Shape | None:
        pools: Sequence[Shape] = self.status["pools"] if self.status else ()
        return next((one for one in pools if one["name"] == name), None)


def _with_id(backends: Sequence[Shape], id_: str) -> Shape | None:
    return next((one for one in backends if one["id"] == id_), None)
