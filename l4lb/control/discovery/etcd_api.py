"""etcd's v3 API by its JSON gateway: keys and values are base64, numbers of 64 bits are strings. Control loop.

https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from l4lb.config import DiscoveryConfig
from l4lb.control.discovery.sources import NoAnswer
from l4lb.net.files import read_text

if TYPE_CHECKING:
    import aiohttp

_LINE_BYTES_MAX = 64 << 20  # of one message of a watch: many keys at once
_ERROR_CHARS = 200


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def range_of(prefix: str) -> dict[str, str]:
    """All keys that begin with it: up to the first that does not."""
    first = prefix.encode()
    last = first.rstrip(b"\xff")
    end = last[:-1] + bytes([last[-1] + 1]) if last else b"\0"
    return {"key": encoded(first), "range_end": encoded(end)}


class Etcd:
    """One server. Raises NoAnswer with the reason whenever it does not answer as it should."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str, settings: DiscoveryConfig) -> None:
        self._session, self._endpoint, self._settings = session, endpoint.rstrip("/"), settings
        self._headers: dict[str, str] = {}

    async def log_in(self) -> None:
        """With `user`, if there is one. Its token is good for some minutes, or for as long as a watch lasts."""
        if not self._settings.user:
            return
        try:
            password = (await asyncio.to_thread(read_text, self._settings.password_file)).strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise NoAnswer(f"{self._settings.password_file}: cannot be read: {reason}") from None
        said = await self._ask("/v3/auth/authenticate", {"name": self._settings.user, "password": password})
        self._headers = {"Authorization": str(said.get("token", ""))}

    async def range(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._ask("/v3/kv/range", what)

    async def _ask(self, path: str, what: Mapping[str, Any]) -> Mapping[str, Any]:
        import aiohttp

        try:
            async with asyncio.timeout(self._settings.timeout):
                async with self._session.post(self._endpoint + path, json=what, headers=self._headers) as answer:
                    return self._parsed(await answer.read(), answer.status)
        except TimeoutError:
            raise self._failed(f"no answer within {self._settings.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(str(error) or type(error).__name__) from None

    async def watch(self, what: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        """The results, as they come, until the server ends them."""
        import aiohttp

        url, wanted = f"{self._endpoint}/v3/watch", {"create_request": what}
        try:
            async with self._session.post(url, json=wanted, headers=self._headers) as answer:
                if answer.status != 200:
                    self._parsed(await answer.read(), answer.status)
                rest = b""
                async for data in answer.content.iter_any():
                    *lines, rest = (rest + data).split(b"\n")
                    for line in filter(None, lines):
                        yield self._parsed(line, 200).get("result", {})
                    if len(rest) > _LINE_BYTES_MAX:
                        raise self._failed("a message of the watch is too large")
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(str(error) or type(error).__name__) from None
        raise self._failed("the watch has ended")

    def _parsed(self, data: bytes, status: int) -> Mapping[str, Any]:
        try:
            said = json.loads(data)
        except (ValueError, RecursionError):
            said = None
        error = said.get("error") if isinstance(said, dict) else data[:_ERROR_CHARS].decode(errors="replace")
        if status != 200 or error or not isinstance(said, dict):
            reason = error.get("message", error) if isinstance(error, dict) else error
            raise self._failed(f"{reason or f'HTTP status {status}'}"[:_ERROR_CHARS])
        return said

    def _failed(self, reason: str) -> NoAnswer:
        return NoAnswer(f"{self._endpoint}: {reason}")


def session_for(settings: DiscoveryConfig) -> aiohttp.ClientSession:
    """NoAnswer for certificates that cannot be used."""
    import aiohttp

    secure = any(endpoint.startswith("https:") for endpoint in settings.endpoints)
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None) if secure else False
    except (OSError, ssl.SSLError) as error:
        raise NoAnswer(f"{settings.ca_file}: cannot be used: {error.strerror or error}") from None
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)  # one that etcd closed meanwhile is no failure
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.timeout)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)
