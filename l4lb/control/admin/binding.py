"""Between a route and aiohttp: parses a request with the route's models, and turns the handler's result into a
response. Control loop only."""

from __future__ import annotations

import asyncio
import zlib
from typing import TypeVar, get_origin

from aiohttp import ClientPayloadError, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError

from l4lb.control.admin.calls import Answer, Api, Call, Query
from l4lb.control.admin.errors import Handler, Refusal
from l4lb.control.admin.routes import Route

BODY_BYTES_MAX = 64 * 1024
BODY_WITHIN_S = 10.0
M = TypeVar("M", bound=BaseModel)


def _refusal(error: ValidationError, status: int) -> Refusal:
    """The first problem: where it is and what was expected."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    message = first["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
    message = {"extra_forbidden": "unknown", "missing": "missing: expected a value"}.get(first["type"], message)
    return Refusal(status, f"{path}: {message}" if path else message, path)


def _query(request: web.Request, model: type[Query]) -> Query:
    """Parameters whose type is a list may be repeated."""
    lists = {name for name, field in model.model_fields.items() if get_origin(field.annotation) is list}
    once = request.query.keys() - lists
    if repeated := next((name for name in request.query if name in once and len(request.query.getall(name)) > 1), None):
        raise Refusal(400, f"{repeated}: given more than once", repeated)
    many = {name: request.query.getall(name) for name in lists if name in request.query}
    try:
        return model.model_validate({**request.query, **many})
    except ValidationError as error:
        raise _refusal(error, 400) from None


async def _body(request: web.Request, model: type[M]) -> M:
    """400 for invalid JSON, 422 for JSON that does not fit the model. An empty body is an empty object."""
    raw = await _raw(request)
    try:
        return model.model_validate_json(raw.strip() or b"{}")
    except ValidationError as error:
        no_json = error.errors(include_url=False)[0]["type"] == "json_invalid"
        raise _refusal(error, 400 if no_json else 422) from None


async def _raw(request: web.Request) -> bytes:
    """Read the body of an authorized request. Raises Refusal for an incomplete one: broken chunks or compression, or a
    client that is slow or gone (which the answer does not reach)."""
    if request.version == HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            return await request.read()
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {BODY_WITHIN_S:g} s") from None
    except (HttpProcessingError, ClientPayloadError, web.RequestPayloadError, ConnectionError, zlib.error):
        raise Refusal(400, "the body did not come as its headers say") from None


def bind(route: Route, api: Api) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        query = _query(request, route.query)
        body = await _body(request, route.body) if route.body is not None else None
        answer = await route.handler(api, Call(request.match_info, query, body, request))
        if isinstance(answer, web.StreamResponse):
            return answer
        if isinstance(answer, Answer):
            return web.json_response(answer.body, status=answer.status)
        return web.json_response(answer)

    return handler
