"""Many datagrams of many clients, each of which says who sent it, which one it is, how long and of what content: so
each that is lost, cut, doubled, out of order or at a wrong place is known.

A datagram that is too short for that says as much of its client as fits.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
import zlib
from collections import Counter

from tests.support.datagrams import UdpClient, wide_buffers
from tests.support.programs import share_of

STAMP = struct.Struct(">HIHI")  # client, number, length, CRC-32 of what follows
CONTENT = random.Random(1).randbytes(1 << 17)
LARGEST = 65507
SO_MEMINFO = 55
LINUX_SO_RXQ_DROPS = 8  # the place of the drops in what it tells, see linux/sock_diag.h


def stamped(client: int, number: int, size: int) -> bytes:
    if size < STAMP.size:
        return (struct.pack(">H", client) * STAMP.size)[:size]
    content = CONTENT[number % 65536 :][: size - STAMP.size]
    return STAMP.pack(client, number, size, zlib.crc32(content)) + content


def number_of(data: bytes, client: int | None = None) -> int | None:
    """Which one of its client's it is; None for one that is too short to say. AssertionError when it is not as it was
    sent, or not of `client`."""
    if len(data) < STAMP.size:
        assert client is None or data == stamped(client, 0, len(data)), "a short datagram of another client"
        return None
    sender, number, size, checksum = STAMP.unpack_from(data)
    assert size == len(data), f"{len(data)} bytes arrived of {size}"
    assert zlib.crc32(data[STAMP.size :]) == checksum, "content was changed"
    assert client is None or sender == client, f"client {client} got a datagram of client {sender}"
    return int(number)


def _meminfo(sock: socket.socket) -> tuple[int, ...]:
    return struct.unpack("=9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams for which its queue had no room."""
    return _meminfo(sock)[LINUX_SO_RXQ_DROPS]


