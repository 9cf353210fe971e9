"""The control loop's end: what others ask meanwhile is finished or refused, never lost."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from l4lb.control.loop import ControlLoop
from l4lb.errors import EngineError


async def _said() -> int:
    await asyncio.sleep(0)
    return 7


def test_calls_while_it_ends() -> None:
    asked, refused = list[int](), list[str]()

    def ask(control: ControlLoop) -> None:
        try:
            while True:
                asked.append(control.run(_said()))
        except EngineError as error:
            refused.append(str(error))

    for _ in range(30):
        control = ControlLoop()
        control.start()
        threads = [threading.Thread(target=ask, args=(control,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        control.end()
        for thread in threads:
            thread.join()
    assert set(asked) <= {7}
    assert refused == ["not started"] * 120  # none waited for a loop that was gone
    gc.collect()  # tells of coroutines that were never awaited, and of tasks that did not end


def test_a_call_after_the_end_is_refused() -> None:
    """Also where its thread has never run."""
    for starts in (True, False):
        control = ControlLoop()
        if starts:
            control.start()
        control.end()
        with pytest.raises(EngineError, match="not started"):
            control.run(_said())


@pytest.mark.parametrize("awaited", [False, True])
def test_a_call_that_the_end_cuts_off_is_an_error_of_ours(awaited: bool) -> None:
    """No CancelledError, which an awaiting task would take for its own."""
    entered, said = threading.Event(), list[str]()

    async def long() -> None:
        entered.set()
        await asyncio.sleep(1000)

    def ask() -> None:
        with pytest.raises(EngineError) as raised:
            asyncio.run(control.arun(long())) if awaited else control.run(long())
        said.append(str(raised.value))

    control = ControlLoop()
    control.start()
    thread = threading.Thread(target=ask)
    thread.start()
    assert entered.wait(20)
    control.end()
    thread.join()
    assert said == ["closed meanwhile, before this call was finished"]


def test_a_task_that_begins_another_one_at_its_end_is_waited_for() -> None:
    ended = threading.Event()

    async def last() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0)
            ended.set()

    async def first() -> None:
        try:
            entered.set()
            await asyncio.sleep(1000)
        finally:
            tasks.append(asyncio.create_task(last()))
            await asyncio.sleep(0)

    async def begin() -> None:
        tasks.append(asyncio.create_task(first()))

    tasks, entered = list["asyncio.Task[None]"](), threading.Event()
    control = ControlLoop()
    control.start()
    control.run(begin())
    assert entered.wait(20)
    control.end()
    assert len(tasks) == 2
    assert all(task.cancelled() for task in tasks)
    assert ended.is_set()
