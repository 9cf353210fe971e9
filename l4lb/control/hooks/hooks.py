"""Which listener has which hook, and who asks them. Control loop only, except where it says otherwise.

A hook is in force once workers go by the snapshot that says so. Threads start with the first hook, or for those that
there are before the start, with that: threads from before the process became another user would keep its capabilities.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator

from l4lb.config.rules.hooks import DEADLINE_MAX_S, no_hook_for
from l4lb.control.changes.applying import adopted
from l4lb.control.hooks.deciding import decided, session_info
from l4lb.control.hooks.readers import Readers
from l4lb.control.hooks.tasks import Tasks
from l4lb.control.publishing.reconciler import Reconciler
from l4lb.control.state.hooked import Hook, hook_of
from l4lb.control.state.state import ListenerState, State
from l4lb.errors import ChangeError
from l4lb.model.forwarder import Forwarder
from l4lb.model.hints import did_you_mean
from l4lb.model.hooks import Answer, Ask, HookResult
from l4lb.model.snapshot import ListenerSpec

Report = Callable[[str, dict[str, object], int], None]
REPORT_EVERY_S = 1.0  # of one hook; what comes between is counted


def new_hook(
    call: object, deadline_s: float, on_error: str, listeners: Collection[str] | None, path: str = "on_session"
) -> Hook:
    """ChangeError (`invalid`) for what is none."""
    if not callable(call):
        raise ChangeError("invalid", f"expected a function of a SessionInfo, not {call!r:.80}", path)
    if not 0.001 <= deadline_s <= DEADLINE_MAX_S:
        raise ChangeError("invalid", f"{deadline_s}: expected 1 ms to {DEADLINE_MAX_S:.0f} s", f"{path}.deadline")
    if on_error not in ("accept", "reject"):
        raise ChangeError("invalid", f'{on_error!r}: expected "accept" or "reject"', f"{path}.on_error")
    if isinstance(listeners, str):
        listeners = [listeners]
    is_async = inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)
    name = f"{getattr(call, '__module__', '')}.{getattr(call, '__qualname__', type(call).__name__)}".strip(".")
    names = None if listeners is None else frozenset(listeners)
    return Hook(call, name, is_async, deadline_s, on_error == "reject", names)


def is_late(error: BaseException) -> bool:
    """Whether it is asyncio.timeout's own, not one that the hook raised."""
    return isinstance(error, TimeoutError) and isinstance(error.__cause__, asyncio.CancelledError)


