"""The admin API as data: the server and the OpenAPI document are made from these routes. Control loop only.

A handler gets a `Call` whose parts are already validated, and returns what its route's `answer` describes, or raises
`Refusal`. A new route is one entry in `ROUTES`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel, Field

from l4lb.control.admin import bans, changes, configuration, sessions
from l4lb.control.admin.calls import Answer, Api, Call, Query
from l4lb.control.admin.errors import Refusal
from l4lb.control.admin.guard import reads_only, who
from l4lb.control.admin.page import PAGE
from l4lb.control.admin.stream import READERS_MAX
from l4lb.control.process.readiness import Scope
from l4lb.control.reporting import part_shapes, shapes
from l4lb.control.reporting.explanation import facts_of
from l4lb.control.state.events import RECENT


@dataclass(frozen=True, slots=True)
class Route:
    """`answer` is the type of its JSON; `media` is the content type if that is not JSON, `or_media` another one, by
    Accept; `body` is the model of its body; `refuses` lists its error statuses, besides those for wrong parameters and
    a missing token; `public`: needs no token; `statuses` are those of its answers."""

    method: str
    path: str
    summary: str
    handler: Callable[[Api, Call], Awaitable[Any]]
    answer: Any = None
    media: str = "application/json"
    or_media: tuple[str, ...] = ()
    query: type[Query] = Query
    body: type[BaseModel] | None = None
    refuses: tuple[int, ...] = ()
    public: bool = False
    dashboard: bool = False
    statuses: tuple[int, ...] = (200,)

    @property
    def pattern(self) -> str:
        """As aiohttp matches it."""
        return self.path.replace("{cidr}", "{cidr:.+}")


NAMES_MAX = 100  # of one parameter
PATH_PARAMETERS = {
    "listener": "name of a listener",
    "pool": "name of a pool",
    "address": "of a backend, or its id",
    "id": "of a session",
    "cidr": "an address or a network; its slash may be written as it is",
}


class ExplainQuery(Query):
    source: str = Field(description="the client: an address, or address:port")
    to: str = Field(default="", description="address:port that it connects to, for a hash_key that needs it")


class ExplainListenerQuery(ExplainQuery):
    sni: str | None = Field(
        default=None, description="the server name in the client's ClientHello; empty: it names none"
    )
    alpn: str = Field(default="", description="the protocols that it offers, with commas between them")
    first: str = Field(default="", description="its first bytes, text or hex:...")


class EventsQuery(Query):
    last: int = Field(default=0, ge=0, le=RECENT, description="begin with so many of the latest events")
    follow: bool = Field(default=True, description="false: the answer ends after those")


class HistoryQuery(Query):
    pool: str = Field(default="", description="name of a pool; by default all together")


class ReadyQuery(Query):
    listener: list[str] = Field(default=[], max_length=NAMES_MAX, description="these alone, not all; may be repeated")
    pool: list[str] = Field(
        default=[], max_length=NAMES_MAX, description="these alone, not those of the listeners; may be repeated"
    )
    min_backends: int = Field(default=1, ge=1, le=1_000_000, description="so many have to be usable in each pool")


async def _status(api: Api, call: Call) -> shapes.Status:
    return api.status.status()


async def _listeners(api: Api, call: Call) -> list[shapes.Listener]:
    return api.status.listeners()


async def _pools(api: Api, call: Call) -> list[shapes.Pool]:
    return api.status.pools()


async def _pool(api: Api, call: Call) -> shapes.Pool:
    pool = api.status.pool(call.path["pool"])
    if pool is None:
        raise Refusal(404, f'no pool "{call.path["pool"]}"', "pool")
    return pool


async def _backends(api: Api, call: Call) -> list[shapes.Backend]:
    return (await _pool(api, call))["backends"]


async def _explain(api: Api, call: Call) -> shapes.Explanation:
    name = call.path["pool"]
    try:
        return api.status.explain(name, call.query.source, call.query.to)
    except KeyError:
        raise Refusal(404, f'no pool "{name}"', "pool") from None
    except ValueError as error:
        raise Refusal(400, str(error), "source") from None


async def _explain_listener(api: Api, call: Call) -> shapes.ListenerExplanation:
    name, query = call.path["listener"], call.query
    try:
        facts = facts_of(query.source, query.sni, [one for one in query.alpn.split(",") if one], query.first)
        return api.status.explain_listener(name, facts, query.source, query.to)
    except KeyError:
        raise Refusal(404, f'no listener "{name}"', "listener") from None
    except ValueError as error:
        raise Refusal(400, str(error), "source") from None


async def _history(api: Api, call: Call) -> part_shapes.History:
    name = call.query.pool
    try:
        return api.status.history(name)
    except KeyError:
        raise Refusal(404, f'no pool "{name}"', "pool") from None


async def _fleet(api: Api, call: Call) -> part_shapes.Fleet:
    return api.status.fleet()


async def _whoami(api: Api, call: Call) -> part_shapes.WhoAmI:
    return {"by": await who(call.request), "read_only": reads_only()}


async def _events(api: Api, call: Call) -> web.StreamResponse:
    if api.stream.full:
        raise Refusal(409, f"{READERS_MAX} streams are open already", closes=True)
    return await api.stream.serve(call.request, call.query.last, call.query.follow)


async def _metrics(api: Api, call: Call) -> web.Response:
    text, content_type = await api.metrics.render(call.request.headers.get("Accept", ""))
    return web.Response(body=text, headers={"Content-Type": content_type})


async def _alive(api: Api, call: Call) -> part_shapes.Alive:
    return {"status": "alive"}


async def _ready(api: Api, call: Call) -> Answer[part_shapes.Readiness]:
    query = call.query
    answer = api.status.ready(Scope(tuple(query.listener), tuple(query.pool), query.min_backends))
    return Answer(answer, 200 if answer["ready"] else 503)


async def _openapi(api: Api, call: Call) -> web.Response:
    return web.Response(text=json.dumps(api.document()), content_type="application/json")


async def _page(api: Api, call: Call) -> web.Response:
    return PAGE.response()


ROUTES = (
    Route("GET", "/v1/status", "The whole process: state, listeners, pools, workers", _status, shapes.Status),
    Route("GET", "/v1/history", "What was counted in the last five minutes, sample by sample", _history,
          part_shapes.History, query=HistoryQuery, refuses=(404,)),
    Route("GET", "/v1/listeners", "All listeners", _listeners, list[shapes.Listener]),
    Route("GET", "/v1/listeners/{listener}/explain", "By which route a client goes, to which backend, and why",
          _explain_listener, shapes.ListenerExplanation, query=ExplainListenerQuery, refuses=(404,)),
    Route("GET", "/v1/pools", "All pools with their backends", _pools, list[shapes.Pool]),
    Route("GET", "/v1/pools/{pool}", "A pool, with the latest checks of its backends", _pool, shapes.Pool,
          refuses=(404,)),
    Route("GET", "/v1/pools/{pool}/backends", "The backends of a pool", _backends, list[shapes.Backend],
          refuses=(404,)),
    Route("GET", "/v1/pools/{pool}/explain", "Which backend a client gets, and why", _explain, shapes.Explanation,
          query=ExplainQuery, refuses=(404,)),
    Route("PUT", "/v1/pools/{pool}/backends/{address}", "Change a backend, or add one", changes.put_backend,
          shapes.Backend, body=changes.BackendSettings, refuses=(404, 409, 507), statuses=(200, 201)),
    Route("DELETE", "/v1/pools/{pool}/backends/{address}", "Remove a backend", changes.remove_backend,
          shapes.Removed, query=changes.RemoveQuery, refuses=(404, 409, 507)),
    Route("GET", "/v1/sessions", "The sessions that there are now; X-Total-Count is how many, limit or not",
          sessions.list_sessions, list[shapes.Session], query=sessions.ListQuery, refuses=(404, 409)),
    Route("DELETE", "/v1/sessions", "End the sessions that are meant (close reason admin)", sessions.end_sessions,
          shapes.Ended, query=sessions.SessionsQuery, refuses=(404, 409)),
    Route("DELETE", "/v1/sessions/{id}", "End a session (close reason admin)", sessions.end_session, shapes.Session,
          refuses=(404, 409)),
    Route("GET", "/v1/sources", "The heaviest sources of clients that per_source limits; X-Total-Count: of so many",
          sessions.list_sources, list[shapes.Source], query=sessions.SourcesQuery, refuses=(404,)),
    Route("GET", "/v1/bans", "Who is kept out at runtime", bans.list_bans, list[shapes.Ban], query=bans.ListQuery,
          refuses=(422,)),
    Route("GET", "/v1/bans/{cidr}", "A ban", bans.show_ban, shapes.Ban, query=bans.OneQuery, refuses=(404, 422)),
    Route("PUT", "/v1/bans/{cidr}", "Keep clients out, for a time or until the ban is removed, and end their sessions",
          bans.put_ban, shapes.Banned, body=bans.BanRequest, refuses=(404, 409, 507), statuses=(200, 201)),
    Route("DELETE", "/v1/bans/{cidr}", "Let clients in again", bans.remove_ban, shapes.Ban, query=bans.OneQuery,
          refuses=(404, 409, 422, 507)),
    Route("POST", "/v1/reload", "Read the file again and make what it says what is wanted", changes.reload,
          shapes.Reloaded, refuses=(409, 422, 507)),
    Route("POST", "/v1/drain", "Drain the whole process, which then exits, or a listener", changes.drain, shapes.Drain,
          body=changes.DrainRequest, refuses=(404, 409, 507)),
    Route("DELETE", "/v1/drain", "Let a listener that drains accept again", changes.resume, shapes.Resumed,
          query=changes.ResumeQuery, refuses=(404, 409, 422, 507)),
    Route("POST", "/v1/upgrade", "Let a new process take over; this one drains and exits", changes.upgrade,
          shapes.Upgraded, refuses=(409,)),
    Route("GET", "/v1/config", "The configuration in use; secrets are masked", configuration.in_use,
          shapes.ConfigShape),
    Route("GET", "/v1/config/diff", "How what a reload would take now differs from the configuration in use",
          configuration.file_differences, part_shapes.ConfigDifferences, refuses=(409,)),
    Route("GET", "/v1/whoami", "Who asks, and whether that one may change something", _whoami, part_shapes.WhoAmI),
    Route("GET", "/v1/fleet", "All nodes of the fleet, as this one knows them", _fleet, part_shapes.Fleet,
          refuses=(404,)),
    Route("GET", "/v1/events", "What happens, as Server-Sent Events; slow readers lose some and learn how many",
          _events, media="text/event-stream", query=EventsQuery, refuses=(409,)),
    Route("GET", "/metrics", "All counts, for Prometheus; OpenMetrics by Accept", _metrics, media="text/plain",
          or_media=("application/openmetrics-text",)),
    Route("GET", "/healthz", "The process is alive", _alive, part_shapes.Alive, public=True),
    Route("GET", "/readyz", "Ready for traffic? With the reasons if it is not", _ready, part_shapes.Readiness,
          public=True, query=ReadyQuery, statuses=(200, 503)),
    Route("GET", "/openapi.json", "This document", _openapi, media="application/json"),
    Route("GET", "/", "The dashboard", _page, media="text/html", public=True, dashboard=True),
)  # fmt: skip
