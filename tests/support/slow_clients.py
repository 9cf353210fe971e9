"""Clients that are slow on purpose, and others beside them whose answers are timed; each kind in processes of its own.

`python -m tests.support.slow_clients dribble ADDRESS COUNT SOURCE...` keeps COUNT clients at ADDRESS, spread over the
sources, that send a byte now and then and never finish; who is refused comes again. `... ask ADDRESS RATE SOURCE...`
begins RATE sessions a second, one question each. Both end with their standard input; what they have to say is JSON, a
line ten times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import uvloop

from l4lb.net.limits import raise_file_limit
from tests.support.waiting import stdin_ended, wait_until

REPORT_EVERY_S = 0.1
DRIBBLE_EVERY_S = (1.0, 3.0)
COME_AGAIN_AFTER_S = (2.0, 8.0)
CONNECTING_AT_ONCE = 50
ANSWER_WITHIN_S = 60.0
TICK_S = 0.005
QUESTION = b"who is there?" * 10


# ---- those who are slow ----


class _Dribbling(asyncio.Protocol):
    """Is in with the first answer."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.decided: asyncio.Future[bool] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.transport.write(b"G")

    def data_received(self, data: bytes) -> None:
        if not self.decided.done():
            self.decided.set_result(True)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.decided.done():
            self.decided.set_result(False)
        if not self.over.done():
            self.over.set_result(None)


class _Dribblers:
    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._connecting = asyncio.Semaphore(CONNECTING_AT_ONCE)
        self.counts: Counter[str] = Counter()

    async def _enter(self, source: str) -> _Dribbling | None:
        async with self._connecting:
            try:
                loop = asyncio.get_running_loop()
                _, session = await loop.create_connection(_Dribbling, self._host, self._port, local_addr=(source, 0))
            except (ConnectionResetError, BrokenPipeError):
                return None
            return session if await session.decided else None

    async def run(self, source: str) -> None:
        while True:
            try:
                session = await self._enter(source)
            except OSError as error:
                self.counts[repr(error)] += 1
                return
            if session is None:
                self.counts["refused"] += 1
                await asyncio.sleep(random.uniform(*COME_AGAIN_AFTER_S))
                continue
            self.counts["in"] += 1
            while not session.over.done():
                await asyncio.wait([session.over], timeout=random.uniform(*DRIBBLE_EVERY_S))
                if not session.transport.is_closing():
                    session.transport.write(b"E")
            self.counts["in"] -= 1
            self.counts["lost"] += 1


async def _dribble(address: str, count: int, sources: Sequence[str], until: asyncio.Future[None]) -> None:
    dribblers = _Dribblers(address)
    tasks = [
        asyncio.ensure_future(dribblers.run(source)) for source in itertools.islice(itertools.cycle(sources), count)
    ]
    while not until.done():
        print(json.dumps({"counts": dribblers.counts}), flush=True)
        await asyncio.sleep(REPORT_EVERY_S)
    print(json.dumps({"counts": dribblers.counts}), flush=True)
    for task in tasks:
        task.cancel()


# ---- the others ----


class _Asking(asyncio.Protocol):
    def __init__(self) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._transport.write(QUESTION)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._answer == QUESTION:
            self._end("ok")
        elif not QUESTION.startswith(self._answer):
            self._end("wrong")

    def eof_received(self) -> None:
        self._end("short")

    def connection_lost(self, error: Exception | None) -> None:
        self._end("reset")

    def _end(self, how: str) -> None:
        if not self.ended.done():
            self.ended.set_result(how)
            self._transport.close()


class _Askers:
    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self.counts: Counter[str] = Counter()
        self.took: list[float] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def _ask(self, source: str) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                loop = asyncio.get_running_loop()
                _, session = await loop.create_connection(_Asking, self._host, self._port, local_addr=(source, 0))
                how = await session.ended
        except (OSError, TimeoutError) as error:
            how = repr(error)
        self.counts[how] += 1
        self.took.append(time.monotonic() - began)

    def begin(self, source: str) -> None:
        task = asyncio.ensure_future(self._ask(source))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def said(self) -> dict[str, Any]:
        return {"counts": self.counts, "took": self.took}


async def _ask(address: str, rate: float, sources: Sequence[str], until: asyncio.Future[None]) -> None:
    askers, endless = _Askers(address), itertools.cycle(sources)
    begun, started, reported = 0, time.monotonic(), 0.0
    while not until.done():
        now = time.monotonic()
        due = round((now - started) * rate)
        for source in itertools.islice(endless, min(due - begun, 20)):
            askers.begin(source)
        begun = due  # what could not be begun in time is not made up for
        if now - reported > REPORT_EVERY_S:
            reported = now
            print(json.dumps({"counts": askers.counts}), flush=True)
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*askers.tasks)
    print(json.dumps(askers.said()), flush=True)


async def _main(command: str, address: str, number: str, *sources: str) -> None:
    raise_file_limit()
    until = await stdin_ended()
    if command == "dribble":
        os.nice(5)  # they stand for other hosts: where there are few CPUs, whoever is timed goes first
        await _dribble(address, int(number), sources, until)
    else:
        await _ask(address, float(number), sources, until)


# ---- the test's side ----


class Running:
    """One of these processes, and the last line that it said."""

    def __init__(self, command: str, address: str, number: float, sources: Sequence[str]) -> None:
        arguments = [sys.executable, "-m", "tests.support.slow_clients", command, address, str(number), *sources]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said = json.loads(line)

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.said["counts"])

    def finish(self) -> dict[str, Any]:
        """End it in order; the last that it says."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(ANSWER_WITHIN_S + 30)
        self._reader.join()
        assert self._process.returncode == 0
        return self.said

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def _running(process: Running) -> Iterator[Running]:
    try:
        assert wait_until(lambda: process.said, 30)
        yield process
    finally:
        process.stop()


class Crowd:
    """Slow clients in several processes."""

    def __init__(self, processes: list[Running]) -> None:
        self._processes = processes

    @property
    def counts(self) -> Counter[str]:
        """`in` are those that are in now; `refused` and `lost`, how often one was refused and lost its session."""
        return sum((process.counts for process in self._processes), Counter())


@contextlib.contextmanager
def dribbling(address: str, count: int, sources: Sequence[str], processes: int = 2) -> Iterator[Crowd]:
    """So many slow clients of each process's, all of which come from `sources`. They are gone with the block."""
    with contextlib.ExitStack() as stack:
        share = count // processes
        yield Crowd(
            [stack.enter_context(_running(Running("dribble", address, share, sources))) for _ in range(processes)]
        )


@contextlib.contextmanager
def asking(address: str, rate: float, sources: Sequence[str]) -> Iterator[Running]:
    """Sessions of others; `finish` says what became of them, and how long each took."""
    with _running(Running("ask", address, rate, sources)) as process:
        yield process


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
