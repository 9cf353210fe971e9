"""What is given as a hook: a function, for which listeners, on which terms. ChangeError for what is none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence

from l4lb.config import Listener
from l4lb.config.rules.hooks import DEADLINE_MAX_S
from l4lb.control.state.hooked import Hook
from l4lb.control.state.state import ListenerState
from l4lb.errors import ChangeError
from l4lb.model.hints import did_you_mean


def new_hook(
    call: object, deadline_s: float, on_error: str, listeners: Collection[str] | None, path: str = "on_session"
) -> Hook:
    """One that is asked about sessions."""
    known, name, is_async = _function(call, "a SessionInfo", path)
    if not 0.001 <= deadline_s <= DEADLINE_MAX_S:
        raise ChangeError("invalid", f"{deadline_s}: expected 1 ms to {DEADLINE_MAX_S:.0f} s", f"{path}.deadline")
    if on_error not in ("accept", "reject"):
        raise ChangeError("invalid", f'{on_error!r}: expected "accept" or "reject"', f"{path}.on_error")
    return Hook(known, name, is_async, _names(listeners), deadline_s, on_error == "reject")


def new_close_hook(call: object, listeners: Collection[str] | None, path: str = "on_close") -> Hook:
    """One that gets records of sessions that have ended."""
    return Hook(*_function(call, "a record", path), _names(listeners))


def _function(call: object, argument: str, path: str) -> tuple[Callable[..., object], str, bool]:
    """It, what messages call it, and whether it is async."""
    if not callable(call):
        raise ChangeError("invalid", f"expected a function of {argument}, not {call!r:.80}", path)
    is_async = inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)
    name = f"{getattr(call, '__module__', '')}.{getattr(call, '__qualname__', type(call).__name__)}".strip(".")
    return call, name, is_async


def _names(listeners: Collection[str] | None) -> frozenset[str] | None:
    if isinstance(listeners, str):
        listeners = [listeners]
    return None if listeners is None else frozenset(listeners)


def expect_free(
    hook: Hook,
    hooks: Sequence[Hook],
    listeners: Mapping[str, ListenerState],
    reason_against: Callable[[Listener], str],
    path: str,
) -> None:
    """Each listener has one hook of a kind at most, and one that can have it."""
    for name in hook.listeners or ():
        state = listeners.get(name)
        if state is None:
            hint = did_you_mean(name, [*listeners])
            raise ChangeError("not_found", f"no such listener{hint}", f"listeners.{name}")
        if reason := reason_against(state.config):
            raise ChangeError("invalid", reason, f"listeners.{name}")
        if any(one.listeners is not None and one.is_of(name) for one in hooks):
            raise ChangeError("conflict", "it has a hook already: remove that first", f"listeners.{name}")
    if hook.listeners is None and any(one.listeners is None for one in hooks):
        raise ChangeError("conflict", "there is a hook for all listeners already: remove it first", path)
