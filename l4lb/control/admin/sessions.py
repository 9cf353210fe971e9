"""The routes of sessions: parameters and handlers. Control loop only."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import AfterValidator, Field

from l4lb.control.admin.calls import Api, Call, Query
from l4lb.control.admin.errors import Refusal
from l4lb.control.reporting import shapes
from l4lb.control.sessions.sessions import SessionQuery
from l4lb.model.sessions import LIMIT_DEFAULT, LIMIT_MAX, SOURCES_DEFAULT, SOURCES_MAX, SourceOrder
from l4lb.net.address import parse_source


def _source(text: str) -> str:
    if text:
        parse_source(text)
    return text


class SessionsQuery(Query):
    """Filters: a session must match all that are given."""

    pool: str = Field(default="", description="name of a pool")
    backend: str = Field(default="", description="address or id of a backend")
    source: Annotated[str, AfterValidator(_source)] = Field(
        default="", description="of the client: an address, address:port, or a network such as 192.0.2.0/24"
    )
    listener: str = Field(default="", description="name of a listener")

    def meant(self) -> SessionQuery:
        return SessionQuery(self.pool, self.backend, self.source, self.listener)


class ListQuery(SessionsQuery):
    limit: int = Field(default=LIMIT_DEFAULT, ge=1, le=LIMIT_MAX, description="at most so many")


class SourcesQuery(Query):
    listener: str = Field(default="", description="name of a listener; by default all that limit sources")
    by: SourceOrder = Field(default="sessions", description="what the heaviest have the most of")
    limit: int = Field(default=SOURCES_DEFAULT, ge=1, le=SOURCES_MAX, description="at most so many")


async def list_sources(api: Api, call: Call) -> web.Response:
    """`X-Total-Count` is the number of all sources, listed or not."""
    query = call.query
    sources, matched = api.verbs.sessions.sources(query.listener, query.by, query.limit)
    return web.json_response(sources, headers={"X-Total-Count": str(matched)})


async def list_sessions(api: Api, call: Call) -> web.Response:
    """`X-Total-Count` is the number of all matching sessions, listed or not."""
    sessions, matched = await api.verbs.sessions.list(call.query.meant(), call.query.limit)
    return web.json_response(sessions, headers={"X-Total-Count": str(matched)})


async def end_session(api: Api, call: Call) -> shapes.Session:
    return await api.verbs.sessions.end(call.path["id"])


async def end_sessions(api: Api, call: Call) -> shapes.Ended:
    query = call.query.meant()
    if not query:
        raise Refusal(400, "which sessions? Give a pool, backend, source or listener")
    return await api.verbs.sessions.end_all(query)
