"""Peers that speak UDP, each on a plain socket with deadlines."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator

TIMEOUT_S = 10.0
UDP_SEGMENT = 103
UDP_GRO = 104
BUFFER_BYTES = 1 << 22

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
