"""Peers that speak UDP, each on a plain socket with deadlines."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

TIMEOUT_S = 30.0
UDP_SEGMENT = 103
UDP_GRO = 104
IP_PKTINFO = 8
BUFFER_BYTES = 1 << 22
GIVEN_UP_AFTER_S = 2.0

Answer = Callable[[bytes], list[bytes]]


def same(data: bytes) -> list[bytes]:
    """The echo."""
    return [data]


def silent(data: bytes) -> list[bytes]:
    return []


def address_pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def wide_buffers(sock: socket.socket) -> socket.socket:
    """Room for whatever a test sends at once; the FORCE forms are for root."""
    for force, plain in ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    return sock


class UdpServer:
    """Answers each datagram by `answer`, on a thread of its own. `clients` counts datagrams by the peer's address."""

    def __init__(self, answer: Answer = same, host: str = "127.0.0.1", port: int = 0) -> None:
        self._answer = answer
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = wide_buffers(socket.socket(self._family, socket.SOCK_DGRAM))
        try:
            self.sock.bind((host, port))
        except OSError:
            self.sock.close()
            raise
        self.port = int(self.sock.getsockname()[1])
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.received: list[bytes] = []
        self.last_peer: tuple[str, int] = ("", 0)
        self.clients: Counter[tuple[str, int]] = Counter()
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping:
            try:
                data, peer = self.sock.recvfrom(1 << 16)
            except OSError:
                return
            if self._stopping:
                return
            self.clients[peer[:2]] += 1
            self.last_peer = peer[:2]
            self.received.append(data)
            for answer in self._answer(data):
                with contextlib.suppress(OSError):
                    self.sock.sendto(answer, peer)

    def stop(self) -> None:
        """Close its port: what comes from now on is refused by ICMP."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)
        with socket.socket(self._family, socket.SOCK_DGRAM) as wake:
            with contextlib.suppress(OSError):
                wake.sendto(b"", self.sock.getsockname())
        self._thread.join(TIMEOUT_S)
        self.sock.close()


@contextlib.contextmanager
def serving_udp(answer: Answer = same, host: str = "127.0.0.1", port: int = 0) -> Iterator[UdpServer]:
    server = UdpServer(answer, host, port)
    try:
        yield server
    finally:
        server.stop()


class UdpClient:
    """A socket that is connected to `address`, so that only its answers arrive."""

    def __init__(self, address: str | tuple[str, int], timeout_s: float = TIMEOUT_S, *, bind: str = "") -> None:
        host, port = address_pair(address) if isinstance(address, str) else address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = wide_buffers(socket.socket(family, socket.SOCK_DGRAM))
        self.sock.settimeout(timeout_s)
        if bind:
            self.sock.bind((bind, 0))
        self.sock.connect((host, port))

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    def receive(self) -> bytes:
        return self.sock.recv(1 << 16)

    def ask(self, data: bytes) -> bytes:
        """Once more when half of TIMEOUT_S has passed: the loopback device of a busy machine drops datagrams, all that
        are under way at once."""
        if self.sock.gettimeout() == TIMEOUT_S:
            self.send(data)
            readable, _, _ = select.select([self.sock], [], [], TIMEOUT_S / 2)
            if readable:
                return self.receive()
        self.send(data)
        return self.receive()

    def hears_nothing(self, for_s: float = 0.2) -> bool:
        """True when nothing comes for that long."""
        self.sock.settimeout(for_s)
        try:
            self.receive()
        except (TimeoutError, ConnectionRefusedError):
            return True
        finally:
            self.sock.settimeout(TIMEOUT_S)
        return False

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> UdpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ManyClients:
    """Clients by the million, each with an address of its own in 127.0.0.0/8, on one socket: every datagram begins a
    new flow, and says which; an answer at another address than the one that asked is an AssertionError."""

    def __init__(self, target: tuple[str, int], window: int = 256) -> None:
        self.sock = wide_buffers(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self.sock.bind(("0.0.0.0", 0))
        self.sock.setblocking(False)
        self.sent = 0
        self.answered = 0
        self.given_up = 0  # answers that are not waited for any more
        self._target = target
        self._window = window

    def ask(self, count: int, rate: float = 1e9) -> None:
        """Flows, not more than `rate` a second, until that many more are answered. UDP may lose datagrams on a busy
        machine, all that are under way at once: then others ask."""
        begun, began = self.answered, time.monotonic()
        sent, heard = self.sent, began
        while self.answered < begun + count:
            now = time.monotonic()
            assert now - began < 60 + 10 * count / min(rate, 1e4), f"{self.answered} of {self.sent} answered"
            waiting = self.sent - self.answered - self.given_up
            if now - heard > GIVEN_UP_AFTER_S:
                self.given_up += waiting
                waiting, heard = 0, now
            room = min(self._window, begun + count - self.answered) - waiting
            for _ in range(int(min(room, sent + (now - began) * rate - self.sent))):
                self._send()
            select.select([self.sock], [], [], 0.001)
            before = self.answered
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._receive()
            heard = time.monotonic() if self.answered > before else heard

    def send(self, count: int) -> None:
        """That many flows more; their answers are left alone."""
        for _ in range(count):
            self._send()

    def _send(self) -> None:
        number = struct.pack(">I", self.sent)
        source = b"\x7f" + struct.pack(">I", self.sent + 256)[1:]  # from 127.0.1.0 on
        told = struct.pack("=i4s4s", 0, source, bytes(4))  # struct in_pktinfo, ip(7)
        self.sock.sendmsg([number], [(socket.IPPROTO_IP, IP_PKTINFO, told)], 0, self._target)
        self.sent += 1

    def _receive(self) -> None:
        data, told, _, peer = self.sock.recvmsg(100, 64)
        at = next(value[8:12] for _, kind, value in told if kind == IP_PKTINFO)
        assert peer == self._target
        assert at[1:] == struct.pack(">I", struct.unpack(">I", data)[0] + 256)[1:], "an answer at another client"
        self.answered += 1

    def close(self) -> None:
        self.sock.close()
