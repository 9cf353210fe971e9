"""`Client`: controls another process's load balancer over its admin API. For scripts and the CLI; from any thread."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlencode as _urlencode

from l4lb.control.state.feed import AsyncEventIterator, EventIterator, Feed, selection
from l4lb.errors import AdminError, UsageError
from l4lb.model.changes import Changes
from l4lb.model.hints import Named
from l4lb.model.sessions import LIMIT_DEFAULT, SourceOrder
from l4lb.model.stats import Stats
from l4lb.net.address import parse_address
from l4lb.remote import RemoteBans, RemoteListener, RemotePool, answers, drain, drained, quoted
from l4lb.remote.following import Following, Peer, reason_of

if TYPE_CHECKING:  # only names of types: they are made with pydantic, which takes long to import
    from l4lb.control.reporting import part_shapes, shapes

_POLL_S = 0.05
UPGRADED_WITHIN_S = 90.0  # the new process has 60 s to start


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, name: str, timeout: float) -> None:
        super().__init__("l4lb", timeout=timeout)
        self._name = "\0" + name[1:] if name.startswith("@") else name

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._name)


class Client:
    """Talks to the instance at `address` (``unix:/path`` or ``host:port``), with `token` if it requires one.

    The methods are those of `LoadBalancer`; each has an awaitable twin whose name begins with ``a``. All raise
    `l4lb.errors.AdminError` when the instance cannot be reached or refuses. `timeout` is in seconds.
    """

    def __init__(self, address: str, *, token: str = "", timeout: float = 10.0) -> None:
        self.address = address
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = timeout
        self._one_at_a_time = threading.Lock()
        self._streams: weakref.WeakSet[Following] = weakref.WeakSet()
        if not isinstance(address, str):
            raise UsageError(f'expected an address such as "unix:/run/l4lb/admin.sock", not {type(address).__name__}')
        try:
            parsed = parse_address(address)
        except ValueError as error:
            raise AdminError(f'"{address}": {error}', code="bad_address") from None
        if parsed.kind == "fd" or parsed.is_range:
            raise AdminError(f'"{address}": expected "unix:/path" or "host:port"', code="bad_address")
        self._parsed = parsed
        self._connection = self._connect(timeout)

    def __repr__(self) -> str:
        return f"<Client {self.address}>"

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        parsed = self._parsed
        if parsed.kind == "unix":
            return _UnixConnection(parsed.host, timeout)
        return http.client.HTTPConnection(parsed.host or "localhost", parsed.ports[0], timeout=timeout)

    # ---- what is there ----

    def status(self) -> shapes.Status:
        """The answer of ``GET /v1/status``."""
        return cast("shapes.Status", self.ask("GET", "/v1/status"))

    def fleet(self) -> part_shapes.Fleet:
        """The answer of ``GET /v1/fleet``: all nodes, as this one knows them. Raises `l4lb.errors.AdminError`
        (`not_found`) when the process belongs to no fleet."""
        return cast("part_shapes.Fleet", self.ask("GET", "/v1/fleet"))

    @property
    def config(self) -> dict[str, Any]:
        """The answer of ``GET /v1/config``: the configuration in use, by tables as in a file. Secrets are masked."""
        return cast("dict[str, Any]", self.ask("GET", "/v1/config"))

    @property
    def listeners(self) -> dict[str, RemoteListener]:
        """By name, as they are now. ``[]`` with another name raises `l4lb.errors.UnknownNameError`, a KeyError."""
        names = [one["name"] for one in self.ask("GET", "/v1/listeners")]
        return Named("listener", ((name, RemoteListener(self, name)) for name in names))

    @property
    def pools(self) -> dict[str, RemotePool]:
        """By name, as they are now. ``[]`` with another name raises `l4lb.errors.UnknownNameError`, a KeyError."""
        names = [one["name"] for one in self.ask("GET", "/v1/pools")]
        return Named("pool", ((name, RemotePool(self, name)) for name in names))

    @property
    def bans(self) -> RemoteBans:
        """Who is kept out at runtime."""
        return RemoteBans(self)

    def stats(self) -> Stats:
        """All counters, read now, as far as ``GET /v1/status`` has them: no histograms and no limits."""
        return answers.stats(self.status())

    def listener_addresses(self, name: str) -> list[str]:
        """The addresses on which listener `name` listens, with real port numbers; none while it drains."""
        return self.listeners[name].addresses

    def wait_ready(self, timeout: float = 10.0) -> bool:
        """Wait until every backend has been checked and every pool has a usable one.

        Returns False when that takes longer than `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self._ready():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _ready(self) -> bool:
        pools: list[shapes.Pool] = self.ask("GET", "/v1/pools")
        if any(backend["health"] == "unknown" for pool in pools for backend in pool["backends"]):
            return False
        try:
            self.ask("GET", "/readyz")
        except AdminError as error:
            if error.status != 503:
                raise
            return False
        return True

    def events(self, *, level: str = "info", pool: str = "", last: int = 0, follow: bool = True) -> EventIterator:
        """See `LoadBalancer.events`. On a connection of its own, which is read on a thread until the iterator is
        closed; the iteration raises AdminError when the connection breaks."""
        feed = Feed(selection(level, pool))
        following = self._follow(feed, last, follow)
        iterator = EventIterator(feed, following.stop)
        try:
            following.wait_begun()
        except BaseException:
            iterator.close()
            raise
        return iterator

    def aevents(self, *, level: str = "info", pool: str = "", last: int = 0, follow: bool = True) -> AsyncEventIterator:
        """The same for ``async for``. ``async with client.aevents() as events`` goes on once events are received; else
        they are from a moment later on."""
        feed = Feed(selection(level, pool))
        following = self._follow(feed, last, follow)
        return AsyncEventIterator(feed, following.stop, following.wait_begun)

    def _follow(self, feed: Feed, last: int, follow: bool) -> Following:
        peer = Peer(lambda: self._connect(self._timeout), self._headers, self._refusal, self._unreachable)
        following = Following(peer, last, follow, feed)
        self._streams.add(following)
        following.start()
        return following

    def pool(self, name: str) -> shapes.Pool:
        """The answer of ``GET /v1/pools/NAME``."""
        return RemotePool(self, name).status

    def explain(self, pool: str, source: str, to: str = "") -> shapes.Explanation:
        """Which backend of `pool` a client at `source` (address, or address:port) gets, and why.

        `to` is the address and port that it connects to, for pools whose hash_key needs it.
        """
        query = urlencode({"source": source, **({"to": to} if to else {})})
        return cast("shapes.Explanation", self.ask("GET", f"/v1/pools/{quoted(pool)}/explain?{query}"))

    def sessions(
        self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "", limit: int = LIMIT_DEFAULT
    ) -> list[shapes.Session]:
        """See `LoadBalancer.sessions`."""
        query = _filter(pool, backend, source, listener)
        return cast("list[shapes.Session]", self.ask("GET", f"/v1/sessions?{urlencode({**query, 'limit': limit})}"))

    def sources(self, listener: str = "", by: SourceOrder = "sessions", limit: int = 20) -> list[shapes.Source]:
        """See `LoadBalancer.sources`."""
        query = urlencode({"by": by, "limit": limit, **({"listener": listener} if listener else {})})
        return cast("list[shapes.Source]", self.ask("GET", f"/v1/sources?{query}"))

    # ---- changes ----

    def kill_session(self, id: str) -> shapes.Session:
        """See `LoadBalancer.kill_session`."""
        return cast("shapes.Session", self.ask("DELETE", f"/v1/sessions/{quoted(id)}"))

    def kill_sessions(self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "") -> int:
        """See `LoadBalancer.kill_sessions`; here at least one filter is required."""
        return self.kill_counted(pool=pool, backend=backend, source=source, listener=listener)["sessions"]

    def kill_counted(self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "") -> shapes.Ended:
        """The same, with both numbers: `sessions`, which were reset, and `flows_left`, which matched too and cannot be
        ended, since the kernel forwards them."""
        query = urlencode(_filter(pool, backend, source, listener))
        return cast("shapes.Ended", self.ask("DELETE", f"/v1/sessions?{query}"))

    def reload(self) -> Changes:
        """Make it read its file again and apply it. Returns what changed. Raises AdminError, with every problem."""
        said = self.ask("POST", "/v1/reload")
        kinds = {kind: tuple(said[kind].values()) for kind in ("pools", "backends", "listeners")}
        return Changes(**kinds, needs_restart=tuple(said["needs_restart"]))

    def drain(self, timeout: float | None = None, *, wait: bool = True) -> bool:
        """Make it stop accepting, let its sessions go on for `timeout` seconds (default: its drain_timeout), and exit.

        With `wait`, return when that is over: True when no session was left. Without, return at once: True when it has
        no session.
        """
        return drained(drain(self, wait, timeout))

    def upgrade(self) -> int:
        """Let a new process take its place, and return the new pid. This client then talks to the new process."""
        pid = int(self.ask("POST", "/v1/upgrade", timeout=UPGRADED_WITHIN_S)["pid"])
        self.close()
        return pid

    # ---- the same under asyncio ----

    async def alisteners(self) -> dict[str, RemoteListener]:
        """See `listeners`."""
        return await asyncio.to_thread(lambda: self.listeners)

    async def apools(self) -> dict[str, RemotePool]:
        """See `pools`."""
        return await asyncio.to_thread(lambda: self.pools)

    async def apool(self, name: str) -> shapes.Pool:
        """See `pool`."""
        return await asyncio.to_thread(self.pool, name)

    async def aconfig(self) -> dict[str, Any]:
        """See `config`."""
        return await asyncio.to_thread(lambda: self.config)

    async def astats(self) -> Stats:
        """See `stats`."""
        return await asyncio.to_thread(self.stats)

    async def alistener_addresses(self, name: str) -> list[str]:
        """See `listener_addresses`."""
        return await asyncio.to_thread(self.listener_addresses, name)

    async def await_ready(self, timeout: float = 10.0) -> bool:
        """See `wait_ready`."""
        return await asyncio.to_thread(self.wait_ready, timeout)

    async def astatus(self) -> shapes.Status:
        """See `status`."""
        return await asyncio.to_thread(self.status)

    async def afleet(self) -> part_shapes.Fleet:
        """See `fleet`."""
        return await asyncio.to_thread(self.fleet)

    async def aexplain(self, pool: str, source: str, to: str = "") -> shapes.Explanation:
        """See `explain`."""
        return await asyncio.to_thread(self.explain, pool, source, to)

    async def asessions(
        self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "", limit: int = LIMIT_DEFAULT
    ) -> list[shapes.Session]:
        """See `sessions`."""
        query = _filter(pool, backend, source, listener)
        return await asyncio.to_thread(lambda: self.sessions(**query, limit=limit))

    async def asources(self, listener: str = "", by: SourceOrder = "sessions", limit: int = 20) -> list[shapes.Source]:
        """See `sources`."""
        return await asyncio.to_thread(lambda: self.sources(listener=listener, by=by, limit=limit))

    async def akill_session(self, id: str) -> shapes.Session:
        """See `kill_session`."""
        return await asyncio.to_thread(self.kill_session, id)

    async def akill_sessions(self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "") -> int:
        """See `kill_sessions`."""
        query = _filter(pool, backend, source, listener)
        return await asyncio.to_thread(lambda: self.kill_sessions(**query))

    async def akill_counted(
        self, *, pool: str = "", backend: str = "", source: str = "", listener: str = ""
    ) -> shapes.Ended:
        """See `kill_counted`."""
        query = _filter(pool, backend, source, listener)
        return await asyncio.to_thread(lambda: self.kill_counted(**query))

    async def areload(self) -> Changes:
        """See `reload`."""
        return await asyncio.to_thread(self.reload)

    async def adrain(self, timeout: float | None = None, *, wait: bool = True) -> bool:
        """See `drain`."""
        return await asyncio.to_thread(lambda: self.drain(timeout, wait=wait))

    async def aupgrade(self) -> int:
        """See `upgrade`."""
        return await asyncio.to_thread(self.upgrade)

    # ---- one request ----

    def close(self) -> None:
        """Close the connection, and the iterators over events. The next request opens a new one."""
        self._connection.close()
        for following in list(self._streams):
            following.stop()

    async def aclose(self) -> None:
        """See `close`."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def ask(self, method: str, path: str, body: object = None, timeout: float | None = None) -> Any:
        """Send one request to the admin API and return its answer. `timeout`, in seconds, for requests that take
        long."""
        with self._one_at_a_time:
            return self._parse(*self._ask(method, path, body, timeout or self._timeout))

    def _ask(self, method: str, path: str, body: object, timeout: float) -> tuple[int, bytes]:
        if method != "GET" or timeout != self._timeout:
            self._connection.close()  # the server may be closing the kept one, and a change must be requested only once
        kept = self._connection.sock is not None
        self._connection.timeout = timeout
        try:
            try:
                return self._request(method, path, body)
            except (ConnectionError, http.client.RemoteDisconnected):
                self._connection.close()
                if not kept:
                    raise
                return self._request(method, path, body)  # the server had closed the kept connection: on a new one
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._unreachable(reason_of(error)) from error
        finally:
            if timeout != self._timeout:
                self._connection.close()

    def _request(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text, self._headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _parse(self, status: int, body: bytes) -> Any:
        try:
            parsed = json.loads(body)
        except ValueError:
            raise AdminError(f"{self.address} does not answer as l4lb does (HTTP {status})", status=status) from None
        if status >= 400:
            error = parsed.get("error", {}) if isinstance(parsed, dict) else {}
            message = error.get("message", f"HTTP {status}")
            raise AdminError(message, code=error.get("code", "error"), status=status)
        return parsed

    def _unreachable(self, reason: str) -> AdminError:
        return AdminError(f"no instance answers at {self.address}: {reason}")

    def _refusal(self, status: int, body: bytes) -> AdminError:
        try:
            self._parse(status, body)
        except AdminError as error:
            return error
        return AdminError(f"{self.address} does not answer as l4lb does (HTTP {status})", status=status)


def urlencode(query: Mapping[str, object]) -> str:
    return _urlencode(query, errors="surrogateescape")  # an argument may be any bytes


def _filter(pool: str, backend: str, source: str, listener: str) -> dict[str, str]:
    given = {"pool": pool, "backend": backend, "source": source, "listener": listener}
    return {name: text for name, text in given.items() if text}
