"""How long sessions stand still: clients that each send a few bytes to an echo, wait for them, and send again after a
fixed time. A process of its own, `python -m tests.support.metronome ADDRESS CLIENTS PERIOD`; a line on its standard
input makes it print the longest wait of each since the last one, in seconds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import uvloop

from tests.support.programs import without_preload


class _Client(asyncio.Protocol):
    def __init__(self, period_s: float) -> None:
        self.longest_s = 0.0
        self.asked_at = 0.0  # 0: nothing is under way
        self.lost = False
        self._period_s = period_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        asyncio.get_running_loop().call_later(random.uniform(0, self._period_s), self._ask)

    def _ask(self) -> None:
        self.asked_at = time.monotonic()
        self._transport.write(b"tick")  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        took_s = time.monotonic() - self.asked_at
        self.longest_s, self.asked_at = max(self.longest_s, took_s), 0.0
        asyncio.get_running_loop().call_later(max(self._period_s - took_s, 0), self._ask)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True

    def take(self) -> float:
        """-1 for a session that was lost."""
        waited_s = max(self.longest_s, time.monotonic() - self.asked_at if self.asked_at else 0.0)
        self.longest_s = 0.0
        return -1.0 if self.lost else waited_s


async def _main(address: str, count: str, period: str) -> None:
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    clients = [
        (await loop.create_connection(lambda: _Client(float(period)), host, int(port)))[1] for _ in range(int(count))
    ]
    print(json.dumps([]), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(json.dumps([client.take() for client in clients]), flush=True)


class Metronome:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def take(self) -> list[float]:
        """The longest wait of each session since the last call, in seconds; -1 for one that was lost."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: list[float] = json.loads(self._process.stdout.readline())
        return found

    def stop(self) -> None:
        """End all sessions."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def metronome(address: str, count: int, period_s: float) -> Iterator[Metronome]:
    command = [sys.executable, "-m", "tests.support.metronome", address, str(count), str(period_s)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=without_preload()
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "[]\n"
            yield Metronome(process)
        finally:
            process.kill()


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
