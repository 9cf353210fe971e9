"""The part of `LoadBalancer` that takes a program's own functions. Any thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from l4lb.control.hooks.hooks import Hooks, new_hook
from l4lb.control.life import Life
from l4lb.control.plane import ControlPlane
from l4lb.model.hooks import SessionHook

Change = Callable[[Hooks], None]


class Hooking(Life):
    """What is given before the start holds from then on, and again when it is started anew."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._hook_changes: list[Change] = []

    def on_session(
        self,
        callback: SessionHook | None,
        *,
        listeners: Sequence[str] | None = None,
        deadline: float = 0.05,
        on_error: Literal["accept", "reject"] = "accept",
    ) -> None:
        """From now on ask `callback` about each new session of these listeners (None: all TCP listeners that are not
        in the kernel and have no hook of their own). Before `start` or after; returns when workers go by it.

        See `l4lb.hooks` for what it gets and answers. It may be plain or async. When it has not answered within
        `deadline` seconds, raises or answers nonsense, `on_error` says what becomes of the session. None instead of a
        function takes the hooks of these listeners, or all, away.

        Raises `l4lb.errors.ChangeError` for a listener that is not there, cannot have a hook, or has one; before the
        start, `start` does.
        """
        self._expect_own_process()
        change = hook_change(callback, listeners, deadline, on_error)
        if self._plane is None:
            self._hook_changes.append(change)
        else:
            self.run(self._carry_out(self._plane, change))

    async def aon_session(
        self,
        callback: SessionHook | None,
        *,
        listeners: Sequence[str] | None = None,
        deadline: float = 0.05,
        on_error: Literal["accept", "reject"] = "accept",
    ) -> None:
        """Like `on_session`."""
        self._expect_own_process()
        change = hook_change(callback, listeners, deadline, on_error)
        if self._plane is None:
            self._hook_changes.append(change)
        else:
            await self.arun(self._carry_out(self._plane, change))

    def _prepare(self, plane: ControlPlane) -> None:
        for change in self._hook_changes:
            change(plane.hooks)

    async def _carry_out(self, plane: ControlPlane, change: Change) -> None:
        change(plane.hooks)
        await plane.hooks.carry_out(plane.reconciler)


def hook_change(call: SessionHook | None, listeners: Sequence[str] | None, deadline_s: float, on_error: str) -> Change:
    """What is to become of the hooks. ChangeError for what is none."""
    if call is None:
        return lambda hooks: hooks.remove(listeners)
    hook = new_hook(call, deadline_s, on_error, listeners)
    return lambda hooks: hooks.set(hook)
