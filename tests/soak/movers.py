"""Clients of the soak that move: packets with QUIC's connection ids (RFC 8999), from another address every few of them.
Whoever has begun with a backend must come to it again, whatever else happens."""

from __future__ import annotations

import asyncio
import os
import struct
from collections import Counter

from tests.soak import content
from tests.soak.content import Wrong
from tests.soak.packets import ID_BYTES, LONG, SHORT, long_packet
from tests.soak.questions import WITHIN_S, new_source
from tests.soak.streams import new_token

MOVES_EVERY = 4


class _Socket(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: object) -> None:
        self.answers.put_nowait(data)


class Mover:
    def __init__(self, listener: str, address: str) -> None:
        self.listener = listener
        self.counts: Counter[str] = Counter()
        self.wrong: list[tuple[str, str]] = []
        self.local = ""
        host, _, port = address.rpartition(":")
        self._to = host, int(port)
        self._token = new_token()
        self._own = os.urandom(ID_BYTES)
        self._server_id = b""
        self._server = 0
        self._sock: _Socket | None = None

    async def _move(self) -> _Socket:
        self.close()
        loop = asyncio.get_running_loop()
        _, self._sock = await loop.create_datagram_endpoint(_Socket, (new_source(), 0), self._to)
        self.local += f" {self._sock.transport.get_extra_info('sockname')}"
        return self._sock

    def _packet(self, number: int) -> bytes:
        payload = content.question(self._token, number, 200)
        if self._server_id:
            return bytes([SHORT]) + self._server_id + payload
        return long_packet(os.urandom(ID_BYTES), self._own, payload)

    def _take(self, data: bytes) -> int:
        """Which packet is answered; learns whom to call."""
        at = 1 + ID_BYTES
        if data[0] == LONG:
            at = 5 + 1 + data[5]
            own, server_id = data[6:at], data[at + 1 : at + 1 + data[at]]
            at += 1 + len(server_id)
            if own != self._own:
                raise Wrong(f"an answer to {own.hex()} came to {self._own.hex()}", foreign=True)
            self._server_id = server_id
        server = struct.unpack_from(">I", data, at)[0]
        number = content.number_of(data[at + 4 :], self._token)
        if self._server not in (0, server):
            raise Wrong(f"server {server} has a packet of a connection with {self._server}", foreign=True)
        self._server = server
        return number

    async def _ask(self, sock: _Socket, number: int) -> None:
        self.counts["asked"] += 1
        sock.transport.sendto(self._packet(number))  # type: ignore[attr-defined]
        try:
            async with asyncio.timeout(WITHIN_S):
                while self._take(await sock.answers.get()) != number:
                    self.counts["late"] += 1
        except TimeoutError:
            self.counts["lost"] += 1
        except Wrong as error:
            self.wrong.append(("foreign" if error.foreign else "wrong", str(error)))
        else:
            self.counts["answered"] += 1

    async def run(self, packets: int, pause_s: float) -> None:
        """The handshake is over with the second packet: it calls the server by the id that it gave."""
        sock = await self._move()
        for number in range(packets):
            if number % MOVES_EVERY == MOVES_EVERY - 1 and self._server_id:
                sock = await self._move()
            await self._ask(sock, number)
            if number == 0 and not self._server_id:
                break
            await asyncio.sleep(pause_s)
        self.close()

    def close(self) -> None:
        if self._sock is not None:
            self._sock.transport.close()  # type: ignore[attr-defined]
