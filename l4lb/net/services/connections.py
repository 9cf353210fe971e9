"""Connections of aiohttp that end when they are to end. A module of its own, since aiohttp takes long to import."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler


class Connector(aiohttp.TCPConnector):
    """`close` breaks off every connection that is left. One of TLS that was closed before waits for the other side to
    end TLS too, which a server that hangs never does; and an event loop of uvloop does not close while one waits."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._open: dict[Any, Any] = {}  # by transport, of asyncio or uvloop: its socket

    async def _create_connection(self, *request: Any, **options: Any) -> ResponseHandler:
        made = await super()._create_connection(*request, **options)
        transport = made.transport
        if transport is not None and (sock := transport.get_extra_info("socket")) is not None:  # None: lost already
            self._open[transport] = sock
            lost = made.connection_lost

            def connection_lost(error: BaseException | None) -> None:
                self._open.pop(transport, None)
                lost(error)

            made.connection_lost = connection_lost  # type: ignore[assignment, method-assign]
        return made

    def close(self, *how: Any, **options: Any) -> Any:
        closed = super().close(*how, **options)
        for transport, sock in list(self._open.items()):
            # Once TLS was closed twice, asyncio's abort() does nothing; in Python 3.11.2 it raises AttributeError.
            with contextlib.suppress(AttributeError):
                transport.abort()
            with contextlib.suppress(OSError, TypeError):  # ENOTCONN, EBADF: it has ended; uvloop has no such call
                sock.shutdown(socket.SHUT_RDWR)
        return closed
