"""Which listener has which hook, and who calls them: those that are asked about sessions here, those that get records
of them in `closing`. Control loop only, except where it says otherwise.

A hook is in force once workers go by the snapshot that says so. Threads start with the first hook, or for those that
there are before the start, with that: threads from before the process became another user would keep its capabilities.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator

from l4lb.config.rules.hooks import no_hook_for
from l4lb.control.changes.applying import adopted
from l4lb.control.hooks.closing import Closing
from l4lb.control.hooks.deciding import decided, session_info
from l4lb.control.hooks.failures import Failures, Report
from l4lb.control.hooks.given import expect_free
from l4lb.control.hooks.modules import Loaded
from l4lb.control.hooks.readers import Readers
from l4lb.control.hooks.tasks import Tasks
from l4lb.control.publishing.reconciler import Reconciler
from l4lb.control.state.hooked import Hook, added, configured_as, hook_of, without
from l4lb.control.state.hooked import Hooks as HooksInForce
from l4lb.control.state.state import ListenerState, State
from l4lb.control.state.tags import SessionTags
from l4lb.model.forwarder import Forwarder
from l4lb.model.hooks import NO_TAGS, Answer, Ask, HookResult
from l4lb.model.snapshot import ListenerSpec
from l4lb.net.loops import is_ending
from l4lb.net.output.record_stream import RecordStream

_NO_ROOM = "its tags are not kept: those of other sessions take all the room there is"


class Hooks:
    """`tags` keeps what answers attach to sessions; `report` emits an event from any thread."""

    def __init__(
        self, state: State, tags: SessionTags, forwarder: Forwarder, records: RecordStream, report: Report
    ) -> None:
        self._state = state
        self._tags = tags
        self._forwarder = forwarder
        self._report = report
        self._failures = Failures(report)
        self.closing = Closing(state, records, self._failures, self._open_tasks)
        self._specs: dict[str, tuple[ListenerSpec, Hook, ListenerSpec]] = {}
        self._known: dict[str, tuple[ListenerState | None, tuple[Hook, ...], Hook | None]] = {}  # what `of` found
        self._readers: Readers | None = None
        self._tasks: Tasks | None = None
        self._lock = asyncio.Lock()  # changes, also those of the configuration, follow each other
        self._opening = threading.Lock()
        self._started = False
        self._hanging = 0

    # ---- which ----

    def of(self, listener: str) -> Hook | None:
        """The one in force. Any thread."""
        state, hooks = self._state.listeners.get(listener), self._state.hooks
        known = self._known.get(listener)
        if known is None or known[0] is not state or known[1] is not hooks:
            hook = hook_of(hooks, listener, state.config) if state is not None else None
            known = self._known[listener] = (state, hooks, hook)
        return known[2]

    def add(self, hook: Hook) -> Callable[[], HooksInForce]:
        """For `change`: for the listeners that it names, or for all that have none of their own."""

        def with_it() -> HooksInForce:
            expect_free(hook, self._state.hooks, self._state.listeners, no_hook_for, "on_session")
            if self._started:
                self._open(hook)
            return added(self._state.hooks, hook)

        return with_it

    def remove(self, listeners: Collection[str] | None) -> Callable[[], HooksInForce]:
        """For `change`: the hooks of these listeners; None: all hooks."""
        return lambda: without(self._state.hooks, listeners)

    async def change(self, make: Callable[[], HooksInForce], reconciler: Reconciler) -> None:
        """Return when workers go by the hooks that `make` says; before the start, at once. ChangeError for what cannot
        be, EngineError when there can be no thread, and what publishing raises: nothing has changed."""
        async with self._lock:
            before, self._state.hooks = self._state.hooks, make()
            if not self._started:
                return
            try:
                await reconciler.carry_out(())
            except Exception:
                self._state.hooks = before
                raise
            await adopted(self._forwarder)

    @contextlib.asynccontextmanager
    async def configured(self, loaded: Loaded) -> AsyncIterator[None]:
        """With the next snapshot `loaded` are the hooks of the configuration; if what is done meanwhile fails, they are
        not. EngineError when there can be no thread."""
        async with self._lock:
            with self._configured(loaded.on_session):
                async with self.closing.configured(loaded.on_close):
                    yield

    @contextlib.contextmanager
    def _configured(self, hook: Hook | None) -> Iterator[None]:
        before = self._state.hooks
        if hook is not None and self._started:
            self._open(hook)
        self._state.hooks = configured_as(before, hook)
        try:
            yield
        except BaseException:
            self._state.hooks = before
            raise

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

    async def start(self, loaded: Loaded) -> None:
        """Before the first snapshot. EngineError when there can be no thread."""
        self._started = True
        with self._configured(loaded.on_session):
            for hook in self._state.hooks:
                self._open(hook)
            await self.closing.start(loaded.on_close)

    def _open(self, hook: Hook) -> None:
        if self._readers is None:
            readers = Readers(self._forwarder, self._forwarder.open_hooks(), self._handle)
            readers.start()
            self._readers = readers
        if hook.is_async:
            self._open_tasks()

    def _open_tasks(self) -> Tasks:
        """Any thread."""
        with self._opening:
            if self._tasks is None:
                tasks = Tasks()
                tasks.start()
                self._tasks = tasks
            return self._tasks

    def stop(self) -> None:
        """Ask about no session any more, before the forwarder closes. Blocks for a second at most, when a hook does not
        return. Idempotent."""
        self._started = False
        readers, self._readers = self._readers, None
        self._hanging += len(readers.stop()) if readers is not None else 0

    def end(self) -> None:
        """After the stream of records has stopped. Like `stop`."""
        tasks, self._tasks = self._tasks, None
        hanging = self._hanging + self.closing.hanging()
        if tasks is not None and not tasks.stop():
            hanging += 1
        self._hanging = 0
        if hanging:
            self._report("hooks_hang", {"threads": hanging, "reason": "a hook does not return"}, logging.WARNING)

    # ---- one session, on a reader's thread ----

    def _handle(self, ask: Ask) -> Answer | None:
        hook = self.of(ask.listener)
        if hook is None:  # it was removed meanwhile
            return Answer(ask, HookResult.ACCEPTED)
        if hook.is_async:
            return self._begin(hook, ask)
        try:
            return self._with_tags(hook, decided(ask, hook.call(session_info(ask)), self._state))
        except BaseException as error:  # SystemExit too: it must fail this session, not end the thread
            return self._failed(hook, ask, error)

    def _begin(self, hook: Hook, ask: Ask) -> Answer | None:
        tasks = self._tasks
        if tasks is None or not tasks.has_room() or not tasks.begin(lambda: self._await(hook, ask)):
            return Answer(ask, HookResult.FULL)
        return None

    async def _await(self, hook: Hook, ask: Ask) -> None:
        """After the deadline nobody waits for its answer."""
        readers = self._readers
        deadline = asyncio.timeout(hook.deadline_s)
        try:
            async with deadline:
                said = await hook.call(session_info(ask))  # type: ignore[misc]
            answer = self._with_tags(hook, decided(ask, said, self._state))
        except asyncio.CancelledError:
            if is_ending():
                raise
            answer = self._failed(hook, ask, ValueError("cancelled itself"))
        except BaseException as error:  # SystemExit too: it must fail this session, not end the loop
            if isinstance(error, TimeoutError) and deadline.expired():
                return
            answer = self._failed(hook, ask, error)
        if readers is not None:
            readers.answer(answer)

    def _with_tags(self, hook: Hook, answer: Answer) -> Answer:
        """They are kept before a worker hears of them."""
        if answer.tags and not self._tags.keep(answer.ask.session_id, answer.tags):
            self._failures.add(hook.name, _NO_ROOM, listener=answer.ask.listener)
            return answer._replace(tags=NO_TAGS)
        return answer

    def _failed(self, hook: Hook, ask: Ask, error: BaseException) -> Answer:
        self._failures.raised(hook.name, error, listener=ask.listener)
        return Answer(ask, HookResult.FAILED)
