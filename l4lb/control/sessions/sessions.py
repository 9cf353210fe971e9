"""Lists and ends current sessions. Workers own them, so control asks and waits for their answers.

Control loop only. One sweep at a time; an abandoned sweep is over before the next begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from l4lb.control.reporting import shapes
from l4lb.control.state.actor import by_whom
from l4lb.control.state.events import Events
from l4lb.control.state.state import State
from l4lb.control.state.tags import SessionTags
from l4lb.errors import ChangeError
from l4lb.model.forwarder import SessionControl
from l4lb.model.sessions import (
    FLOW_ADVICE,
    LIMIT_MAX,
    SOURCES_MAX,
    Session,
    SessionFilter,
    Source,
    SourceOrder,
    Sweep,
    parse_flow_id,
    parse_session_id,
    session_id_text,
)
from l4lb.model.states import CloseReason
from l4lb.net.address import parse_source, source_interface

_POLL_S = 0.001


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """An operator's filter: sessions must match all that is given. `backend`: an id or address; `source`: an address,
    address:port or network of clients."""

    pool: str = ""
    backend: str = ""
    source: str = ""
    listener: str = ""

    def __bool__(self) -> bool:
        return bool(self.pool or self.backend or self.source or self.listener)


def _source(source: Source) -> shapes.Source:
    return {
        "listener": source.listener,
        "source": source.source,
        "sessions_active": source.sessions_active,
        "sessions_total": source.sessions_total,
        "session_rate": round(source.session_rate, 2),
        "limited": source.limited,
        "bytes_up": source.bytes_up,
        "bytes_down": source.bytes_down,
    }


class Sessions:
    """`tags` are those of sessions."""

    def __init__(self, state: State, tags: SessionTags, forwarder: SessionControl, events: Events) -> None:
        self._state = state
        self._tags = tags
        self._forwarder = forwarder
        self._events = events
        self._one_at_a_time = asyncio.Lock()
        self._last: Sweep | None = None
        self._stopped = False

    async def list(self, query: SessionQuery, limit: int) -> tuple[list[shapes.Session], int]:
        """At most `limit` of the matching sessions, and the number of all that match; flows in the kernel are among
        them. ChangeError for unknown names."""
        limit = max(0, min(limit, LIMIT_MAX))
        sweep = await self._sweep(self._filter(query), limit)
        return [self._shape(one) for one in sweep.take_found()], sweep.matched() + sweep.flows_matched()

    async def end(self, id_: str) -> shapes.Session:
        """Reset the session with that id (close reason ``admin``) and return its last state. ChangeError when there is
        none, or it is a flow in the kernel, which cannot be ended."""
        if flow := parse_flow_id(id_):
            await self._refuse_to_end(id_, flow)
        number = parse_session_id(id_)
        found = (await self._sweep(SessionFilter(id=number), 1, CloseReason.ADMIN)).take_found() if number else []
        if not found:
            raise ChangeError("not_found", f'no session "{id_}"', "id")
        ended = self._shape(found[0])
        fields = {"id": id_, "client": ended["client"], "reason": str(CloseReason.ADMIN)}
        self._events.emit("session_ended", {**fields, **by_whom()})
        return ended

    async def _refuse_to_end(self, id_: str, flow: int) -> None:
        """Nothing if there is no such flow."""
        if (await self._sweep(SessionFilter(flow_id=flow), 0)).flows_matched():
            message = f'"{id_}" is a flow in the kernel, which cannot be ended from here: {FLOW_ADVICE}'
            raise ChangeError("conflict", message, "id")

    async def reset(self, query: SessionQuery, reason: CloseReason) -> int:
        """Reset all matching sessions, and return their number, without an event."""
        return (await self._sweep(self._filter(query), 0, reason)).matched()

    async def end_all(self, query: SessionQuery, reason: CloseReason = CloseReason.ADMIN) -> shapes.Ended:
        """Reset all matching sessions, and return their number. Flows in the kernel are left alone, and counted."""
        sweep = await self._sweep(self._filter(query), 0, reason)
        ended: shapes.Ended = {"sessions": sweep.matched(), "flows_left": sweep.flows_matched()}
        given = {name: text for name in ("listener", "pool", "backend", "source") if (text := getattr(query, name))}
        self._events.emit("sessions_ended", {**given, **ended, "reason": str(reason), **by_whom()})
        return ended

    async def tagged(self, limit: int) -> set[int] | None:
        """The ids of all sessions that a hook gave tags; None: there are more."""
        sweep = await self._sweep(SessionFilter(tagged=True), limit)
        return {one.id for one in sweep.take_found()} if sweep.matched() <= limit else None

    def sources(self, listener: str, by: SourceOrder, limit: int) -> tuple[Sequence[shapes.Source], int]:
        """See `SessionControl.sources`."""
        found, matched = self._forwarder.sources(listener, by, max(0, min(limit, SOURCES_MAX)))
        return [_source(one) for one in found], matched

    def stop(self) -> None:
        """Everybody who waits here gets an error."""
        self._stopped = True

    async def _sweep(self, wanted: SessionFilter, limit: int, end: CloseReason | None = None) -> Sweep:
        async with self._one_at_a_time:
            if self._last is not None:
                await self._over(self._last)
            self._last = self._forwarder.begin_sweep(wanted, limit, end)
            await self._over(self._last)
            return self._last

    async def _over(self, sweep: Sweep) -> None:
        while not sweep.over():
            if self._stopped:
                raise ChangeError("conflict", "the process is about to end")
            await asyncio.sleep(_POLL_S)

    def _filter(self, query: SessionQuery) -> SessionFilter:
        try:
            source, port = parse_source(query.source) if query.source else (None, 0)
            scope = source_interface(query.source)
        except ValueError as error:
            raise ChangeError("invalid", str(error), "source") from None
        backends = tuple(self._backends(query.pool, query.backend)) if query.backend else ()
        return SessionFilter(query.listener, query.pool, backends, source, port, scope)

    def _backends(self, pool: str, backend: str) -> Iterator[tuple[str, str]]:
        """(pool, id) of the backend, which may be given by address. A removed backend may still have sessions; it is
        found only by its id."""
        yield pool, backend
        for name, known in self._state.pools.items():
            if pool in ("", name):
                yield from ((name, one.id) for one in known.backends.values() if one.config.address == backend)

    def _shape(self, session: Session) -> shapes.Session:
        return {
            "id": session_id_text(session.id, session.engine),
            "engine": session.engine,
            "listener": session.listener,
            "protocol": session.protocol,
            "pool": session.pool,
            "backend": session.backend,
            "client": session.client,
            "local": session.local,
            "state": session.state,
            "age_s": None if session.age_s is None else round(session.age_s, 3),
            "idle_s": round(session.idle_s, 3),
            "bytes_up": session.bytes_up,
            "bytes_down": session.bytes_down,
            "tags": dict(self._tags.of(session.id)) if session.tagged else {},
        }