class EchoBackend:
    """Sends every datagram back and counts, on a thread of its own. It can lose its port for a while and all that waits
    there, as a server that is restarted does."""

    def __init__(self) -> None:
        self.received = 0
        self.answered = 0
        self.dropped = 0  # by its kernel
        self.restarts = 0
        self.wrong: list[str] = []
        self._last: dict[tuple[tuple[str, int], int], int] = {}
        self.sock = self._bind_any()
        self.port = int(self.sock.getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"
        self._restart_after = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _bind_any(self) -> socket.socket:
        """Below the kernel's own range: nobody takes the port while it is free."""
        for port in random.sample(share_of(range(10_000, 20_000)), 100):
            with contextlib.suppress(OSError):
                return self._bind(port)
        raise AssertionError("no free port")

    @staticmethod
    def _bind(port: int) -> socket.socket:
        sock = wide_buffers(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        sock.settimeout(0.2)
        return sock

    def restart_every(self, datagrams: int) -> None:
        self._restart_after = datagrams

    def _run(self) -> None:
        until_restart = 0
        while not self._stopping:
            if self._restart_after and until_restart <= 0:
                if self.received:
                    self._restart()
                until_restart = random.randint(1, 2 * self._restart_after)
            try:
                data, peer = self.sock.recvfrom(1 << 16)
            except TimeoutError:
                continue
            until_restart -= 1
            self._take(data, peer)

    def _take(self, data: bytes, peer: tuple[str, int]) -> None:
        self.received += 1
        try:
            number = number_of(data)
            if number is not None:
                flow = peer, STAMP.unpack_from(data)[0]  # a socket of the balancer serves another client later
                assert number > self._last.get(flow, -1), f"{flow}: {number} after {self._last[flow]}"
                self._last[flow] = number
        except AssertionError as error:
            self.wrong.append(str(error))
        with contextlib.suppress(OSError):
            self.sock.sendto(data, peer)
            self.answered += 1

    @property
    def idle(self) -> bool:
        """Nothing waits in its queue, datagrams without bytes included, and what it read is answered."""
        try:
            return not _meminfo(self.sock)[0] and self.received == self.answered
        except OSError:  # it restarts
            return False

    def _restart(self) -> None:
        self.dropped += kernel_drops(self.sock)
        self.sock.close()
        time.sleep(random.uniform(0, 0.02))  # that long nobody is there
        self.sock = self._bind(self.port)
        self.restarts += 1

    def stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._thread.join()
        self.dropped += kernel_drops(self.sock)
        self.sock.close()


class Client:
    """Has some datagrams under way at a time, and no more than some bytes; what does not come back in time is lost."""

    def __init__(self, index: int, address: str, window: int, window_bytes: int, ordered: bool) -> None:
        self.index = index
        self._ordered = ordered
        self._seen: set[int] = set()
        self.peer = UdpClient(address)
        self.peer.sock.setblocking(False)
        self.sent = 0
        self.received = 0
        self._short_sent: Counter[int] = Counter()
        self._short_received: Counter[int] = Counter()
        self._last = -1
        self._window = window
        self._window_bytes = window_bytes
        self._pending = 0
        self._pending_bytes = 0
        self._heard = time.monotonic()

    def may_send(self, now: float, patience_s: float) -> bool:
        if now - self._heard > patience_s:
            self._pending = self._pending_bytes = 0
        return self._pending < self._window and self._pending_bytes < self._window_bytes

    def send(self, size: int, now: float) -> None:
        """A kernel that has no room leaves the datagram to be sent later."""
        data = stamped(self.index, self.sent, size)
        try:
            self.peer.send(data)
        except (BlockingIOError, ConnectionRefusedError):
            return
        if self._pending == 0:
            self._heard = now
        self.sent += 1
        self._short_sent[size] += size < STAMP.size
        self._pending += 1
        self._pending_bytes += size

    def receive(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._take(self.peer.receive())
                self._heard = now

    def _take(self, data: bytes) -> None:
        self.received += 1
        self._pending = max(0, self._pending - 1)
        self._pending_bytes = max(0, self._pending_bytes - len(data))
        number = number_of(data, self.index)
        if number is None:
            self._short_received[len(data)] += 1
            assert self._short_received[len(data)] <= self._short_sent[len(data)], "a datagram came twice"
            return
        assert number < self.sent, "an answer to what was never sent"
        assert number not in self._seen, f"client {self.index}: {number} came twice"
        assert number > self._last or not self._ordered, f"client {self.index}: {number} after {self._last}"
        self._seen.add(number)
        self._last = number


class Crowd:
    """Clients that send, in turn and in any size, and check all that comes back; not `ordered`: each client has several
    sessions at a time, which may overtake each other."""

    def __init__(
        self, address: str, count: int, *, window: int, window_bytes: int, seed: int, ordered: bool = True
    ) -> None:
        self._random = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self.clients = [Client(index, address, window, window_bytes, ordered) for index in range(count)]
        for client in self.clients:
            self._selector.register(client.peer.sock, selectors.EVENT_READ, client)

    def _size(self) -> int:
        """Mostly small."""
        kind = self._random.random()
        if kind < 0.70:
            return self._random.randint(0, 200)
        return self._random.randint(0, 1500) if kind < 0.97 else self._random.randint(0, LARGEST)

    def exchange(self, datagrams: int, patience_s: float = 0.25) -> None:
        """Send that many in all."""
        while self.sent < datagrams:
            now = time.monotonic()
            for client in self.clients:
                if client.may_send(now, patience_s):
                    client.send(self._size(), now)
            self.hear(0.001)

    def hear(self, timeout_s: float) -> None:
        now = time.monotonic()
        for key, _ in self._selector.select(timeout_s):
            key.data.receive(now)

    @property
    def sent(self) -> int:
        return sum(client.sent for client in self.clients)

    @property
    def received(self) -> int:
        return sum(client.received for client in self.clients)

    @property
    def dropped(self) -> int:
        """By the kernel, on their side."""
        return sum(kernel_drops(client.peer.sock) for client in self.clients)

    def close(self) -> None:
        self._selector.close()
        for client in self.clients:
            client.peer.close()
