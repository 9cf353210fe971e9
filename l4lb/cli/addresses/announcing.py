"""Follows an instance and tells an engine what routers should know. One thread; every wait has an end.

A signal that ends this process interrupts waiting, and nothing else: a command that was begun is finished, and then the
addresses are withdrawn.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from l4lb.cli.addresses.asking import Instance, Unanswered
from l4lb.cli.addresses.engine import DaemonGone, Engine, EngineError
from l4lb.cli.addresses.hysteresis import Hysteresis, Level

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ASKED_AGAIN_S = 0.01  # not sooner, even of an instance that ends each connection


class _Interrupted(Exception):
    """A signal that ends this process has come."""


@dataclass(frozen=True, slots=True)
class Pace:
    """In seconds. `fail_after`: how long after its last answer an instance that hangs counts as down; `gone_after`: the
    same of one that is gone."""

    interval: float
    rise: float
    fall: float
    fail_after: float
    gone_after: float


@dataclass(frozen=True, slots=True)
class _Seen:
    level: Level
    why: str = ""
    at_once: bool = False


def say(text: str) -> None:
    """A line on stderr. That it cannot be written ends nothing."""
    with contextlib.suppress(OSError):
        os.write(2, f"l4lb announce: {text}\n".encode(errors="backslashreplace"))


class Announcer:
    """`run` until a signal, or until the daemon has gone."""

    def __init__(self, engine: Engine, instance: Instance, pace: Pace) -> None:
        self._engine, self._instance, self._pace = engine, instance, pace
        self._hysteresis = Hysteresis(pace.rise, pace.fall)
        self._seen = _Seen(Level.WITHDRAWN, "the instance has not answered yet")
        self._answered_at = float("-inf")
        self._told: Level | None = None  # None: not told, or it may have been told a part
        self._told_at = 0.0
        self._retry_at = 0.0
        self._said = ""
        self._failure = ""
        self._ending = self._waiting = False

    def run(self) -> int:
        """The exit code."""
        before = {number: signal.signal(number, self._end) for number in ENDING}
        try:
            self._follow()
            return self._withdraw()
        except DaemonGone as gone:
            say(f"{gone}; ends")
            return 0
        finally:
            self._instance.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: object) -> None:
        self._ending = True
        if self._waiting:
            self._waiting = False
            raise _Interrupted

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        self._waiting = True
        try:
            if self._ending:
                raise _Interrupted
            yield
        finally:
            self._waiting = False

    def _follow(self) -> None:
        with contextlib.suppress(_Interrupted):
            while True:
                with self._interruptible():
                    self._seen = self._look()
                level = self._hysteresis.see(self._seen.level, time.monotonic(), at_once=self._seen.at_once)
                self._tell(level)
                self._wait()

    def _look(self) -> _Seen:
        silent_s = time.monotonic() - self._answered_at
        patience = self._pace.fail_after
        try:
            answer = self._instance.ask(patience - silent_s if silent_s < patience else patience)
        except Unanswered as error:
            silent_s = time.monotonic() - self._answered_at
            if silent_s < (self._pace.gone_after if error.gone else patience):
                return self._seen
            return _Seen(Level.WITHDRAWN, f"no answer from the instance: {error}", at_once=True)
        self._answered_at = time.monotonic()
        if answer.ready:
            return _Seen(Level.NORMAL)
        return _Seen(Level.DRAINING if answer.draining else Level.WITHDRAWN, "; ".join(answer.reasons[:3]))

    # ---- to the engine ----

    def _tell(self, level: Level) -> None:
        now = time.monotonic()
        stale = 0 < self._engine.refresh_s <= now - self._told_at
        if level is self._told and not stale:
            return
        if self._told is None and now < self._retry_at:
            return
        try:
            self._engine.apply(level)
        except EngineError as error:
            self._failed(error)
            return
        self._told, self._told_at = level, now
        if self._failure:
            say("the daemon is told again")
            self._failure = ""
        self._log(level)

    def _log(self, level: Level) -> None:
        """A change, once."""
        said = self._engine.said[level]
        if said != self._said:
            why = self._seen.why if level is not Level.NORMAL else ""
            say(f"{said}: {why}" if why else said)
            self._said = said

    def _failed(self, error: EngineError) -> None:
        """Reported when it is not what was reported last."""
        self._told, self._retry_at = None, time.monotonic() + self._engine.retry_s
        if str(error) != self._failure:
            self._failure = str(error)
            say(f"cannot be told: {error}")

    def _wait(self) -> None:
        """Until the next look is due, the instance ends the connection, or the daemon says something."""
        until = time.monotonic() + self._pace.interval
        connection = self._instance.connection
        watched = [fd for fd in (self._engine.inbox, connection.fileno() if connection else -1) if fd >= 0]
        time.sleep(_ASKED_AGAIN_S)
        with self._interruptible():
            readable, _, _ = select.select(watched, [], [], max(0.0, until - time.monotonic()))
        if self._engine.inbox in readable:
            try:
                self._engine.receive()
            except EngineError as error:
                self._failed(error)

    def _withdraw(self) -> int:
        """At the end."""
        try:
            self._engine.apply(Level.WITHDRAWN)
        except EngineError as error:
            say(f"cannot be told to withdraw: {error}")
            return 1
        say(f"{self._engine.said[Level.WITHDRAWN]}: ends")
        return 0
