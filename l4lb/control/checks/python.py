"""The ``python`` check: an operator's function ``package.module:name``, plain or async.

It gets the `Target`, which is plain data. Returning None or True passes; False, anything else or an exception fails
(`CheckFailed` says at which step). An async function runs on the control loop and must not block it. A plain function
runs on its own thread. A call that does not return cannot be ended: until it returns, the check fails without calling
again, and nothing else waits for it, not even the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from l4lb.config.options.callables import load_callable
from l4lb.control.checks.checks import CheckFailed, NotChecked, Target, begin_step
from l4lb.errors import RAISED_BY_OTHERS

_STEP = "call"
_last_call: ContextVar[threading.Thread | None] = ContextVar("l4lb_last_call", default=None)  # of this checker's task


async def check_python(target: Target) -> None:
    """Raises CheckFailed at step ``call`` or the function's own; the caller bounds the time."""
    begin_step(_STEP)
    try:
        function = load_callable(target.settings.callable)
    except ValueError as error:
        raise CheckFailed(_STEP, str(error)) from error
    if inspect.iscoroutinefunction(function):
        answer = await _awaited(function, target)
    else:
        answer = await _on_thread(function, target)
    if answer is not None and answer is not True:
        wanted = "returned False" if answer is False else f"returned {answer!r:.80}; expected None, True or False"
        raise CheckFailed(_STEP, wanted)


async def _awaited(function: Callable[[Target], Awaitable[object]], target: Target) -> object:
    try:
        return await function(target)
    except RAISED_BY_OTHERS as error:
        raise _failed(error) from error


def _failed(error: BaseException) -> CheckFailed:
    return error if isinstance(error, CheckFailed) else CheckFailed(_STEP, f"{type(error).__name__}: {error}")


async def _on_thread(function: Callable[[Target], object], target: Target) -> object:
    last = _last_call.get()
    if last is not None and last.is_alive():
        raise CheckFailed(_STEP, "the call before has not returned")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[object] = loop.create_future()

    def set_result(value: object, error: CheckFailed | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(value)

    def call() -> None:
        value, error = None, None
        try:
            value = function(target)
        except BaseException as raised:  # SystemExit too: it must fail the check, not end the thread silently
            error = _failed(raised)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(set_result, value, error)

    thread = threading.Thread(target=call, name="l4lb-check", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # no more threads or memory
        raise NotChecked(str(error)) from error
    _last_call.set(thread)
    return await answer
