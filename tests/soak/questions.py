"""Clients of the soak over UDP. Each datagram names its client and its number; an answer that comes to anybody else, or
twice, or changed, is a violation. One that does not come is counted."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import random
from collections import Counter

from tests.soak import content
from tests.soak.content import Wrong
from tests.soak.streams import new_token

WITHIN_S = 5.0  # a busy machine stops clients and servers for a second
_sources = itertools.count(random.getrandbits(23))


class Asker(asyncio.DatagramProtocol):
    """One socket, one question at a time."""

    def __init__(self, listener: str) -> None:
        self.listener = listener
        self.token = new_token()
        self.counts: Counter[str] = Counter()
        self.wrong: list[tuple[str, str]] = []
        self._number = 0
        self._answered: set[int] = set()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self.local = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.local = ":".join(map(str, transport.get_extra_info("sockname")))

    def datagram_received(self, data: bytes, peer: object) -> None:
        try:
            number = content.number_of(data, self.token)
            if number >= self._number or number in self._answered:
                raise Wrong(f"number {number} of {self._number} was answered twice or never asked")
        except Wrong as error:
            self.wrong.append(("foreign" if error.foreign else "wrong", str(error)))
            return
        self._answered.add(number)
        waiting = self._waiting.get(number)
        if waiting is None:
            self.counts["late"] += 1
        elif not waiting.done():
            waiting.set_result(None)

    def error_received(self, error: Exception) -> None:
        self.counts["refused"] += 1

    async def ask(self, patience_s: float = WITHIN_S) -> bool:
        number, self._number = self._number, self._number + 1
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        self.counts["asked"] += 1
        size = random.randint(content.QUESTION_BYTES, 1400)
        self._transport.sendto(content.question(self.token, number, size))  # type: ignore[attr-defined]
        try:
            async with asyncio.timeout(patience_s):
                await waiting
        except TimeoutError:
            self.counts["lost"] += 1
            return False
        finally:
            del self._waiting[number]
        self.counts["answered"] += 1
        return True

    def close(self) -> None:
        self._transport.close()  # type: ignore[attr-defined]


def new_source() -> str:
    """An address that no client had before: to a port that another one left, an answer may still be under way."""
    number = next(_sources)
    return str(ipaddress.IPv4Address((127 << 24) + (1 << 16) + number % 0xF00000))


async def open_asker(listener: str, address: str) -> Asker:
    host, _, port = address.rpartition(":")
    _, asker = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Asker(listener), (new_source(), 0), (host, int(port))
    )
    return asker


async def converse(
    listener: str, address: str, questions: int, think_s: float = 0.0, patience_s: float = WITHIN_S
) -> Asker:
    """Ask so many, one after the other; closed when it returns."""
    asker = await open_asker(listener, address)
    for _ in range(questions):
        await asker.ask(patience_s)
        if think_s:
            await asyncio.sleep(random.uniform(0, 2 * think_s))
    asker.close()
    return asker
