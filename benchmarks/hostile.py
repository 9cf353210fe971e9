"""Somebody who sends what is no PROXY header, many times a second, and a client among them that is as it should be."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.synchronize
import os
import socket
import struct
import time
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized

from benchmarks.peers import Peer
from l4lb.model.address import SocketAddress
from l4lb.proxy_protocol import Header, Transport, build
from tests.support.datagrams import UDP_SEGMENT, UdpClient, wide_buffers

DATAGRAM_BYTES = 60
TRAIN = 50  # in one system call; the receiver, who reads headers, gets them one by one


def _attack(port: int, rate: int, sent: Synchronized[int]) -> None:
    sock = wide_buffers(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.connect(("127.0.0.1", port))
    segment = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", DATAGRAM_BYTES))]
    began = time.monotonic()
    while True:
        while sent.value < (time.monotonic() - began) * rate:
            with contextlib.suppress(OSError):
                sock.sendmsg([os.urandom(DATAGRAM_BYTES * TRAIN)], segment)
            sent.value += TRAIN
        time.sleep(TRAIN / rate)


@contextlib.contextmanager
def attacker(port: int, rate: int) -> Iterator[Synchronized[int]]:
    """`rate` datagrams a second; how many it has sent."""
    context = multiprocessing.get_context("spawn")
    sent = context.Value("q", 0)
    process = context.Process(target=_attack, args=(port, rate, sent), daemon=True)
    process.start()
    try:
        while sent.value == 0:
            time.sleep(0.01)
        yield sent
    finally:
        process.terminate()
        process.join()


def ask(peer: Peer, seconds: float) -> tuple[float, dict[str, float]]:
    """(answers, figures): one question after the other, each with its header."""
    source, destination = (SocketAddress(socket.AF_INET, f"192.0.2.{host}", 443) for host in (1, 2))
    header = build(Header(source=source, destination=destination, transport=Transport.DGRAM))
    times: list[float] = []
    failed = 0
    with UdpClient(("127.0.0.1", peer.port), 0.5) as client:
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            try:
                client.ask(header + b"question")
            except TimeoutError:
                failed += 1
                continue
            times.append(time.monotonic() - began)
    times.sort()
    quantiles = {"p50 us": times[len(times) // 2] * 1e6, "p99 us": times[len(times) * 99 // 100] * 1e6}
    return len(times), {"answers/s": len(times) / seconds, **quantiles, "failed": failed}
