"""Starts threads with the names that `top -H` and `ps -L` show, makes the event loop that one of them runs, and reports
why one cannot start or has ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from l4lb.errors import EngineError
from l4lb.net.handover import close_all

_FDS_OF_A_LOOP = 8  # epoll, its wake-ups, pipes for signals; with some to spare
REFUSED = "can't start new thread"  # what Python's RuntimeError says, also of threads that a library starts


def no_thread() -> EngineError:
    reason = "out of memory, or the limit of processes (RLIMIT_NPROC, pids.max) is reached"
    return EngineError(f"cannot start a thread: {reason}")


def started(thread: threading.Thread) -> threading.Thread:
    """Start `thread` and return it. EngineError for pthread_create(3)'s EAGAIN: no memory for its stack, or
    RLIMIT_NPROC, pids.max or threads-max is reached."""
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise no_thread() from error
    return thread


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


async def cancel_others() -> None:
    """Cancel the other tasks of this loop, and those that they begin while they end, and wait for their end."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def expect_alive(thread: threading.Thread | None, coroutine: Coroutine[Any, Any, Any]) -> None:
    """EngineError when the thread of the loop to which `coroutine` was given has ended and cannot finish it."""
    if thread is None or not thread.is_alive():
        coroutine.close()
        raise EngineError("the control loop has ended: out of memory, or closed meanwhile")


def name_this_thread(name: str) -> None:
    """At most 15 bytes are kept. A missing /proc is no error."""
    with contextlib.suppress(OSError):
        Path("/proc/thread-self/comm").write_text(name, encoding="ascii")
