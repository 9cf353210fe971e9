"""`Client`: another process's load balancer, over its admin API. Blocking; for scripts and the CLI."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Self, cast
from urllib.parse import quote, urlencode

from l4lb.errors import AdminError
from l4lb.net.address import parse_address


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, name: str, timeout: float) -> None:
        super().__init__("l4lb", timeout=timeout)
        self._name = "\0" + name[1:] if name.startswith("@") else name

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._name)


class Client:
    """Talks to the instance at `address` (``unix:/path`` or ``host:port``), with `token` where it asks for one.

    Every method raises `l4lb.errors.AdminError` when the instance cannot be reached or refuses.
    """

    def __init__(self, address: str, *, token: str = "", timeout: float = 10.0) -> None:
        self.address = address
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
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

    def status(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._get("/v1/status"))

    def listeners(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._get("/v1/listeners"))

    def pools(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._get("/v1/pools"))

    def pool(self, name: str) -> dict[str, Any]:
        return cast("dict[str, Any]", self._get(f"/v1/pools/{quote(name, safe='')}"))

    def explain(self, pool: str, source: str, to: str = "") -> dict[str, Any]:
        """Which backend of `pool` a client at `source` (address, or address:port) gets, and why.

        `to` is the address and port that it connects to, for pools whose hash_key needs it.
        """
        query = urlencode({"source": source, **({"to": to} if to else {})})
        return cast("dict[str, Any]", self._get(f"/v1/pools/{quote(pool, safe='')}/explain?{query}"))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, path: str) -> tuple[int, bytes]:
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _get(self, path: str) -> Any:
        kept = self._connection.sock is not None
        try:
            try:
                status, body = self._request(path)
            except (ConnectionError, http.client.RemoteDisconnected):
                self._connection.close()
                if not kept:
                    raise
                status, body = self._request(path)  # the server had closed the kept connection: once more, on a new one
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AdminError(f"no instance answers at {self.address}: {reason}") from error
        return self._parse(status, body)

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
