"""The loop of async hooks: how many calls may wait for it, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from l4lb.control.hooks import tasks
from l4lb.control.hooks.tasks import Tasks
from tests.support.waiting import wait_until


@pytest.fixture
def running() -> Iterator[Tasks]:
    made = Tasks()
    made.start()
    try:
        yield made
    finally:
        assert made.stop() or wait_until(lambda: not made._thread.is_alive())  # a second is short on a busy machine


def test_calls_that_the_loop_has_not_come_to_take_room() -> None:
    """A hook that blocks the loop, though it is async, holds up all others: what waits then is bounded too."""
    release, entered, ended = threading.Event(), threading.Event(), list[int]()

    async def blocks() -> None:
        entered.set()
        release.wait(20)

    async def quick() -> None: ...

    made = Tasks()
    made.start()
    try:
        assert made.begin(blocks)
        assert entered.wait(20)
        begun = 1
        while made.has_room() and begun < 2 * tasks.TASKS_MAX:
            assert made.begin(quick, lambda: ended.append(1))
            begun += 1
        assert begun == tasks.TASKS_MAX
        release.set()
        assert wait_until(lambda: len(ended) == begun - 1)
        assert wait_until(made.has_room)
        for _ in range(3 * tasks.TASKS_MAX):
            assert wait_until(made.has_room)
            assert made.begin(quick)
    finally:
        release.set()
        assert made.stop() or wait_until(lambda: not made._thread.is_alive())  # a second is short on a busy machine
    assert not made.begin(quick)


def test_what_ends_makes_no_room_for_more(running: Tasks) -> None:
    """Who waits for one call to end begins the next one: never on a loop that is about to go."""
    begun, ended, last = list[bool](), list[int](), threading.Event()

    async def hangs() -> None:
        await asyncio.sleep(1000)

    def next_one() -> None:
        ended.append(1)
        thread = threading.Thread(target=lambda: begun.append(running.begin(hangs)))
        thread.start()
        thread.join()
        if len(ended) == 64:
            last.set()

    for _ in range(64):
        assert running.begin(hangs, next_one)
    assert running.stop() or last.wait(20)
    assert begun == [False] * 64
    gc.collect()  # tells of coroutines that were never awaited


def test_tasks_that_are_begun_at_the_end_end_too(running: Tasks) -> None:
    ended = list[int]()

    async def begins_more(left: int) -> None:
        try:
            entered.set()
            await asyncio.sleep(1000)
        finally:
            if left:
                more.append(asyncio.create_task(begins_more(left - 1)))
                await asyncio.sleep(0)
            ended.append(left)

    more, entered = list[asyncio.Task[None]](), threading.Event()
    assert running.begin(lambda: begins_more(3))
    assert entered.wait(20)
    assert running.stop() or wait_until(lambda: not running._thread.is_alive())
    assert ended[0] == 3  # the others are cancelled before they come so far, perhaps
    assert all(task.done() for task in more)


@pytest.mark.parametrize("way", ["stops the loop", "exits"])
def test_a_hook_cannot_end_the_loop(way: str, running: Tasks) -> None:
    """Nor a task that it began: asyncio hands on its SystemExit."""
    again = threading.Event()

    async def exits() -> None:
        sys.exit(3)

    async def ends() -> None:
        if way == "stops the loop":
            asyncio.get_running_loop().stop()
        else:
            left.append(asyncio.create_task(exits()))

    async def goes_on() -> None:
        await asyncio.sleep(0.01)
        again.set()

    left = list[asyncio.Task[None]]()
    assert running.begin(ends)
    assert running.begin(goes_on)
    assert again.wait(20)
    for task in left:
        assert isinstance(task.exception(), SystemExit)
