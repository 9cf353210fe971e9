"""The ``http`` and ``https`` checks: one request whose answer has the expected status and body.

HTTP/1.1 by hand, because thousands of checks per second must be cheap and a check needs little of it: no redirects, no
reuse, no decompression. It reads at most 64 KiB of head and as much of the body, and the body only for `expect_body`.
"""

from __future__ import annotations

import functools
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from l4lb.config import HealthConfig
from l4lb.config.options.patterns import parse_pattern
from l4lb.control.checks.checks import CheckFailed, Target, begin_step, shown
from l4lb.control.checks.stream import MAX_ANSWER_BYTES, Stream, open_stream, open_tls
from l4lb.version import __version__

STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]*))?\r?\n")
HEAD_END = re.compile(rb"\r?\n\r?\n")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[^\r\n]{0,256}\r?\n")
START_BYTES = b"HTTP/1."
NO_BODY = (204, 304)


async def check_http(target: Target) -> None:
    """Raises CheckFailed at steps ``connect``, ``status`` and ``body``; the caller bounds the time."""
    async with open_stream(target) as stream:
        await _exchange(stream, target)


async def check_https(target: Target) -> None:
    """The same over TLS, with ``tls`` after ``connect``."""
    settings = target.settings
    async with open_tls(target, settings.server_name or _name_of(settings.host)) as stream:
        await _exchange(stream, target)


def _name_of(host: str) -> str:
    """The name in ``name:port``; empty for an address in brackets."""
    return "" if host.startswith("[") else host.partition(":")[0]


async def _exchange(stream: Stream, target: Target) -> None:
    settings = target.settings
    begin_step("status")
    await stream.send(_request(settings, settings.host or _host(target)))
    answer = Answer(stream, settings.method == "HEAD")
    await answer.read_head()
    if not any(low <= answer.status <= high for low, high in _ranges(settings.expect_status)):
        raise CheckFailed("status", f"{answer.status} {answer.phrase}".rstrip())
    if settings.expect_body:
        begin_step("body")
        await answer.find_in_body(parse_pattern(settings.expect_body))


def _host(target: Target) -> str:
    """RFC 9112, 3.2: a request has a Host, even to a unix socket."""
    return "localhost" if target.address.family == socket.AF_UNIX else str(target.address)


def _request(settings: HealthConfig, host: str) -> bytes:
    lines = [f"{settings.method} {settings.path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    given = {name.lower() for name in settings.headers}
    defaults = {"User-Agent": f"l4lb/{__version__}", "Accept": "*/*"}
    lines += [f"{name}: {value}" for name, value in defaults.items() if name.lower() not in given]
    lines += [f"{name}: {value}" for name, value in settings.headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@functools.lru_cache(maxsize=256)
def _ranges(statuses: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    parts = (text.partition("-") for text in statuses)
    return tuple((int(low), int(high or low)) for low, _, high in parts)


@dataclass(slots=True)
class Answer:
    """One answer as far as it has arrived. `rest` is what follows the head."""

    stream: Stream
    is_head: bool
    status: int = 0
    phrase: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    rest: bytes = b""

    async def read_head(self) -> None:
        """Read the final status and headers; skips interim answers (RFC 9110, 15.2)."""
        data = b""
        while True:
            while (end := HEAD_END.search(data)) is None:
                if not START_BYTES.startswith(data[:7]) or len(data) >= MAX_ANSWER_BYTES:
                    raise CheckFailed("status", f"not an HTTP answer: {shown(data)}")
                data += await self._more(data)
            self._parse_head(data[: end.start()] + b"\n")
            data = data[end.end() :]
            if self.status >= 200 or self.status == 101:
                break
        self.rest = data

    async def _more(self, data: bytes) -> bytes:
        more = await self.stream.receive()
        if not more:
            raise CheckFailed("status", f"closed after {shown(data)}")
        return more

    def _parse_head(self, head: bytes) -> None:
        line = STATUS_LINE.match(head)
        if line is None:
            raise CheckFailed("status", f"not an HTTP answer: {shown(head)}")
        self.status, self.phrase = int(line[1]), re.sub(r"[^\x20-\x7e]", "?", (line[2] or b"")[:80].decode("latin-1"))
        fields = (text.partition(":") for text in head[line.end() :].decode("latin-1").splitlines())
        self.headers = {name.strip().lower(): value.strip() for name, _, value in fields}

    async def find_in_body(self, pattern: re.Pattern[bytes]) -> None:
        """Read until `pattern` is found in the body."""
        body = Body(self)
        while not pattern.search(body.content(self.rest)):
            if body.complete or len(self.rest) >= MAX_ANSWER_BYTES:
                raise CheckFailed("body", f"not found in {shown(body.content(self.rest))}")
            if more := await self.stream.receive():
                self.rest += more
            else:
                body.complete = True


class Body:
    """Decodes an answer's body, RFC 9112, 6.3: chunked, by length, or up to the end."""

    def __init__(self, answer: Answer) -> None:
        self._chunked = answer.headers.get("transfer-encoding", "").lower().endswith("chunked")
        length = answer.headers.get("content-length", "")
        self._length = int(length) if re.fullmatch(r"\d{1,18}", length) and not self._chunked else None
        if answer.is_head or answer.status in NO_BODY:
            self._chunked, self._length = False, 0
        self.complete = False

    def content(self, raw: bytes) -> bytes:
        """The content in `raw` so far; sets `complete` when it has the last byte."""
        if self._chunked:
            return b"".join(self._chunks(raw))
        if self._length is None:
            return raw
        self.complete = self.complete or len(raw) >= self._length
        return raw[: self._length]

    def _chunks(self, raw: bytes) -> Iterator[bytes]:
        at = 0
        while (line := CHUNK_SIZE.match(raw, at)) is not None:
            size = int(line[1], 16)
            if size == 0:
                self.complete = True
                return
            yield raw[line.end() : line.end() + size]
            at = line.end() + size + (2 if raw[line.end() + size :].startswith(b"\r\n") else 1)
