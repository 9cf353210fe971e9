"""The part of the fleet's limits that is this node's, with [fleet] limits = "divided". Control loop only.

Every live node gets the same part, and the remainder goes to those whose names come first, so that the parts sum up to
the limit. A node that is new counts at once. One that is gone counts for a moment longer: etcd that lost its keys, or a
node that starts again, changes nothing. While etcd is away, the latest count stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from l4lb.control.state.events import Events
from l4lb.control.state.fleet import FleetState, Share
from l4lb.control.state.state import State

GONE_AFTER_S = 3.0


class Limits:
    """`reconcile` has the workers go by other limits."""

    def __init__(self, state: State, known: FleetState, events: Events, reconcile: Callable[[], None]) -> None:
        self._state, self._known, self._events, self._reconcile = state, known, events, reconcile
        self._waiting: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Other nodes may be alive."""
        share = self._now()
        if share.nodes >= self._known.share.nodes:
            self._set(share)
        elif self._waiting is None:
            self._waiting = asyncio.get_running_loop().call_later(GONE_AFTER_S, self._shrink)

    def _now(self) -> Share:
        names = sorted({*self._known.nodes, self._known.node})
        return Share(len(names), names.index(self._known.node))

    def _shrink(self) -> None:
        self._waiting = None
        self._set(self._now())

    def _set(self, share: Share) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if share == self._known.share:
            return
        self._known.share = share
        if self._state.config.fleet.limits == "divided":
            self._events.emit("fleet_limits_divided", {"nodes": share.nodes, "rank": share.rank + 1})
            self._reconcile()

    def stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
