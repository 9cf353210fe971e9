from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from l4lb.net.services import in_turn as module
from l4lb.net.services.in_turn import Pace, in_turn, with_silence
from l4lb.net.services.json_api import Access, ApiError

if TYPE_CHECKING:
    import aiohttp


def test_the_next_server_is_asked_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_MIN_S", 0.001)
    monkeypatch.setattr(module, "AGAIN_MAX_S", 0.002)

    async def ask(session: aiohttp.ClientSession, endpoint: str) -> AsyncGenerator[str, None]:
        assert not session.closed
        if endpoint.endswith("a"):
            raise ApiError(f"{endpoint} is away")
        yield f"news of {endpoint}"

    async def some() -> list[str]:
        found: list[str] = []
        async with aclosing(in_turn(Access(["http://a", "http://b"]), ask)) as news:
            async for one in news:
                found.append(str(one))
                if len(found) == 4:
                    break
        return found

    assert asyncio.run(some()) == ["http://a is away", "news of http://b"] * 2


def test_certificates_that_cannot_be_used_are_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_MIN_S", 0.001)
    monkeypatch.setattr(module, "AGAIN_MAX_S", 0.002)

    async def ask(session: aiohttp.ClientSession, endpoint: str) -> AsyncGenerator[str, None]:
        raise AssertionError("without certificates nobody is asked")
        yield ""

    async def some() -> list[str]:
        async with aclosing(in_turn(Access(["https://a"], ca_file="/none"), ask)) as news:
            return [str(await anext(news)), str(await anext(news))]

    assert asyncio.run(some()) == ["/none: cannot be used: No such file or directory"] * 2


def test_silence_between_items_is_noticed_and_their_end_is_the_end() -> None:
    async def some() -> list[int | None]:
        spoken = asyncio.Event()

        async def items() -> AsyncGenerator[int, None]:
            yield 1
            await spoken.wait()
            yield 2

        found: list[int | None] = []
        async with aclosing(items()) as source, aclosing(with_silence(source, 0.01)) as those:
            async for one in those:
                found.append(one)
                if one is None:
                    spoken.set()
        return found

    found = asyncio.run(some())
    assert [one for one in found if one is not None] == [1, 2]
    assert None in found


def test_an_error_of_the_items_passes_through_and_closing_closes_them() -> None:
    closed = []

    async def items(fails: bool) -> AsyncGenerator[int, None]:
        try:
            if fails:
                raise ApiError("broken")
            await asyncio.sleep(60)
            yield 1
        finally:
            closed.append(True)

    async def look(fails: bool) -> None:
        async with aclosing(items(fails)) as source, aclosing(with_silence(source, 0.01)) as those:
            assert await anext(those) is None

    with pytest.raises(ApiError, match="broken"):
        asyncio.run(look(fails=True))
    asyncio.run(look(fails=False))
    assert closed == [True, True]


def test_a_pace_lets_a_few_go_at_once_and_then_one_at_a_time() -> None:
    async def took_s(count: int) -> float:
        pace, begun = Pace(3, 0.05), time.monotonic()
        for _ in range(count):
            await pace.wait()
        return time.monotonic() - begun

    assert asyncio.run(took_s(7)) >= 4 * 0.05 - 0.005

    async def waits() -> list[float]:
        found: list[float] = []

        async def noted(delay_s: float) -> None:
            found.append(delay_s)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module.asyncio, "sleep", noted)
            pace = Pace(3, 1000.0)
            for _ in range(4):
                await pace.wait()
        return found

    (only,) = asyncio.run(waits())
    assert 900 < only <= 1000
