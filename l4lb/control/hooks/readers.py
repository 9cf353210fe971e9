"""Threads that ask hooks: one after the other, so that a quick hook costs a few microseconds, and yet no slow one
delays another session.

While sessions come one after the other it takes them a few at a time: to wake a thread, and the worker again, costs
more than a quick hook. A session that comes alone is asked about at once.

One thread leads: it takes what workers ask and calls the hook for each session. When a call takes long, another thread
leads from then on, and the first one only finishes its call. A monitor sees to that; it looks while there is work, and
sleeps otherwise. When all threads are in a call, what is asked meanwhile is answered with `HookResult.FULL`.

`_leader` is written by the monitor alone once the first thread runs; queues are deques, whose single operations are
atomic.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from l4lb.control.state.events import logger
from l4lb.errors import EngineError
from l4lb.model.hooks import Answer, Ask, HookResult, SessionHooks
from l4lb.net.threads import name_this_thread, started

THREADS_MAX = 32
SLOW_S = 0.002  # a call that takes longer loses the lead
_LINGER = 10  # how often the monitor looks in vain before it sleeps
PACE_S = 0.0015  # how long a leader lets asks gather, when others came just before
_BUSY_S = 0.004  # ... which is so long ago at most
_ASKS_AT_ONCE = 64  # of each worker
_ANSWERS_AT_ONCE = 16
_JOIN_S = 1.0  # how long `stop` waits for calls that are under way

Handle = Callable[[Ask], Answer | None]


class _Leader:
    """One thread's time as the leader. `since`: when its call began; 0: it is in none."""

    __slots__ = ("since",)

    def __init__(self) -> None:
        self.since = 0.0


class Readers:
    """Between `start` and `stop`. `fd` is readable when `forwarder` has asks; `handle` calls the hook, on any of the
    threads, and answers, or returns None when the answer comes later by `answer`."""

    def __init__(self, forwarder: SessionHooks, fd: int, handle: Handle) -> None:
        self._forwarder = forwarder
        self._fd = fd
        self._handle = handle
        self._asked: deque[Ask] = deque()
        self._answers: deque[Answer] = deque()
        self._leader = _Leader()
        self._wanted = threading.Semaphore(0)  # leaders; who waits for it is idle
        self._idle = 0
        self._lock = threading.Lock()  # of `_idle` and `_threads`
        self._threads: list[threading.Thread] = []
        self._sending = threading.Lock()
        self._work = threading.Event()
        self._watched = False
        self._stopping = False
        self._monitor = threading.Thread(target=self._watch, name="l4lb-hook-watch", daemon=True)

    def start(self) -> None:
        """EngineError when a thread cannot be started."""
        self._add_leader()
        started(self._monitor)

    def stop(self) -> list[threading.Thread]:
        """Ask no hook any more. Returns the threads whose calls did not return in time: they end with them."""
        with self._sending:
            self._stopping = True
        self._work.set()
        os.eventfd_write(self._fd, 1)
        with self._lock:
            threads = [*self._threads, self._monitor]
            self._wanted.release(len(threads))
        deadline = time.monotonic() + _JOIN_S
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return [thread for thread in threads if thread.is_alive()]

    def answer(self, answer: Answer) -> None:
        """Any thread."""
        self._send([answer])

    def _send(self, answers: list[Answer]) -> None:
        """Nothing is sent once `stop` is called: the forwarder may close then."""
        with self._sending:
            if not self._stopping:
                self._forwarder.answer(answers)

    # ---- threads ----

    def _add_leader(self) -> bool:
        """Let an idle thread lead, or else a new one. False: there are as many as there may be."""
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif len(self._threads) < THREADS_MAX:
                name = f"l4lb-hook-{len(self._threads)}"
                self._threads.append(started(threading.Thread(target=self._run, args=(name,), name=name, daemon=True)))
            else:
                return False
        self._wanted.release()
        return True

    def _run(self, name: str) -> None:
        name_this_thread(name)
        while True:
            self._wanted.acquire()
            if self._stopping:
                return
            try:
                self._lead(self._leader)
            except Exception as error:  # a defect: deadlines hold for what it was about
                logger.error("asking a hook failed", exc_info=error)
                self._asked.clear()
            with self._lock:
                self._idle += 1

    def _lead(self, me: _Leader) -> None:
        """Until another leads, and nothing is left to do here."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not self._stopping:
            try:
                ask = self._asked.popleft()
            except IndexError:
                self._flush()
                if me is not self._leader:
                    return
                self._collect(poll)
                continue
            self._call(me, ask)

    def _collect(self, poll: select.poll) -> None:
        """What was asked, once there is some."""
        taken = self._forwarder.take_asks(_ASKS_AT_ONCE)
        if taken:
            self._asked.extend(taken)
            return
        before = time.monotonic()
        poll.poll()
        if time.monotonic() - before < _BUSY_S:
            time.sleep(PACE_S)

    def _call(self, me: _Leader, ask: Ask) -> None:
        me.since = time.monotonic()
        if not self._watched:
            self._watched = True
            self._work.set()
        answer = self._handle(ask)
        me.since = 0.0
        if answer is not None:
            self._answers.append(answer)
        if me is not self._leader or len(self._answers) >= _ANSWERS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        answers = []
        while self._answers:
            try:
                answers.append(self._answers.popleft())
            except IndexError:  # another thread had it
                break
        if answers:
            self._send(answers)

    # ---- the monitor ----

    def _watch(self) -> None:
        name_this_thread("l4lb-hook-watch")
        while not self._stopping:
            self._work.wait()
            self._work.clear()
            self._watch_while_busy()

    def _watch_while_busy(self) -> None:
        """A leader that begins a call wakes the monitor unless it is `_watched`: it looks once more after that."""
        quiet = 0
        while quiet < _LINGER and not self._stopping:
            time.sleep(SLOW_S)
            since = self._leader.since
            quiet = 0 if since else quiet + 1
            if since and time.monotonic() - since > SLOW_S:
                self._replace_leader()
        self._watched = False
        if self._leader.since:
            self._watched = True
            self._work.set()

    def _replace_leader(self) -> None:
        """What has been answered goes out at once, and what is asked is another thread's."""
        self._flush()
        slow, self._leader = self._leader, _Leader()
        try:
            if self._add_leader():
                return
        except EngineError as error:
            logger.warning("a hook is slow, and no other thread can ask: %s", error)
        self._leader = slow
        self._refuse()

    def _refuse(self) -> None:
        """Nobody is there to ask."""
        asks = [*self._forwarder.take_asks(_ASKS_AT_ONCE)]
        while self._asked:
            try:
                asks.append(self._asked.popleft())
            except IndexError:
                break
        if asks:
            self._send([Answer(ask, HookResult.FULL) for ask in asks])
