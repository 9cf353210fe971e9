"""`events` and `aevents`: the same lines against an instance here and over its admin API."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import AdminError, Client, EngineError, Event, LoadBalancer, UsageError
from l4lb.config import AdminConfig
from l4lb.control.state.feed import QUEUE_LENGTH
from tests.support.balancing import make_config
from tests.support.waiting import wait_until


@pytest.fixture
def here(tmp_path: Path) -> Iterator[LoadBalancer]:
    admin = AdminConfig(bind=f"unix:{tmp_path}/admin.sock")
    config = make_config(["127.0.0.1:1"])
    pools = {**config.pools, "other": config.pools["web"]}
    with LoadBalancer(config.model_copy(update={"admin": admin, "pools": pools})) as here:
        yield here


@pytest.fixture(params=["here", "over the API"])
def balancer(request: pytest.FixtureRequest, here: LoadBalancer) -> Iterator[Any]:
    if request.param == "here":
        yield here
    else:
        with Client(here.admin_address) as client:
            yield client


def emit(here: LoadBalancer, kind: str, level: int = 20, **fields: object) -> None:
    async def run() -> None:
        here.plane.events.emit(kind, fields, level)

    here.run(run())


def subscribers(here: LoadBalancer) -> int:
    return len(here.plane.events._subscribers)


def test_in_order_and_none_is_lost_between_two_reads(balancer: Any, here: LoadBalancer) -> None:
    with balancer.events() as events:
        for number in range(QUEUE_LENGTH):
            emit(here, "counted", number=number)
        got = [next(events) for _ in range(QUEUE_LENGTH)]
    assert [event.fields["number"] for event in got] == list(range(QUEUE_LENGTH))
    assert {(type(event), event.kind, event.level) for event in got} == {(Event, "counted", 20)}


def test_filters(balancer: Any, here: LoadBalancer) -> None:
    with balancer.events(level="warning", pool="web") as events:
        emit(here, "too_low", pool="web")
        emit(here, "of_another_pool", 40, pool="other")
        emit(here, "of_none", 40)
        emit(here, "right", 30, pool="web", reason="x")
        event = next(events)
    assert (event.kind, event.level, event.fields) == ("right", 30, {"pool": "web", "reason": "x"})
    with pytest.raises(UsageError, match='level "loud": expected debug, info, warning, error'):
        balancer.events(level="loud")


def test_begins_with_the_latest_of_the_past(balancer: Any, here: LoadBalancer) -> None:
    for number in range(5):
        emit(here, "counted", number=number)
    with balancer.events(last=2) as events:
        emit(here, "counted", number=5)
        assert [next(events).fields["number"] for _ in range(3)] == [3, 4, 5]


def test_close_leaves_nothing_behind(balancer: Any, here: LoadBalancer) -> None:
    """By `close`, also while another thread waits; and when it is let go."""
    before = subscribers(here)
    events = balancer.events()
    waiting = threading.Thread(target=lambda: list(events))
    waiting.start()
    events.close()
    events.close()
    waiting.join(20)
    assert not waiting.is_alive()
    assert list(events) == []
    for _ in balancer.events(last=1):
        break
    gc.collect()
    assert wait_until(lambda: emit(here, "moves") or subscribers(here) == before)


def test_ends_with_the_load_balancer(balancer: Any, here: LoadBalancer) -> None:
    events = balancer.events()
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.extend(event.kind for event in events))
    reader.start()
    emit(here, "last")
    here.close()
    reader.join(20)
    assert not reader.is_alive()
    assert "last" in got
    with pytest.raises((EngineError, AdminError)):
        balancer.events()


def test_a_slow_reader_is_told_how_many_it_lost(here: LoadBalancer) -> None:
    with here.events() as events:
        for number in range(QUEUE_LENGTH + 7):
            emit(here, "counted", number=number)
        got = [next(events) for _ in range(QUEUE_LENGTH + 1)]
        assert (got[-1].kind, got[-1].fields) == ("events_lost", {"count": 7})
        emit(here, "after")
        assert next(events).kind == "after"


def test_under_asyncio(balancer: Any, here: LoadBalancer) -> None:
    async def main() -> None:
        before = subscribers(here)
        tasks = asyncio.all_tasks()
        async with balancer.aevents(level="warning", last=0) as events:
            reading = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            reading.cancel()  # loses none
            await asyncio.gather(reading, return_exceptions=True)
            await asyncio.to_thread(emit, here, "first", 30, number=1)
            await asyncio.to_thread(emit, here, "second", 30, number=2)
            got = []
            async for event in events:
                got.append(event.kind)
                if len(got) == 2:
                    break
            assert got == ["first", "second"]
            assert asyncio.all_tasks() == tasks
        assert [event async for event in events] == []
        while subscribers(here) > before:
            await asyncio.to_thread(emit, here, "moves")

    asyncio.run(asyncio.wait_for(main(), 60))


def test_an_asynchronous_reader_ends_with_the_load_balancer(balancer: Any, here: LoadBalancer) -> None:
    async def main() -> None:
        async with balancer.aevents() as events:
            closing = asyncio.ensure_future(asyncio.to_thread(here.close))
            async for _ in events:
                pass
            await closing

    asyncio.run(asyncio.wait_for(main(), 60))


def test_the_client_says_why_there_are_none(tmp_path: Path) -> None:
    nobody = Client(f"unix:{tmp_path}/nobody.sock")
    with pytest.raises(AdminError, match="No such file or directory"):
        nobody.events()

    async def main() -> None:
        with pytest.raises(AdminError, match="No such file or directory"):
            async with nobody.aevents():
                pass
        with pytest.raises(AdminError, match="No such file or directory"):
            await anext(nobody.aevents())

    asyncio.run(main())


def test_closing_the_client_ends_its_iterators(here: LoadBalancer) -> None:
    client = Client(here.admin_address)
    events = client.events()
    client.close()
    assert list(events) == []


def test_without_follow_they_end_with_the_latest(balancer: Any, here: LoadBalancer) -> None:
    for number in range(3):
        emit(here, "counted", number=number)
    with balancer.events(last=2, follow=False) as events:
        assert [event.fields["number"] for event in events] == [1, 2]
    with balancer.events(follow=False) as events:
        assert list(events) == []
    assert wait_until(lambda: subscribers(here) <= 2)


def test_without_follow_under_asyncio(balancer: Any, here: LoadBalancer) -> None:
    async def read() -> list[Any]:
        async with balancer.aevents(last=1, follow=False) as events:
            return [event.fields["number"] async for event in events]

    emit(here, "counted", number=7)
    assert asyncio.run(read()) == [7]
