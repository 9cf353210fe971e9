"""Calls that may block, on threads of their own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def aside(call: Callable[[], T]) -> T:
    """Run `call` on a new thread. Unlike the threads of `asyncio.to_thread`, it does not delay the end of the process
    when an instance does not answer."""
    loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def run() -> None:
        try:
            result, error = call(), None
        except Exception as raised:
            result, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, future, result, error)

    threading.Thread(target=run, daemon=True).start()
    found: T = await future
    return found


def _resolve(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if future.cancelled():
        return
    future.set_exception(error) if error is not None else future.set_result(result)
