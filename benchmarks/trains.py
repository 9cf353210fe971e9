"""Trains of datagrams: an echo server that takes and sends them as the kernel has them, and a client that keeps some in
flight. Both use UDP_SEGMENT and UDP_GRO (udp(7)), so that a load balancer that does too has few calls to make."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import struct
import time
from collections.abc import Iterator

from benchmarks.peers import Peer
from tests.support.datagrams import UDP_GRO, UDP_SEGMENT, wide_buffers

DATAGRAM_BYTES = 1200
TRAIN_BYTES = DATAGRAM_BYTES * 50
IN_FLIGHT_BYTES = TRAIN_BYTES * 4
LOST_AFTER_S = 0.2


def _socket() -> socket.socket:
    sock = wide_buffers(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
    return sock


def _segment(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """What to send with an answer, so that it travels as the question did."""
    return [
        (socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", struct.unpack("=i", value)[0]))
        for level, kind, value in ancillary
        if (level, kind) == (socket.SOL_UDP, UDP_GRO)
    ]


def _echo(port: int) -> None:
    sock = _socket()
    sock.bind(("127.0.0.1", port))
    while True:
        data, ancillary, _, peer = sock.recvmsg(1 << 16, 64)
        with contextlib.suppress(OSError):
            sock.sendmsg([data], _segment(ancillary), 0, peer)


@contextlib.contextmanager
def echo_server(port: int) -> Iterator[int]:
    """Its pid."""
    process = multiprocessing.get_context("spawn").Process(target=_echo, args=(port,), daemon=True)
    process.start()
    assert process.pid is not None
    try:
        yield process.pid
    finally:
        process.terminate()
        process.join()


def run(peer: Peer, seconds: float) -> tuple[float, dict[str, float]]:
    """(gigabytes both ways, figures): one client sends trains of DATAGRAM_BYTES, IN_FLIGHT_BYTES at once."""
    with contextlib.closing(_socket()) as sock:
        sock.connect(("127.0.0.1", peer.port))
        sock.settimeout(LOST_AFTER_S)
        train = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", DATAGRAM_BYTES))]
        data = os.urandom(TRAIN_BYTES)
        sent = received = lost = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end or sent - received - lost:
            if time.monotonic() < end and sent - received - lost < IN_FLIGHT_BYTES:
                sent += sock.sendmsg([data], train)
                continue
            try:
                received += len(sock.recv(1 << 16))
            except TimeoutError:
                lost = sent - received
    return 2 * received / 1e9, {"Gbit/s": 16 * received / 1e9 / seconds, "failed": lost / DATAGRAM_BYTES}
