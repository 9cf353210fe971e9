"""The part of `LoadBalancer` that takes a program's own functions. Any thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from l4lb.control.hooks.given import new_close_hook, new_hook
from l4lb.control.life import Life
from l4lb.control.plane import ControlPlane
from l4lb.model.hooks import CloseHook, SessionHook

Change = Callable[[ControlPlane], Coroutine[Any, Any, None]]


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
        change = session_change(callback, listeners, deadline, on_error)
        if self._plane is None:
            self._hook_changes.append(change)
        else:
            self.run(change(self._plane))

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
        change = session_change(callback, listeners, deadline, on_error)
        if self._plane is None:
            self._hook_changes.append(change)
        else:
            await self.arun(change(self._plane))

    def on_close(self, callback: CloseHook | None, *, listeners: Sequence[str] | None = None) -> None:
        """From now on call `callback` with the record of each session of these listeners that ends (None: of all that
        have no such function of their own, without those in the kernel). Before `start` or after; returns when records
        go there.

        A record is a dict with the keys of the access log, see `l4lb.records`; there need not be an access log. It may
        be plain or async, and is called on a thread or event loop of its own: when it is slow, or raises, records are
        lost, which is counted and reported, and nobody waits for it. `close` waits, for two seconds at most, until it
        has all. None instead of a function takes those of these listeners, or all, away.

        Raises `l4lb.errors.ChangeError` for a listener that is not there, cannot have one, or has one; before the
        start, `start` does.
        """
        self._expect_own_process()
        change = close_change(callback, listeners)
        if self._plane is None:
            self._hook_changes.append(change)
        else:
            self.run(change(self._plane))

    async def aon_close(self, callback: CloseHook | None, *, listeners: Sequence[str] | None = None) -> None:
        """Like `on_close`."""
        self._expect_own_process()
        change = close_change(callback, listeners)
        if self._plane is None:
            self._hook_changes.append(change)
        else:
            await self.arun(change(self._plane))

    async def _prepare(self, plane: ControlPlane) -> None:
        for change in self._hook_changes:
            await change(plane)


def session_change(
    call: SessionHook | None, listeners: Sequence[str] | None, deadline_s: float, on_error: str
) -> Change:
    """What is to become of the hooks that are asked. ChangeError for what is none."""
    hook = new_hook(call, deadline_s, on_error, listeners) if call is not None else None

    async def change(plane: ControlPlane) -> None:
        hooks = plane.hooks
        await hooks.change(hooks.remove(listeners) if hook is None else hooks.add(hook), plane.reconciler)

    return change


def close_change(call: CloseHook | None, listeners: Sequence[str] | None) -> Change:
    """What is to become of the hooks that get records. ChangeError for what is none."""
    hook = new_close_hook(call, listeners) if call is not None else None

    async def change(plane: ControlPlane) -> None:
        closing = plane.hooks.closing
        await closing.change(closing.remove(listeners) if hook is None else closing.add(hook))

    return change
