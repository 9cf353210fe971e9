"""JSON over HTTP, as the control planes of other systems speak it: a question and its answer, or a stream of messages,
one on each line. Control loop.

Nothing is tried again here: whoever asks knows what a failure means, and which server is the next.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from l4lb.net.files import read_text

if TYPE_CHECKING:
    import aiohttp

ANSWER_BYTES_MAX = 64 << 20  # also of one message of a stream
_ERROR_CHARS = 200

Params = Mapping[str, str] | Sequence[tuple[str, str]]


class ApiError(Exception):
    """Why there is no answer that can be used. `status` is HTTP's: 0 when none came."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


class StreamEnded(ApiError):
    """The server has ended a stream in good order, after a whole message."""


@dataclass(frozen=True, slots=True)
class Access:
    """How servers are reached. `timeout_s`: how long an answer may take. The files are PEM: of CA certificates (none:
    the system's), and of the client's certificate with its key, which may stand in the same file."""

    endpoints: Sequence[str]
    timeout_s: float = 10.0
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """`headers` by their names in any case."""

    content: Any
    headers: Mapping[str, str]


@dataclass(slots=True)
class JsonApi:
    """One server. Every method raises ApiError, which names the server, whenever it does not answer as it should."""

    session: aiohttp.ClientSession
    endpoint: str
    timeout_s: float
    headers: dict[str, str] = field(default_factory=dict)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Params | None = None,
        wait_s: float = 0.0,
    ) -> Reply:
        """`wait_s`: how much longer than usual the server may take, since it was asked to wait for news."""
        import aiohttp

        within_s = self.timeout_s + wait_s
        try:
            async with asyncio.timeout(within_s):
                async with self._request(method, path, body, params) as answer:
                    data = await self._all(answer)
                    return Reply(self._parsed(data, answer.status), answer.headers)
        except TimeoutError:
            raise self.failed(f"no answer within {within_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self.failed(self._why(error)) from None

    async def stream(
        self, method: str, path: str, *, body: object = None, params: Params | None = None
    ) -> AsyncGenerator[Any, None]:
        """The messages as they come, for as long as the server sends any; StreamEnded at the end. That the server is
        still there, once it has begun to answer, is for the caller to find out."""
        import aiohttp

        lines = _Lines()
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await self._request(method, path, body, params)
            async with answer:
                if answer.status != 200:
                    self._parsed(await self._all(answer), answer.status)
                async for data in answer.content.iter_any():
                    for line in lines.take(data):
                        yield self._parsed(line, 200)
                    if lines.size > ANSWER_BYTES_MAX:
                        raise self.failed("a message is too large")
        except TimeoutError:
            raise self.failed(f"no answer within {self.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self.failed(self._why(error)) from None
        if lines.rest.strip():
            raise self.failed("the stream has ended in the middle of a message")
        raise StreamEnded(str(self.failed("the stream of messages has ended")))

    def failed(self, reason: str, status: int = 0) -> ApiError:
        return ApiError(f"{self.endpoint}: {reason}"[:_ERROR_CHARS], status)

    def _why(self, error: Exception) -> str:
        unreachable = getattr(error, "os_error", None)  # of aiohttp.ClientConnectorError
        if isinstance(unreachable, OSError) and not isinstance(unreachable, ssl.SSLError):
            number = unreachable.errno or 0  # below 0: of getaddrinfo(3)
            return os.strerror(number) if number > 0 else unreachable.strerror or str(unreachable)
        if isinstance(error, OSError) and error.errno is None and error.__cause__ is not None:
            hint = ": does the server ask for a client's certificate?" if self.endpoint.startswith("https:") else ""
            return f"the connection ended before the request was sent{hint}"
        return str(error) or type(error).__name__

    def _request(self, method: str, path: str, body: object, params: Params | None) -> Any:
        url = self.endpoint.rstrip("/") + path
        return self.session.request(  # a redirect may lead anywhere, and the headers have secrets
            method, url, json=body, params=params, headers=self.headers, allow_redirects=False
        )

    async def _all(self, answer: aiohttp.ClientResponse) -> bytes:
        """The body, in bounded memory."""
        parts, size = [], 0
        async for data in answer.content.iter_any():
            parts.append(data)
            size += len(data)
            if size > ANSWER_BYTES_MAX:
                raise self.failed(f"more than {ANSWER_BYTES_MAX >> 20} MiB")
        return b"".join(parts)

    def _parsed(self, data: bytes, status: int) -> Any:
        try:
            said = json.loads(data)
        except (ValueError, RecursionError):
            said = None
        if 200 <= status < 300 and said is not None:
            return said
        text = data[:_ERROR_CHARS].decode(errors="replace").strip()
        raise self.failed(_reason(said) or text or f"HTTP status {status}", status)


class _Lines:
    """Lines out of pieces of any size: each byte is copied once or twice, however small the pieces are."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self.size = 0  # of the line that has begun

    @property
    def rest(self) -> bytes:
        return b"".join(self._begun)

    def take(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without blank ones."""
        first, *more = data.split(b"\n")
        self._begun.append(first)
        self.size += len(first)
        if not more:
            return []
        *whole, last = self.rest, *more
        self._begun, self.size = [last], len(last)
        return [line for line in whole if line.strip()]


def _reason(said: object) -> str:
    """What an error's JSON says of itself."""
    for key in ("message", "error"):
        if isinstance(said, dict) and isinstance(said.get(key), str):
            return str(said[key])
    return ""


async def secret_in(file: str) -> str:
    """A password or token, alone in its file. ApiError, without its content, when it is not there."""
    try:
        secret = (await asyncio.to_thread(read_text, file)).strip()
    except (OSError, ValueError) as error:
        raise ApiError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if not secret.isprintable() or not secret:
        raise ApiError(f"{file}: {'has more than one line' if secret else 'is empty'}, expected a secret")
    return secret


def open_session(access: Access) -> aiohttp.ClientSession:
    """For all of its servers. ApiError for certificates that cannot be used."""
    import aiohttp

    from l4lb.net.services.connections import Connector

    secure = any(endpoint.startswith("https:") for endpoint in access.endpoints)
    connector = Connector(  # without keep-alive: a connection that the server closed meanwhile is no failure
        ssl=_context(access) if secure else False, force_close=True
    )
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=access.timeout_s)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


def _context(access: Access) -> ssl.SSLContext:
    file = access.ca_file
    try:
        context = ssl.create_default_context(cafile=file or None)
        if access.cert_file:
            file = access.cert_file
            context.load_cert_chain(file, access.key_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ApiError(f"{file}: cannot be used: {error.strerror or error}") from None
    return context
