"""Many clients and their servers, in processes of their own, so that they get a CPU of their own and the test's GIL is
not in their way. Every byte is compared, every way to fail is counted.

`python -m tests.support.load serve COUNT` echoes on COUNT ports; `... ask ADDRESS RATE LONG` begins RATE sessions a
second, one question each, and holds LONG sessions that ask again and again. Both end with their standard input; what
they have to say is JSON, a line ten times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import uvloop

from tests.support.waiting import stdin_ended, wait_until

ANSWER_WITHIN_S = 15.0
SESSIONS_AT_ONCE = 400  # a machine that cannot do the rate does less, instead of piling sessions up
ASK_EVERY_S = 0.05
TICK_S = 0.01
REPORT_EVERY_S = 0.1


# ---- servers ----


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def _serve(count: int, until: asyncio.Future[None]) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(_Echo, "127.0.0.1", 0, backlog=4096) for _ in range(count)]
    print(json.dumps({"ports": [server.sockets[0].getsockname()[1] for server in servers]}), flush=True)
    await until
    for server in servers:
        server.close()


# ---- clients ----


class _Session(asyncio.Protocol):
    """Sends questions, compares answers. `ended` gets how it ended: ok, reset, short or wrong."""

    def __init__(self, number: int, questions: float) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.answers = 0
        self._number = number
        self._left = questions
        self._question = b""
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._ask()

    def finish(self) -> None:
        """After the next answer."""
        self._left = min(self._left, 1)

    def _ask(self) -> None:
        self._question = f"{self._number}.{self.answers}:".encode() * 16
        self._answer = b""
        self._transport.write(self._question)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._question.startswith(self._answer):
            self._end("wrong")
        elif self._answer == self._question:
            self.answers += 1
            self._left -= 1
            if self._left > 0:
                asyncio.get_running_loop().call_later(ASK_EVERY_S, self._ask_again)
            else:
                self._transport.write_eof()

    def _ask_again(self) -> None:
        if not self._transport.is_closing():
            self._ask()

    def eof_received(self) -> None:
        self._end("ok" if self._left <= 0 else "short")

    def connection_lost(self, error: Exception | None) -> None:
        self._end("reset" if error is not None or self._left > 0 else "ok")

    def _end(self, how: str) -> None:
        if not self.ended.done():
            self.ended.set_result(how)
            self._transport.close()


class _Clients:
    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self.counts: Counter[str] = Counter()
        self.long: list[_Session] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self._number = 0

    async def run(self, questions: float, kind: str) -> None:
        self._number += 1
        session = _Session(self._number, questions)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await loop.create_connection(lambda: session, self._host, self._port)
        except ConnectionRefusedError:
            self.counts["refused"] += 1
            return
        except (OSError, TimeoutError) as error:
            self.counts[f"connect: {error!r}"] += 1
            return
        if kind == "long":
            self.long.append(session)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S if kind == "short" else None):
                self.counts[f"{kind} {await session.ended}"] += 1
        except TimeoutError:
            self.counts["short late"] += 1

    def begin(self, questions: float, kind: str) -> None:
        task = asyncio.ensure_future(self.run(questions, kind))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def said(self) -> dict[str, Any]:
        answers = sum(session.answers for session in self.long)
        return {"counts": dict(self.counts), "long": len(self.long), "long_answers": answers}


async def _ask(address: str, rate: float, long: int, until: asyncio.Future[None]) -> None:
    clients = _Clients(address)
    for _ in range(long):
        clients.begin(float("inf"), "long")
    begun, started, reported = 0, time.monotonic(), 0.0
    while not until.done():
        now = time.monotonic()
        due = round((now - started) * rate)
        for _ in range(min(due - begun, SESSIONS_AT_ONCE + long - len(clients.tasks))):
            clients.begin(1, "short")
        begun = due  # what could not be begun in time is not made up for
        if now - reported > REPORT_EVERY_S:
            reported = now
            print(json.dumps(clients.said()), flush=True)
        await asyncio.sleep(TICK_S)
    for session in clients.long:
        session.finish()
    await asyncio.gather(*clients.tasks)
    print(json.dumps(clients.said()), flush=True)


async def _main(command: str, *arguments: str) -> None:
    until = await stdin_ended()
    if command == "serve":
        await _serve(int(arguments[0]), until)
    else:
        await _ask(arguments[0], float(arguments[1]), int(arguments[2]), until)


# ---- the test's side ----


class _Process:
    """One of the two, and the last line that it said."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.support.load", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said = json.loads(line)

    def finish(self) -> None:
        """Let it end as it should: sessions with their next answer."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> None:
        self._process.wait(60)
        self._reader.join()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()


@contextlib.contextmanager
def _running(process: _Process) -> Iterator[_Process]:
    try:
        assert wait_until(lambda: process.said, 20)
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def echo_servers(count: int) -> Iterator[list[str]]:
    """Their addresses."""
    with _running(_Process("serve", str(count))) as process:
        yield [f"127.0.0.1:{port}" for port in process.said["ports"]]


class Load:
    """Several processes of clients of one address."""

    def __init__(self, processes: list[_Process], long: int) -> None:
        self._processes = processes
        self.long = long

    @property
    def counts(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for process in self._processes:
            total.update(process.said.get("counts", {}))
        return total

    def _sum(self, key: str) -> int:
        return sum(process.said.get(key, 0) for process in self._processes)

    def wait_for_more(self, sessions: int = 100) -> None:
        """Until so many more sessions have ended, and every long one has been answered once more, on average."""
        wanted, answers = self.counts["short ok"] + sessions, self._sum("long_answers") + self.long
        done = lambda: self.counts["short ok"] >= wanted and self._sum("long_answers") >= answers  # noqa: E731
        assert wait_until(done, 60), self.counts

    def finish(self) -> Counter[str]:
        """End it in order; what became of all sessions."""
        for process in self._processes:
            process.finish()
        for process in self._processes:
            process.wait()
        return self.counts


@contextlib.contextmanager
def load(address: str, rate: float, long: int, processes: int = 2) -> Iterator[Load]:
    with contextlib.ExitStack() as stack:
        share = [str(rate / processes), str(long // processes)]
        started = [stack.enter_context(_running(_Process("ask", address, *share))) for _ in range(processes)]
        running = Load(started, long // processes * processes)
        assert wait_until(lambda: running._sum("long") == running.long, 30), running.counts
        yield running


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
