"""The admin API over HTTP, once its socket is open: the application with its guards and routes, and the connections.
Control loop only.

`server.py` imports this only when there is an admin API: aiohttp is a quarter of the time that a start takes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

from aiohttp import web

from l4lb.config.options.process import AdminConfig
from l4lb.control.admin.binding import BODY_BYTES_MAX, bind
from l4lb.control.admin.calls import Api, Verbs
from l4lb.control.admin.connections import Connections
from l4lb.control.admin.errors import Handler, errors_as_json
from l4lb.control.admin.guard import note_who, refuse_other_pages, require_token
from l4lb.control.admin.openapi import document
from l4lb.control.admin.page import FILES, serve_file
from l4lb.control.admin.routes import ROUTES
from l4lb.control.admin.stream import EventStream
from l4lb.control.process.status import Status
from l4lb.control.reporting.exposition import Metrics
from l4lb.control.state.events import Events
from l4lb.model.tokens import Token
from l4lb.net.address import parse_address
from l4lb.version import __version__

BACKLOG = 128
_silent = logging.getLogger("l4lb.admin.http")  # for aiohttp: anybody could fill the log with invalid HTTP
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class HttpService:
    """Serves `status` and `verbs`. Who asks needs one of `tokens`, if there are any."""

    def __init__(
        self,
        config: AdminConfig,
        tokens: Sequence[Token],
        status: Status,
        verbs: Verbs,
        events: Events,
        metrics: Metrics,
    ) -> None:
        self.connections = Connections(asyncio.Protocol)
        self._config = config
        self._tokens = tokens
        self._stream = EventStream(events)
        self._routes = [route for route in ROUTES if config.dashboard or not route.dashboard]
        self._api = Api(status, verbs, self._stream, self._document, metrics)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.AbstractServer | None = None

    async def start(self, sock: socket.socket, address: str) -> None:
        """Serve on `sock`, which was asked for as `address`."""
        app = self._application(address)
        self._runner = web.AppRunner(app, access_log=None, logger=_silent, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        self.connections.make = cast("Callable[[], asyncio.Protocol]", self._runner.server)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self.connections, sock=sock, backlog=BACKLOG)

    def stop_accepting(self) -> None:
        """Requests that have begun are finished."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        self.stop_accepting()
        if self._runner is not None:
            self._stream.stop()
            await self._runner.cleanup()
            self._runner = None

    def _document(self) -> dict[str, Any]:
        return document(self._routes, __version__)

    def _application(self, address: str) -> web.Application:
        middlewares: list[Any] = [self._noted, errors_as_json]
        parsed = parse_address(address)
        files = set(FILES) if self._config.dashboard else set()
        if self._tokens:
            middlewares.append(
                require_token(self._tokens, {route.path for route in self._routes if route.public} | files)
            )
        else:
            middlewares.append(refuse_other_pages({parsed.host}, one_label=parsed.kind == "unix"))
        middlewares.append(note_who)
        app = web.Application(middlewares=middlewares, client_max_size=BODY_BYTES_MAX)
        app.on_response_prepare.append(_never_kept)
        for route in self._routes:
            extra = {"allow_head": route.media != "text/event-stream"} if route.method == "GET" else {}
            add = getattr(app.router, f"add_{route.method.lower()}")
            add(route.pattern, bind(route, self._api), expect_handler=_asked_for_later, **extra)
        for path in files:
            app.router.add_get(path, serve_file, expect_handler=_asked_for_later)
        return app

    @web.middleware
    async def _noted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.connections.request_started(request)
        return await handler(request)


async def _asked_for_later(request: web.Request) -> None:
    """aiohttp would answer ``Expect: 100-continue`` before everything else, even without authorization; see
    `binding.py`."""


async def _never_kept(request: web.Request, response: web.StreamResponse) -> None:
    """Answers are never cached, and their content type is never guessed."""
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Server"] = "l4lb"
