"""Somebody who sends what is no PROXY header, or comes although he is denied, many times a second, and a client among
them that is as it should be."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.synchronize
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from multiprocessing.sharedctypes import Synchronized

from benchmarks.peers import Peer
from l4lb.model.address import SocketAddress
from l4lb.proxy_protocol import Header, Transport, build
from tests.support.datagrams import UDP_SEGMENT, UdpClient, wide_buffers

DATAGRAM_BYTES = 60
TRAIN = 50  # in one system call, where it may be; the receiver, who reads headers, gets them one by one
DENIED = "127.0.0.2"
RESETS = struct.pack("ii", 1, 0)  # struct linger: close with a reset, which leaves no port in TIME_WAIT

Attack = Callable[[int], Callable[[], None]]  # of a port: what sends TRAIN at once


def headers(port: int) -> Callable[[], None]:
    """Datagrams that should begin with a header."""
    sock = wide_buffers(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.connect(("127.0.0.1", port))
    segment = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", DATAGRAM_BYTES))]

    def send() -> None:
        with contextlib.suppress(OSError):
            sock.sendmsg([os.urandom(DATAGRAM_BYTES * TRAIN)], segment)

    return send


def denied_datagrams(port: int) -> Callable[[], None]:
    sock = wide_buffers(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind((DENIED, 0))
    sock.connect(("127.0.0.1", port))

    def send() -> None:
        for _ in range(TRAIN):
            with contextlib.suppress(OSError):
                sock.send(b"question")

    return send


def denied_connects(port: int) -> Callable[[], None]:
    def send() -> None:
        for _ in range(TRAIN):
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
                with contextlib.suppress(OSError):
                    sock.bind((DENIED, 0))
                    sock.connect_ex(("127.0.0.1", port))

    return send


def _attack(attack: Attack, port: int, rate: int, sent: Synchronized[int]) -> None:
    send, began = attack(port), time.monotonic()
    while True:
        while sent.value < (time.monotonic() - began) * rate:
            send()
            sent.value += TRAIN
        time.sleep(TRAIN / rate)


@contextlib.contextmanager
def attacker(port: int, rate: int, attack: Attack = headers) -> Iterator[Synchronized[int]]:
    """`rate` times a second, if the machine can; how often it has come."""
    context = multiprocessing.get_context("spawn")
    sent = context.Value("q", 0)
    process = context.Process(target=_attack, args=(attack, port, rate, sent), daemon=True)
    process.start()
    try:
        while sent.value == 0:
            time.sleep(0.01)
        yield sent
    finally:
        process.terminate()
        process.join()


def ask(peer: Peer, seconds: float, header: bytes | None = None) -> tuple[float, dict[str, float]]:
    """(answers, figures): one question after the other by UDP, each with a header of its own unless that is given."""
    if header is None:
        source, destination = (SocketAddress(socket.AF_INET, f"192.0.2.{host}", 443) for host in (1, 2))
        header = build(Header(source=source, destination=destination, transport=Transport.DGRAM))
    with UdpClient(("127.0.0.1", peer.port), 0.5) as client:
        return _timed(lambda: client.ask(header + b"question"), seconds)


def ask_by_tcp(peer: Peer, seconds: float) -> tuple[float, dict[str, float]]:
    """The same with a session for each question."""

    def ask_once() -> None:
        with socket.create_connection(("127.0.0.1", peer.port), 0.5) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
            client.sendall(b"question")
            client.recv(100)

    return _timed(ask_once, seconds)


def _timed(question: Callable[[], object], seconds: float) -> tuple[float, dict[str, float]]:
    times: list[float] = []
    failed = 0
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        try:
            question()
        except (TimeoutError, ConnectionError):
            failed += 1
            continue
        times.append(time.monotonic() - began)
    times.sort()
    quantiles = {"p50 us": times[len(times) // 2] * 1e6, "p99 us": times[len(times) * 99 // 100] * 1e6}
    return len(times), {"answers/s": len(times) / seconds, **quantiles, "failed": failed}
