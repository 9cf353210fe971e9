"""One etcd of several servers: whichever answers is asked. Control loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from l4lb.net.services.etcd import Etcd, Login
from l4lb.net.services.json_api import Access, ApiError, open_session

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")


class EtcdServers:
    """`close` it at the end. Opens its connections when it is first asked, on the loop of whoever asks; and anew after
    a failure, with the certificates that the files have then."""

    def __init__(self, access: Access, login: Login) -> None:
        self._access, self._login = access, login
        self._session: aiohttp.ClientSession | None = None
        self._server: Etcd | None = None
        self._next = 0

    async def ask(self, call: Callable[[Etcd], Awaitable[T]]) -> T:
        """What `call` returns of the first server that answers; twice of a single one, since its token may have
        expired. So only what may be done twice is asked for by this. ApiError of the last server when none answers."""
        for left in reversed(range(max(2, len(self._access.endpoints)))):
            try:
                return await call(await self.server())
            except ApiError:
                await self.close()
                if not left:
                    raise
        raise AssertionError("unreachable")

    async def server(self) -> Etcd:
        """The one that answered last, or another that can be logged in to. ApiError when that one does not answer."""
        if self._session is None:
            self._session = open_session(self._access)
        if self._server is None:
            endpoint = self._access.endpoints[self._next % len(self._access.endpoints)]
            self._next += 1
            server = Etcd(self._session, endpoint, self._access, self._login)
            await server.log_in()
            self._server = server
        return self._server

    async def close(self) -> None:
        session, self._session, self._server = self._session, None, None
        if session is not None:
            await session.close()
