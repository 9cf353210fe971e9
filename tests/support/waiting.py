"""Waiting for a condition, with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> bool:
    """True as soon as `condition` holds, False when it did not within `timeout_s`: long,
    since it only counts when a test fails, and on a busy machine a program takes seconds to start."""
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        if condition():
            return True
        if time.monotonic() > deadline:
            return False
        took_s = time.monotonic() - began
        time.sleep(min(max(0.005, 2 * took_s), 0.1))  # a condition that takes long is asked less often


def hang(pid: int) -> None:
    """SIGSTOP, and until it holds for each thread: kill(2) returns before one that runs on another CPU has stopped,
    and that one may still answer. A thread that has ended (Z, X) answers nothing."""
    os.kill(pid, signal.SIGSTOP)
    assert wait_until(lambda: all(state in "TZX" for state in _thread_states(pid))), f"{pid} did not stop"


def _thread_states(pid: int) -> list[str]:
    states = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            states.append((thread / "stat").read_text().rpartition(") ")[2][0])
    return states


async def stdin_ended() -> asyncio.Future[None]:
    """For a program that goes on until whoever started it closes its standard input, or is gone: a future that is done
    then."""
    loop = asyncio.get_running_loop()
    until: asyncio.Future[None] = loop.create_future()

    class End(asyncio.Protocol):
        def connection_lost(self, error: Exception | None) -> None:
            if not until.done():
                until.set_result(None)

    await loop.connect_read_pipe(End, sys.stdin)
    return until
