"""`Client`: controls another process's load balancer over its admin API. For scripts and the CLI; from any thread."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any, Self, cast
from urllib.parse import urlencode as _urlencode

from l4lb.errors import AdminError
from l4lb.model.changes import Changes
from l4lb.model.sessions import LIMIT_DEFAULT, SourceOrder
from l4lb.net.address import parse_address
from l4lb.remote import RemoteBans, RemoteListener, RemotePool, drain, drained, quoted

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
        try:
            parsed = parse_address(address)
        except ValueError as error:
            raise AdminError(f'"{address}": {error}', code="bad_address") from None
        if parsed.kind == "fd" or parsed.is_range:
            raise AdminError(f'"{address}": expected "unix:/path" or "host:port"', code="bad_address")
        self._connection: http.client.HTTPConnection
        if parsed.kind == "unix":
            self._connection = _UnixConnection(parsed.host, timeout)
        else:
            self._connection = http.client.HTTPConnection(parsed.host or "localhost", parsed.ports[0], timeout=timeout)

    # ---- what is there ----

    def status(self) -> dict[str, Any]:
        """The answer of ``GET /v1/status``."""
        return cast("dict[str, Any]", self.ask("GET", "/v1/status"))

    @property
    def listeners(self) -> dict[str, RemoteListener]:
        return {one["name"]: RemoteListener(self, one["name"]) for one in self.ask("GET", "/v1/listeners")}

    @property
    def pools(self) -> dict[str, RemotePool]:
        return {one["name"]: RemotePool(self, one["name"]) for one in self.ask("GET", "/v1/pools")}

    @property
    def bans(self) -> RemoteBans:
        return RemoteBans(self)

    def pool(self, name: str) -> dict[str, Any]:
        """The answer of ``GET /v1/pools/NAME``."""
        return RemotePool(self, name).status

    def explain(self, pool: str, source: str, to: str = "") -> dict[str, Any]:
        """Which backend of `pool` a client at `source` (address, or address:port) gets, and why.

        `to` is the address and port that it connects to, for pools whose hash_key needs it.
        """
        query = urlencode({"source": source, **({"to": to} if to else {})})
        return cast("dict[str, Any]", self.ask("GET", f"/v1/pools/{quoted(pool)}/explain?{query}"))

    def sessions(
        self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "", limit: int = LIMIT_DEFAULT
    ) -> list[dict[str, Any]]:
        """See `LoadBalancer.sessions`."""
        query = _filter(pool, backend, source, listener)
        return cast("list[dict[str, Any]]", self.ask("GET", f"/v1/sessions?{urlencode({**query, 'limit': limit})}"))

    def sources(self, listener: str = "", by: SourceOrder = "sessions", limit: int = 20) -> list[dict[str, Any]]:
        """See `LoadBalancer.sources`."""
        query = urlencode({"by": by, "limit": limit, **({"listener": listener} if listener else {})})
        return cast("list[dict[str, Any]]", self.ask("GET", f"/v1/sources?{query}"))

    # ---- changes ----

    def kill_session(self, id: str) -> dict[str, Any]:
        """See `LoadBalancer.kill_session`."""
        return cast("dict[str, Any]", self.ask("DELETE", f"/v1/sessions/{quoted(id)}"))

    def kill_sessions(self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "") -> int:
        """See `LoadBalancer.kill_sessions`; here at least one filter is required."""
        return self.kill_counted(pool=pool, backend=backend, source=source, listener=listener)["sessions"]

    def kill_counted(
        self, *, pool: str = "", backend: str = "", source: str = "", listener: str = ""
    ) -> dict[str, int]:
        """The same, with both numbers: `sessions`, which were reset, and `flows_left`, which matched too and cannot be
        ended, since the kernel forwards them."""
        query = urlencode(_filter(pool, backend, source, listener))
        return cast("dict[str, int]", self.ask("DELETE", f"/v1/sessions?{query}"))

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

    async def astatus(self) -> dict[str, Any]:
        return await asyncio.to_thread(self.status)

    async def aexplain(self, pool: str, source: str, to: str = "") -> dict[str, Any]:
        return await asyncio.to_thread(self.explain, pool, source, to)

    async def asessions(
        self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "", limit: int = LIMIT_DEFAULT
    ) -> list[dict[str, Any]]:
        query = _filter(pool, backend, source, listener)
        return await asyncio.to_thread(lambda: self.sessions(**query, limit=limit))

    async def asources(self, listener: str = "", by: SourceOrder = "sessions", limit: int = 20) -> list[dict[str, Any]]:
        return await asyncio.to_thread(lambda: self.sources(listener=listener, by=by, limit=limit))

    async def akill_session(self, id: str) -> dict[str, Any]:
        return await asyncio.to_thread(self.kill_session, id)

    async def akill_sessions(self, *, pool: str = "", backend: str = "", source: str = "", listener: str = "") -> int:
        query = _filter(pool, backend, source, listener)
        return await asyncio.to_thread(lambda: self.kill_sessions(**query))

    async def areload(self) -> Changes:
        return await asyncio.to_thread(self.reload)

    async def adrain(self, timeout: float | None = None, *, wait: bool = True) -> bool:
        return await asyncio.to_thread(lambda: self.drain(timeout, wait=wait))

    async def aupgrade(self) -> int:
        return await asyncio.to_thread(self.upgrade)

    # ---- one request ----

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

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
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AdminError(f"no instance answers at {self.address}: {reason}") from error
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


def urlencode(query: Mapping[str, object]) -> str:
    return _urlencode(query, errors="surrogateescape")  # an argument may be any bytes


def _filter(pool: str, backend: str, source: str, listener: str) -> dict[str, str]:
    given = {"pool": pool, "backend": backend, "source": source, "listener": listener}
    return {name: text for name, text in given.items() if text}
