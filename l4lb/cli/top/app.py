"""The loop of ``l4lb top``: keys, answers and signals in, screens out. Nothing here waits for the instance."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

from l4lb.cli.top.aside import aside
from l4lb.cli.top.changes import Change
from l4lb.cli.top.following import Connect, Follower
from l4lb.cli.top.frame import frame
from l4lb.cli.top.state.cells import Line
from l4lb.cli.top.state.seen import Seen
from l4lb.cli.top.terminal import Terminal
from l4lb.cli.top.ui import Command, Ui
from l4lb.cli.top.wanted import Wanted
from l4lb.errors import AdminError
from l4lb.version import __version__

_DRAW_PAUSE_S = 0.03  # between two screens
_TICK_S = 1.0  # ages change though nothing else does
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class App:
    """`connect` makes a client, for one thread. One instance is run once."""

    def __init__(
        self, terminal: Terminal, connect: Connect, interval_s: float, read_only: bool, has_token: bool
    ) -> None:
        self._terminal = terminal
        self._connect = connect
        self._seen = Seen()
        self._ui = Ui(self._seen, read_only)
        self._follower = Follower(connect, self._seen, interval_s, lambda: self._ui.wanted, self._changed, has_token)
        self._arranged = -1  # the version of `Seen` that the list shows
        self._drawing: asyncio.TimerHandle | None = None
        self._drawn_at = 0.0
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[int]

    async def run(self) -> int:
        """Until the user, a signal or the terminal ends it. Returns the exit code."""
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        self._catch_signals()
        loop.add_reader(0, self._read_keys)
        self._draw()
        for work in (self._follower.poll(), self._follower.read_events(), self._tick()):
            self._start(work)
        try:
            return await self._ended
        finally:
            loop.remove_reader(0)

    def _catch_signals(self) -> None:
        """Those that are ignored, such as SIGHUP after nohup(1), remain so."""
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._end, 128 + number)
        loop.add_signal_handler(signal.SIGWINCH, self._resized)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._stopped)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        """An error of ours ends the program, which then shows it on a terminal that is as it was."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._ended.done():
            self._ended.set_exception(error)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    def _guarded(self, call: Callable[[], None]) -> None:
        """For what the loop calls: asyncio would only log an error."""
        try:
            call()
        except EOFError:  # the terminal is gone
            self._end(128 + signal.SIGHUP)
        except Exception as error:
            if not self._ended.done():
                self._ended.set_exception(error)

    # ---- the screen ----

    def _changed(self) -> None:
        """Draw soon, but not more often than eyes can follow."""
        if self._drawing is None:
            pause = max(0.0, self._drawn_at + _DRAW_PAUSE_S - time.monotonic())
            self._drawing = asyncio.get_running_loop().call_later(pause, self._guarded, self._draw)

    def _draw(self) -> None:
        if self._drawing is not None:
            self._drawing.cancel()
            self._drawing = None
        try:
            self._terminal.draw(self._frame())
        except (KeyError, TypeError) as error:
            if self._seen.status is None or self._seen.status.get("version") == __version__:
                raise  # a mistake of ours
            self._seen.not_understood(error, time.time())
            self._terminal.draw(self._frame())
        self._drawn_at = time.monotonic()

    def _frame(self) -> list[Line]:
        if self._arranged != self._seen.version:
            self._arranged = self._seen.version
            self._ui.arrange()
        return frame(self._ui, *self._terminal.size)

    def _resized(self) -> None:
        self._terminal.adopt_size()
        self._guarded(self._draw)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._changed()

    # ---- keys ----

    def _read_keys(self) -> None:
        self._guarded(self._press_all)

    def _press_all(self) -> None:
        for key in self._terminal.pressed():
            before = self._ui.wanted
            self._carry_out(self._ui.press(key))
            self._ask_for(self._ui.wanted, before)
        self._changed()

    def _ask_for(self, wanted: Wanted, before: Wanted) -> None:
        """What is on the screen now needs another answer."""
        if wanted == before:
            return
        for name in (wanted.part, "pool" if wanted.pool else ""):
            self._seen.forget_other(name, wanted.query_of(name))
        self._follower.poke()

    def _carry_out(self, command: Command) -> None:
        match command:
            case "quit":
                self._end(0)
            case "redraw":
                self._terminal.redraw()
            case "suspend":
                self._suspend()
            case Change():
                self._start(self._make(command))

    def _suspend(self) -> None:
        """Back to the shell, until its fg. One without jobs, which could not, makes it ignore the signal."""
        if signal.getsignal(signal.SIGTSTP) == signal.SIG_IGN:
            return
        self._terminal.leave()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(0, signal.SIGTSTP)  # all of the job, as the terminal would
        signal.signal(signal.SIGTSTP, before)
        self._terminal.enter()

    async def _make(self, change: Change) -> None:
        """One after the other, so that each of several quick key presses counts."""
        async with self._changing:
            try:
                await aside(lambda: self._send(change))
                self._ui.say(change.done)
            except (AdminError, RuntimeError) as error:  # RuntimeError: no thread can be started
                self._ui.say(str(error), "bold red")
        self._changed()
        self._follower.poke()

    def _send(self, change: Change) -> None:
        with self._connect() as client:
            change.do(client)
