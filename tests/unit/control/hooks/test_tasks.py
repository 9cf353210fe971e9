"""The loop of async hooks: how many calls may wait for it."""

from __future__ import annotations

import threading

from l4lb.control.hooks import tasks
from l4lb.control.hooks.tasks import Tasks
from tests.support.waiting import wait_until


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
