"""The admin API's server: takes its socket, guards it with the token, and routes to `status.py`. Control loop only."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from l4lb.config import Config
from l4lb.control.admin.page import PAGE
from l4lb.control.admin.stream import EventStream
from l4lb.control.events import Events, logger
from l4lb.control.status import Status
from l4lb.errors import ConfigError
from l4lb.net.admin_socket import AdminSocket, default_admin_address, open_admin_socket

_OPEN = ("/", "/healthz", "/readyz")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def error_response(status: int, code: str, message: str, path: str = "") -> web.Response:
    body = {"error": {"code": code, "message": message, "path": path}}
    return web.json_response(body, status=status)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What aiohttp itself refuses (no such route, wrong method) looks like every other error; a defect of ours too."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        code = error.reason.lower().replace(" ", "_")
        return error_response(error.status, code, f"{request.method} {request.path}: {error.reason.lower()}")
    except Exception:
        logger.exception("admin request failed", extra={"fields": {"method": request.method, "path": request.path}})
        return error_response(500, "internal_error", f"{request.method} {request.path}: failed; the log says why")


def _bearer(token: str) -> Any:
    """Middleware that asks for `token`, compared in constant time.

    Liveness and readiness stay open to probes, and the status page, which holds no data and asks for the token itself.
    """

    @web.middleware
    async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if request.path in _OPEN or hmac.compare_digest(given.encode(), token.encode()):
            return await handler(request)
        return error_response(401, "unauthorized", "expected the header Authorization: Bearer TOKEN")

    return authorize


class AdminServer:
    """Serves `status` where `config` says; `address` is where that really is, empty when it is off."""

    def __init__(self, config: Config, status: Status, events: Events) -> None:
        self.address = ""
        self._stream = EventStream(events)
        self._config = config
        self._status = status
        self._socket: AdminSocket | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises ConfigError when the address is taken or the token cannot be read."""
        bind = self._config.admin.bind or default_admin_address()
        if bind == "off":
            return
        token = self._read_token()
        try:
            self._socket = open_admin_socket(bind)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise self._problem("bind", f'"{bind}": cannot listen: {reason}') from error
        middlewares = [errors_as_json, _bearer(token)] if token else [errors_as_json]
        app = web.Application(middlewares=middlewares)
        app.add_routes(self._routes())
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket.sock).start()
        self.address = self._socket.address

    async def stop(self) -> None:
        if self._runner is not None:
            self._stream.stop()
            await self._runner.cleanup()
            self._runner = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _problem(self, key: str, message: str) -> ConfigError:
        return ConfigError([self._config.problem(("admin", key), message)])

    def _read_token(self) -> str:
        path = self._config.admin.token_file
        if not path:
            return ""
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise self._problem("token_file", f'"{path}": cannot be read: {reason}') from error
        if not token:
            raise self._problem("token_file", f'"{path}": the file is empty; expected a token')
        return token

    def _routes(self) -> list[web.RouteDef]:
        status = self._status

        def answer(build: Callable[[], Any]) -> Handler:
            async def handler(request: web.Request) -> web.Response:
                return web.json_response(build())

            return handler

        routes = [
            web.get("/v1/status", answer(status.status)),
            web.get("/v1/listeners", answer(status.listeners)),
            web.get("/v1/pools", answer(status.pools)),
            web.get("/v1/pools/{pool}", self._pool),
            web.get("/v1/pools/{pool}/backends", self._backends),
            web.get("/v1/pools/{pool}/explain", self._explain),
            web.get("/v1/config", answer(status.config)),
            web.get("/v1/events", self._stream.serve),
            web.get("/healthz", answer(lambda: {"status": "alive"})),
            web.get("/readyz", self._ready),
        ]
        return [*routes, web.get("/", self._page)] if self._config.admin.dashboard else routes

    async def _pool(self, request: web.Request) -> web.Response:
        name = request.match_info["pool"]
        pool = self._status.pool(name)
        if pool is None:
            return error_response(404, "not_found", f'no pool "{name}"', "pool")
        return web.json_response(pool)

    async def _backends(self, request: web.Request) -> web.Response:
        name = request.match_info["pool"]
        pool = self._status.pool(name)
        if pool is None:
            return error_response(404, "not_found", f'no pool "{name}"', "pool")
        return web.json_response(pool["backends"])

    async def _explain(self, request: web.Request) -> web.Response:
        name, query = request.match_info["pool"], request.query
        if "source" not in query:
            return error_response(400, "bad_request", "expected ?source=ADDRESS or ADDRESS:PORT", "source")
        try:
            return web.json_response(self._status.explain(name, query["source"], query.get("to", "")))
        except KeyError:
            return error_response(404, "not_found", f'no pool "{name}"', "pool")
        except ValueError as error:
            return error_response(400, "bad_request", str(error))

    async def _ready(self, request: web.Request) -> web.Response:
        reasons = self._status.readiness()
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")
