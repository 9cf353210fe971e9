"""All clients of the soak, in a process of their own: `python -m tests.soak.clients PLAN`, PLAN being JSON.

    {"streams": [[kind, listener, address, headed, sessions at once, pause in seconds], ...],
     "questions": [[listener, address, clients at once, questions each, pause in seconds], ...],
     "movers": the same}

What did not go well is printed at once, a line of JSON each, and a summary every second. It goes on until its standard
input ends; then what has begun is finished.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import sys
import time
from collections import Counter
from typing import Any

import uvloop

from tests.soak import questions, streams
from tests.soak.movers import Mover
from tests.soak.questions import Asker
from tests.soak.streams import KINDS
from tests.support.waiting import stdin_ended

WITHIN_S = {"slow": 150.0}
STREAM_S = 60.0


class Clients:
    def __init__(self, until: asyncio.Future[None]) -> None:
        self._until = until
        self.counts: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, plan: dict[str, Any]) -> None:
        for kind, listener, address, headed, count, pause_s in plan["streams"]:
            for _ in range(count):
                self._add(self._stream(kind, listener, address, headed, pause_s))
        for listener, address, count, each, pause_s in plan["questions"]:
            for _ in range(count):
                self._add(self._question(listener, address, each, pause_s))
        for listener, address, count, each, pause_s in plan["movers"]:
            for _ in range(count):
                self._add(self._mover(listener, address, each, pause_s))

    def _add(self, coroutine: Any) -> None:
        self._tasks.append(asyncio.ensure_future(coroutine))

    async def _pause(self, pause_s: float) -> None:
        await asyncio.wait([self._until], timeout=random.uniform(0, 2 * pause_s))

    async def _stream(self, kind: str, listener: str, address: str, headed: bool, pause_s: float) -> None:
        while not self._until.done():
            within_s = WITHIN_S.get(kind, STREAM_S)
            outcome = await streams.run(KINDS[kind], listener, address, headed=headed, within_s=within_s)
            self.counts[f"{listener} {outcome.how}"] += 1
            self.counts[f"kind {kind} {outcome.how}"] += 1
            self.counts["bytes"] += outcome.up + outcome.down
            if outcome.how != "ok":
                print(json.dumps({"outcome": dataclasses.asdict(outcome)}), flush=True)
            await self._pause(pause_s)

    async def _question(self, listener: str, address: str, each: int, pause_s: float) -> None:
        while not self._until.done():
            asker = await questions.open_asker(listener, address)
            for _ in range(each):
                await asker.ask()
                await self._pause(pause_s)
                if self._until.done():
                    break
            asker.close()
            self._datagrams(asker)

    async def _mover(self, listener: str, address: str, each: int, pause_s: float) -> None:
        while not self._until.done():
            mover = Mover(listener, address)
            await mover.run(each, pause_s)
            self._datagrams(mover)

    def _datagrams(self, client: Asker | Mover) -> None:
        """What came of one that is done."""
        for name, count in client.counts.items():
            self.counts[f"{client.listener} {name}"] += count
        for how, what in client.wrong:
            said = {"listener": client.listener, "how": how, "what": what, "ended": time.time(), "local": client.local}
            print(json.dumps({"outcome": {"kind": "datagram", **said}}), flush=True)

    async def report(self) -> None:
        while any(not task.done() for task in self._tasks):
            print(json.dumps({"counts": self.counts}), flush=True)
            await asyncio.wait(self._tasks, timeout=1.0, return_when=asyncio.ALL_COMPLETED)
        print(json.dumps({"counts": self.counts}), flush=True)
        for task in self._tasks:
            task.result()


async def _main(plan: str) -> None:
    until = await stdin_ended()
    clients = Clients(until)
    clients.begin(json.loads(plan))
    await clients.report()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