def is_ending() -> bool:
    """Whether this task is to end, not one that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Hooks:
    """`report` emits an event from any thread."""

    def __init__(self, state: State, forwarder: Forwarder, report: Report) -> None:
        self._state = state
        self._forwarder = forwarder
        self._report = report
        self._specs: dict[str, tuple[ListenerSpec, Hook, ListenerSpec]] = {}
        self._known: dict[str, tuple[ListenerState | None, tuple[Hook, ...], Hook | None]] = {}  # what `of` found
        self._readers: Readers | None = None
        self._tasks: Tasks | None = None
        self._reported: dict[str, tuple[float, int]] = {}  # by hook: when last, and how many since
        self._reporting = threading.Lock()
        self._started = False

    # ---- which ----

    def of(self, listener: str) -> Hook | None:
        """The one in force. Any thread."""
        state, hooks = self._state.listeners.get(listener), self._state.hooks
        known = self._known.get(listener)
        if known is None or known[0] is not state or known[1] is not hooks:
            hook = hook_of(hooks, listener, state.config) if state is not None else None
            known = self._known[listener] = (state, hooks, hook)
        return known[2]

    def set(self, hook: Hook) -> None:
        """For the listeners that it names, or for all that have none of their own. It holds with the next snapshot.
        ChangeError for a listener that cannot have it, or has one; EngineError when there can be no thread."""
        for name in hook.listeners or ():
            self._expect_free(name)
        if hook.listeners is None and any(one.listeners is None for one in self._state.hooks):
            raise ChangeError("conflict", "there is a hook for all listeners already: remove it first", "on_session")
        if self._started:
            self._open(hook)
        self._state.hooks = tuple(sorted((*self._state.hooks, hook), key=lambda one: one.listeners is None))

    def _expect_free(self, listener: str) -> None:
        path = f"listeners.{listener}"
        state = self._state.listeners.get(listener)
        if state is None:
            raise ChangeError("not_found", f"no such listener{did_you_mean(listener, [*self._state.listeners])}", path)
        if reason := no_hook_for(state.config):
            raise ChangeError("invalid", reason, path)
        if any(hook.listeners is not None and hook.is_of(listener) for hook in self._state.hooks):
            raise ChangeError("conflict", "it has a hook already: remove that first", path)

    def remove(self, listeners: Collection[str] | None) -> None:
        """The hooks of these listeners; None: all hooks."""
        if isinstance(listeners, str):
            listeners = [listeners]
        names = frozenset(listeners or ())
        left = []
        for hook in self._state.hooks if listeners is not None else ():
            own = hook.listeners
            if own is None or own - names:
                left.append(hook if own is None else dataclasses.replace(hook, listeners=own - names))
        self._state.hooks = tuple(left)

    @contextlib.contextmanager
    def configured(self, hook: Hook | None) -> Iterator[None]:
        """With the next snapshot `hook` is the one of the configuration; if what is done meanwhile fails, it is not.
        EngineError when there can be no thread."""
        before = self._state.hooks
        if hook is not None:
            hook = dataclasses.replace(hook, configured=True)
            if self._started:
                self._open(hook)
        given = [one for one in before if not one.configured]
        hooks = [*given, hook] if hook is not None else given
        self._state.hooks = tuple(sorted(hooks, key=lambda one: one.listeners is None))
        try:
            yield
        except BaseException:
            self._state.hooks = before
            raise

    async def carry_out(self, reconciler: Reconciler) -> None:
        """Return when workers go by the hooks that there are now."""
        await reconciler.carry_out(())
        await adopted(self._forwarder)

    def applied(self, specs: tuple[ListenerSpec, ...]) -> tuple[ListenerSpec, ...]:
        """The listeners of a snapshot with their hooks. An unchanged one stays the same object."""
        return tuple(map(self._applied, specs)) if self._state.hooks else specs

    def _applied(self, spec: ListenerSpec) -> ListenerSpec:
        hook = self.of(spec.name)
        if hook is None:
            return spec
        known = self._specs.get(spec.name)
        if known is None or known[0] is not spec or known[1] is not hook:
            terms = dataclasses.replace(spec, hook_deadline_s=hook.deadline_s, hook_rejects=hook.rejects)
            known = self._specs[spec.name] = (spec, hook, terms)
        return known[2]

    # ---- threads ----

    def start(self, configured: Hook | None) -> None:
        """Before the first snapshot. EngineError when there can be no thread."""
        with self.configured(configured):
            self._started = True
            for hook in self._state.hooks:
                self._open(hook)

    def _open(self, hook: Hook) -> None:
        if self._readers is None:
            readers = Readers(self._forwarder, self._forwarder.open_hooks(), self._handle)
            readers.start()
            self._readers = readers
        if hook.is_async and self._tasks is None:
            tasks = Tasks()
            tasks.start()
            self._tasks = tasks

    def stop(self) -> None:
        """Before the forwarder closes. Blocks for a second at most, when a hook does not return. Idempotent."""
        self._started = False
        readers, self._readers = self._readers, None
        tasks, self._tasks = self._tasks, None
        hang = len(readers.stop()) if readers is not None else 0
        if tasks is not None and not tasks.stop():
            hang += 1
        if hang:
            self._report("hooks_hang", {"threads": hang, "reason": "a hook does not return"}, logging.WARNING)

    # ---- one session, on a reader's thread ----

    def _handle(self, ask: Ask) -> Answer | None:
        hook = self.of(ask.listener)
        if hook is None:  # it was removed meanwhile
            return Answer(ask, HookResult.ACCEPTED)
        if hook.is_async:
            return self._begin(hook, ask)
        try:
            return decided(ask, hook.call(session_info(ask)), self._state)
        except BaseException as error:  # SystemExit too: it must fail this session, not end the thread
            return self._failed(hook, ask, error)

    def _begin(self, hook: Hook, ask: Ask) -> Answer | None:
        tasks = self._tasks
        if tasks is None or not tasks.has_room():
            return Answer(ask, HookResult.FULL)
        tasks.begin(lambda: self._await(hook, ask))
        return None

    async def _await(self, hook: Hook, ask: Ask) -> None:
        """After the deadline nobody waits for its answer."""
        readers = self._readers
        try:
            async with asyncio.timeout(hook.deadline_s):
                answer = decided(ask, await hook.call(session_info(ask)), self._state)  # type: ignore[misc]
        except asyncio.CancelledError:
            if is_ending():
                raise
            answer = self._failed(hook, ask, ValueError("cancelled itself"))
        except BaseException as error:  # SystemExit too: it must fail this session, not end the loop
            if is_late(error):
                return
            answer = self._failed(hook, ask, error)
        if readers is not None:
            readers.answer(answer)

    def _failed(self, hook: Hook, ask: Ask, error: BaseException) -> Answer:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        now = time.monotonic()
        with self._reporting:
            last, since = self._reported.get(hook.name, (0.0, 0))
            due = now - last >= REPORT_EVERY_S
            self._reported[hook.name] = (now, 0) if due else (last, since + 1)
        if due:
            fields: dict[str, object] = {"hook": hook.name, "listener": ask.listener, "reason": reason[:500]}
            if since:
                fields["unreported"] = since
            self._report("hook_failed", fields, logging.ERROR)
        return Answer(ask, HookResult.FAILED)
