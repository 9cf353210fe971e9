"""Against a real HTTP server that answers as a test tells it to."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from l4lb.net.services import json_api
from l4lb.net.services.connections import Connector
from l4lb.net.services.json_api import Access, ApiError, JsonApi, _Lines, open_session, secret_in

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def asking(handler: Handler, timeout_s: float = 5.0) -> AsyncGenerator[JsonApi, None]:
    server = web.Server(handler)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)  # for handlers that hang
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with open_session(Access([endpoint], timeout_s)) as session:
            yield JsonApi(session, endpoint, timeout_s)
    finally:
        await runner.cleanup()


def says(body: bytes, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status)

    return handler


async def asked(handler: Handler, timeout_s: float = 5.0) -> object:
    async with asking(handler, timeout_s) as api:
        return (await api.ask("GET", "/")).content


async def streamed(handler: Handler) -> list[object]:
    found: list[object] = []
    async with asking(handler) as api:
        try:
            async for message in api.stream("GET", "/"):
                found.append(message)
        except ApiError as error:
            found.append(str(error).rpartition(": ")[2])
    return found


@pytest.mark.parametrize("body", [b"[]", b"0", b'{"a": "b"}', b'{"error": "in a 200 that is for the caller to judge"}'])
def test_an_answer(body: bytes) -> None:
    assert asyncio.run(asked(says(body))) == json.loads(body)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 200, "HTTP status 200"),
        (b"<html>", 200, "<html>"),
        (b"null", 200, "null"),
        (b"[" * 100_000, 200, "[[["),
        (b"\xff", 200, "�"),
        (b'{"message": "gone"}', 410, "gone"),
        (b'{"error": "who are you?"}', 401, "who are you?"),
        (b'{"error": {"code": 5}}', 500, '{"error":'),
        (b"no healthy upstream", 503, "no healthy upstream"),
        (b"{}", 404, "{}"),
        (b"", 500, "HTTP status 500"),
    ],
)
def test_what_is_no_answer_says_why(body: bytes, status: int, reason: str) -> None:
    with pytest.raises(ApiError) as raised:
        asyncio.run(asked(says(body, status)))
    assert str(raised.value).startswith("http://127.0.0.1:")
    assert f": {reason}" in str(raised.value)
    assert len(str(raised.value)) <= 200
    assert raised.value.status == status


def test_a_server_that_is_silent_or_stops_in_the_middle() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async def stops(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"[")
        assert request.transport is not None
        request.transport.close()
        return response

    async def watched() -> None:
        async with asking(silent, 0.2) as api:
            async for _ in api.stream("GET", "/"):
                raise AssertionError

    with pytest.raises(ApiError, match=r"no answer within 0\.2 s"):
        asyncio.run(asked(silent, 0.2))
    with pytest.raises(ApiError, match=r"no answer within 0\.2 s"):
        asyncio.run(watched())
    with pytest.raises(ApiError, match="payload"):
        asyncio.run(asked(stops))


def test_an_answer_without_end_is_refused_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_api, "ANSWER_BYTES_MAX", 1 << 20)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))

    with pytest.raises(ApiError, match="more than 1 MiB"):
        asyncio.run(asked(endless))

    async def watched() -> None:
        async with asking(endless) as api:
            async for _ in api.stream("GET", "/"):
                raise AssertionError

    with pytest.raises(ApiError, match="a message is too large"):
        asyncio.run(watched())


def test_messages_come_whole_however_they_are_cut() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (b'{"a"', b": 1}\n", b'\n{"b": 2}\n{"c": ', b"3}\n"):
            await response.write(part)
            await asyncio.sleep(0.01)
        return response

    assert asyncio.run(streamed(handler)) == [{"a": 1}, {"b": 2}, {"c": 3}, "the stream of messages has ended"]


def test_connections_that_have_ended_are_forgotten() -> None:
    async def asked_often() -> None:
        async with asking(says(b"[]")) as api:
            for _ in range(5):
                await api.ask("GET", "/")
            connector = api.session.connector
            assert isinstance(connector, Connector)
            async with asyncio.timeout(30):
                while connector._open:
                    await asyncio.sleep(0.01)

    asyncio.run(asked_often())


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"bc\n\nd", b"e\nf\n", b" \n"]), max_size=12))
def test_lines_are_the_same_however_they_are_cut(pieces: list[bytes]) -> None:
    lines = _Lines()
    found = [line for piece in pieces for line in lines.take(piece)]
    *whole, rest = b"".join(pieces).split(b"\n")
    assert (found, lines.rest, lines.size) == ([line for line in whole if line.strip()], rest, len(rest))


def test_a_line_in_small_pieces_is_not_copied_again_for_each() -> None:
    """Of 300,000 pieces, which would be 45 GB to copy, one by one."""
    lines = _Lines()
    for _ in range(300_000):
        assert lines.take(b"a") == []
    assert lines.take(b"\n") == [b"a" * 300_000]


def test_a_stream_that_ends_in_the_middle_of_a_message_has_not_ended_in_order() -> None:
    said = asyncio.run(streamed(says(b'{"a": 1}\n{"b"')))
    assert said == [{"a": 1}, "the stream has ended in the middle of a message"]


def test_a_redirect_is_not_followed_and_names_of_headers_are_in_any_case() -> None:
    async def moved(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/elsewhere", text="it has moved")

    async def named(request: web.Request) -> web.StreamResponse:
        return web.json_response([], headers={"x-some-index": "5"})

    async def index() -> str:
        async with asking(named) as api:
            return (await api.ask("GET", "/")).headers["X-Some-Index"]

    with pytest.raises(ApiError, match="it has moved") as raised:
        asyncio.run(asked(moved))
    assert raised.value.status == 302
    assert asyncio.run(index()) == "5"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        (b" \n", "is empty, expected a secret"),
        (b"one\ntwo\n", "has more than one line, expected a secret"),
        (b"\xff", "cannot be read: not UTF-8"),
    ],
)
def test_a_secret_that_cannot_be_one(content: bytes | None, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ApiError) as raised:
        asyncio.run(secret_in(str(file)))
    assert str(raised.value) == f"{file}: {reason}"


def test_a_stream_that_is_refused() -> None:
    async def watched() -> None:
        async with asking(says(b'{"message": "too old"}', 410)) as api:
            async for _ in api.stream("GET", "/"):
                raise AssertionError

    with pytest.raises(ApiError, match="too old") as raised:
        asyncio.run(watched())
    assert raised.value.status == 410


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("http://127.0.0.1:1", "Connection refused"),
        ("https://127.0.0.1:1", "Connection refused"),
        ("http://no.such.host.invalid:1", "(Name or service not known|Temporary failure in name resolution)"),
    ],
)
def test_nobody_is_there(endpoint: str, reason: str, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def refused() -> object:
        async with open_session(Access([endpoint])) as session:
            return await JsonApi(session, endpoint, 30.0).ask("GET", "/")

    with asyncio.Runner(loop_factory=new_loop) as runner, pytest.raises(ApiError) as raised:
        runner.run(refused())
    assert re.fullmatch(f"{endpoint}: {reason}", str(raised.value))
    assert raised.value.status == 0
