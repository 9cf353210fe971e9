"""Peers that do exactly what a test says: plain blocking sockets with deadlines."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator

TIMEOUT_S = 60.0
KEPT_S = 600.0  # a server waits so long: a client that is idle for want of a CPU keeps its connection
TCP_CLOSE = 7  # linux/tcp_states.h


def tcp_state(sock: socket.socket) -> int:
    """The first byte of tcp_info; that of a closed socket is TCP_CLOSE."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] if sock.fileno() >= 0 else TCP_CLOSE


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_until_sent(sock: socket.socket) -> None:
    """Until the peer's kernel has acknowledged all that was sent."""
    deadline = time.monotonic() + TIMEOUT_S
    while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0]:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the FIN. ConnectionResetError when a reset comes instead; what came before is lost here."""
    parts = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """The next `count` bytes; fewer when the FIN comes before."""
    data = b""
    while len(data) < count and (piece := sock.recv(count - len(data))):
        data += piece
    return data


def read_until_end(sock: socket.socket) -> tuple[bytes, bool]:
    """Everything that came, and whether it ended with a reset."""
    parts = []
    try:
        while data := sock.recv(1 << 16):
            parts.append(data)
    except ConnectionResetError:
        return b"".join(parts), True
    return b"".join(parts), False


class Server:
    """A listening socket, made or given, whose every connection is handled by `handle` on a thread of its own."""

    def __init__(
        self,
        handle: Callable[[socket.socket], None],
        host: str = "127.0.0.1",
        port: int = 0,
        listening: socket.socket | None = None,
        receive_buffer: int = 0,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._handle = handle
        self._listening = listening or socket.create_server((host, port), family=family, backlog=1024)
        if receive_buffer:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.port = 0 if listening else int(self._listening.getsockname()[1])
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.accepted = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            sock.settimeout(KEPT_S)
            self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock, contextlib.suppress(OSError):
                self._handle(sock)
        finally:
            self._open.discard(sock)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT_S)


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        server.stop()


def serving(
    handle: Callable[[socket.socket], None], host: str = "127.0.0.1", port: int = 0
) -> contextlib.AbstractContextManager[Server]:
    return running(Server(handle, host, port))


def echo(sock: socket.socket) -> None:
    """Send back what comes, and the FIN after it."""
    while data := sock.recv(1 << 16):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def hold(sock: socket.socket) -> None:
    """Accept and say nothing until the other side goes."""
    while sock.recv(1 << 16):
        pass


def one_answer(text: bytes) -> Callable[[socket.socket], None]:
    """Answer every connection's first bytes with `text`, then the FIN."""

    def answer(sock: socket.socket) -> None:
        if sock.recv(1 << 16):
            sock.sendall(text)

    return answer


def greeting(text: bytes) -> Callable[[socket.socket], None]:
    """Say `text` first, then the FIN; read on until the other side goes."""

    def greet(sock: socket.socket) -> None:
        sock.sendall(text)
        sock.shutdown(socket.SHUT_WR)
        hold(sock)

    return greet


@contextlib.contextmanager
def dawdling(address: str, receive_buffer: int = 4096) -> Iterator[socket.socket]:
    """A client whose kernel takes little: what it does not read stays where it came from."""
    host, _, port = address.rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(TIMEOUT_S)
        sock.connect((host, int(port)))
        yield sock


def connect(address: str | tuple[str, int]) -> socket.socket:
    if isinstance(address, str):
        if address.startswith("unix:"):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(TIMEOUT_S)
            name = address.removeprefix("unix:")
            try:
                sock.connect("\0" + name[1:] if name.startswith("@") else name)
            except BaseException:
                sock.close()
                raise
            return sock
        host, _, port = address.rpartition(":")
        address = (host.strip("[]"), int(port))
    return socket.create_connection(address, timeout=TIMEOUT_S)


def refused(address: str | tuple[str, int]) -> bool:
    """Whether nobody listens there. One that is just closing may reset (connect(2): ECONNRESET)."""
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    return False
