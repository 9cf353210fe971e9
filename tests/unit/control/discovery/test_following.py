from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from l4lb.config import DiscoveryConfig
from l4lb.control.discovery import following
from l4lb.control.discovery.following import Following
from l4lb.control.discovery.registry import SOURCES
from l4lb.control.discovery.sources import Asked, Source
from l4lb.control.state.events import Event, Events


async def until(following: Following, failures: int, answers: int) -> None:
    async with asyncio.timeout(60):
        while following.known.failures < failures or following.known.answers < answers:
            await asyncio.sleep(0.01)


def test_an_answer_that_holds_late_hides_no_failure_since(tmp_path: Path) -> None:
    """Of one that breaks while the answer before it is still applied."""
    file = tmp_path / "backends"
    heard: list[Event] = []
    events = Events()
    events.subscribe(heard.append)

    async def follow() -> None:
        file.write_text("127.0.0.1:1")
        following = Following("web", DiscoveryConfig(type="file", path=str(file)), events)
        try:
            await until(following, 0, 1)
            file.write_text("127.0.0.1:1\n127.0.0.1:1")
            await until(following, 2, 1)
            following.applied()
            assert "line 2" in following.known.error
            answers = following.known.answers
            await until(following, following.known.failures + 1, 0)
            assert following.known.answers == answers, "what cannot be used is no answer"
            file.write_text("127.0.0.1:2")
            await until(following, 0, answers + 1)
            assert "line 2" in following.known.error, "until the new answer holds"
            following.applied()
            assert following.known.error == ""
        finally:
            await following.stop()

    asyncio.run(follow())
    assert [event.kind for event in heard] == ["discovery_failed", "discovery_recovered"]


async def _exits(asked: Asked) -> AsyncIterator[list[str]]:
    sys.exit(3)
    yield []


async def _cancels_itself(asked: Asked) -> AsyncIterator[list[str]]:
    raise asyncio.CancelledError
    yield []


@pytest.mark.parametrize(
    ("source", "said"),
    [(_exits, "the source called sys.exit(3)"), (_cancels_itself, "the source cancelled itself")],
    ids=["exits", "cancels"],
)
def test_a_source_that_ends_its_task_is_asked_again(source: Source, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "file", source)
    monkeypatch.setattr(following, "AGAIN_MIN_S", 0.0)

    async def follow() -> None:
        one = Following("web", DiscoveryConfig(type="file", path="/x"), Events())
        try:
            await until(one, 3, 0)
            assert one.known.error == said
        finally:
            await one.stop()

    asyncio.run(follow())
