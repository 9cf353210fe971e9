"""Errors of requests: one format for handlers' refusals, aiohttp's refusals and defects. Control loop only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from l4lb.control.reporting.shapes import Error
from l4lb.control.state.events import logger
from l4lb.errors import ChangeError, ConfigError, UpgradeError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    408: "request_timeout",
    409: "conflict",
    422: "invalid",
    507: "state_not_saved",
}


class Refusal(Exception):
    """Raised by handlers: `status` is the HTTP one, `path` the part of the request that is wrong; with `closes` the
    connection ends, for it is one of those that there are too many of."""

    def __init__(self, status: int, message: str, path: str = "", code: str = "", closes: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.path = path
        self.code = code or CODES[status]
        self.closes = closes


def error_response(refusal: Refusal) -> web.Response:
    body: Error = {"error": {"code": refusal.code, "message": refusal.message, "path": refusal.path}}
    headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
    response = web.json_response(body, status=refusal.status, headers=headers)
    if refusal.closes:
        response.force_close()
    return response


def _of_verb(error: ChangeError | ConfigError | UpgradeError) -> Refusal:
    """A change was impossible: nothing has changed. Reports all problems of a configuration, a line each."""
    if isinstance(error, UpgradeError):
        return Refusal(409, str(error))
    if isinstance(error, ConfigError):
        return Refusal(422, str(error), error.problems[0].path)
    status = next(status for status, code in CODES.items() if code == error.code)
    return Refusal(status, str(error), error.path)


def _of_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    """Unknown route, wrong method (Allow lists the right ones), too large body."""
    reason = error.reason.lower()
    status = 400 if isinstance(error, web.HTTPRequestEntityTooLarge) else error.status
    refusal = Refusal(status, f"{request.method} {request.path}: {reason}", code=reason.replace(" ", "_"))
    response = error_response(refusal)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return response


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return error_response(refusal)
    except (ChangeError, ConfigError, UpgradeError) as error:
        return error_response(_of_verb(error))
    except web.HTTPException as error:
        return _of_aiohttp(request, error)
    except Exception:
        logger.exception("admin request failed", extra={"fields": {"method": request.method, "path": request.path}})
        message = f"{request.method} {request.path}: failed; the log says why"
        return error_response(Refusal(500, message, code="internal_error"))
