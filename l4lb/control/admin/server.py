"""The admin API's server: opens its socket, guards it, and serves the routes of `routes.py`. Control loop only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web

from l4lb.config import Config
from l4lb.control.admin.binding import BODY_BYTES_MAX, bind
from l4lb.control.admin.calls import Api, Verbs
from l4lb.control.admin.connections import Connections
from l4lb.control.admin.errors import Handler, errors_as_json
from l4lb.control.admin.guard import refuse_other_pages, require_token
from l4lb.control.admin.openapi import document
from l4lb.control.admin.page import FILES, serve_file
from l4lb.control.admin.routes import ROUTES
from l4lb.control.admin.stream import EventStream
from l4lb.control.process.status import Status
from l4lb.control.reporting.exposition import Metrics
from l4lb.control.state.events import Events
from l4lb.errors import ConfigError
from l4lb.net.address import parse_address
from l4lb.net.files import read_text
from l4lb.net.listen.admin_socket import AdminSocket, default_admin_address, open_admin_socket
from l4lb.net.privileges import Identity
from l4lb.version import __version__

BACKLOG = 128
_silent = logging.getLogger("l4lb.admin.http")  # for aiohttp: anybody could fill the log with invalid HTTP
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class AdminServer:
    """Serves `status` and `verbs` at the address in `config`; `address` is the real one, empty when it is off."""

    def __init__(
        self,
        config: Config,
        status: Status,
        verbs: Verbs,
        events: Events,
        metrics: Metrics,
        given: AdminSocket | None = None,
    ) -> None:
        self.address = ""
        self._given = given
        self._stream = EventStream(events)
        self._config = config
        self._routes = [route for route in ROUTES if config.admin.dashboard or not route.dashboard]
        self._api = Api(status, verbs, self._stream, self._document, metrics)
        self._socket: AdminSocket | None = None
        self._token = ""
        self._runner: web.AppRunner | None = None
        self._server: asyncio.AbstractServer | None = None
        self.connections = Connections(asyncio.Protocol)

    def bind(self, owner: Identity | None = None) -> None:
        """Open the socket, whose file will belong to `owner`, and read the token. ConfigError when the address is taken
        or the token cannot be read."""
        address = self._config.admin.bind or default_admin_address()
        if address == "off":
            return
        self._token = self._read_token()
        try:
            self._socket = self._take_given(address) or open_admin_socket(address, owner)
            self._socket.give(owner)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise self._problem("bind", f'"{address}": cannot listen: {reason}') from error

    def files(self) -> list[str]:
        """The files that are removed at the end."""
        return [str(self._socket.file)] if self._socket is not None and self._socket.file else []

    async def start(self) -> None:
        """Serve on the socket that `bind` opened, if there is one."""
        if self._socket is None:
            return
        app = self._application(self._socket.asked_for, self._token)
        self._runner = web.AppRunner(app, access_log=None, logger=_silent, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        self.connections.make = cast("Callable[[], asyncio.Protocol]", self._runner.server)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self.connections, sock=self._socket.sock, backlog=BACKLOG)
        self.address = self._socket.address

    def _take_given(self, address: str) -> AdminSocket | None:
        """The socket of the previous process, if it has the configured address. The default address always matches: it
        depends on the user, who may have changed."""
        given, self._given = self._given, None
        if given is not None and (given.asked_for == address or not self._config.admin.bind):
            return given
        if given is not None:
            given.close()
        return None

    @property
    def socket(self) -> AdminSocket | None:
        return self._socket

    def claim(self) -> None:
        """The process before this one has left."""
        if self._socket is not None:
            self._socket.claim()

    async def stop_accepting(self) -> None:
        """Another process answers from now on; requests that have begun are finished here."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        if self._given is not None:
            self._given.close()
            self._given = None
        await self.stop_accepting()
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
            token = read_text(path).strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise self._problem("token_file", f'"{path}": cannot be read: {reason}') from error
        if not token:
            raise self._problem("token_file", f'"{path}": the file is empty; expected a token')
        return token

    def _document(self) -> dict[str, Any]:
        return document(self._routes, __version__)

    def _application(self, address: str, token: str) -> web.Application:
        middlewares: list[Any] = [self._noted, errors_as_json]
        parsed = parse_address(address)
        files = set(FILES) if self._config.admin.dashboard else set()
        if token:
            middlewares.append(require_token(token, {route.path for route in self._routes if route.public} | files))
        else:
            middlewares.append(refuse_other_pages({parsed.host}, one_label=parsed.kind == "unix"))
        app = web.Application(middlewares=middlewares, client_max_size=BODY_BYTES_MAX)
        app.on_response_prepare.append(_never_kept)
        for route in self._routes:
            extra = {"allow_head": route.media != "text/event-stream"} if route.method == "GET" else {}
            add = getattr(app.router, f"add_{route.method.lower()}")
            add(route.path, bind(route, self._api), expect_handler=_asked_for_later, **extra)
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
