"""Clients that want nothing but places: `python -m tests.soak.floods udp|idle|resets ADDRESS COUNT`.

udp: datagrams of COUNT sources. idle: COUNT clients that connect and say nothing for some seconds. resets: COUNT
clients that connect, say a little and reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time

import uvloop

from tests.soak import content
from tests.soak.questions import new_source
from tests.soak.streams import look_only, new_token

HOLD_S = 3.0


def udp(address: str, count: int) -> None:
    host, _, port = address.rpartition(":")
    for number in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.bind((new_source(), 0))
            sock.sendto(content.question(new_token(), number, 64), (host, int(port)))
        if number % 50 == 0:
            time.sleep(0.01)


async def tcp(address: str, count: int, said: bytes, hold_s: float) -> None:
    await asyncio.gather(*(look_only(address, said, hold_s) for _ in range(count)))


if __name__ == "__main__":
    how, where, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if how == "udp":
        udp(where, number)
    elif how == "idle":
        uvloop.run(tcp(where, number, b"", HOLD_S))
    else:
        uvloop.run(tcp(where, number, b"L4", 0.0))
