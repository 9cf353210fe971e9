"""Event loops, each on a thread of its own, and how their tasks end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from l4lb.errors import EngineError
from l4lb.net.handover import close_all

_FDS_OF_A_LOOP = 8  # epoll, its wake-ups, pipes for signals; with some to spare
logger = logging.getLogger("l4lb")


def new_loop() -> asyncio.AbstractEventLoop:
    """EngineError where libuv has too few descriptors or too little memory for one."""
    import uvloop  # here: a client has threads too, and no such loop

    spare: list[int] = []
    try:
        for _ in range(_FDS_OF_A_LOOP):  # uvloop prints a line when it finds too few
            spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        close_all(spare)
        spare = []
        return uvloop.new_event_loop()
    except (OSError, RuntimeError, MemoryError) as error:
        raise EngineError(f"cannot make an event loop: {getattr(error, 'strerror', None) or error}") from error
    finally:
        close_all(spare)


def run_loop(loop: asyncio.AbstractEventLoop, over: Callable[[], bool]) -> None:
    """Run it until it stops and is `over`. What its tasks call may be code of others, which may stop the loop; and
    asyncio lets a task's SystemExit end it. Neither ends it for the other tasks."""
    while not over():
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            logger.error("a task ended with %r", error)


async def cancel_others() -> None:
    """Cancel the other tasks of this loop, and those that they begin while they end, and wait for their end."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def is_ending() -> bool:
    """Whether this task is to end, not one that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
