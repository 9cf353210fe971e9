"""A UDP backend on a free port of loopback, on a thread of its own."""

from __future__ import annotations

import contextlib
import select
import socket
import threading

from l4lb.testing.faults import Fault, Faults, Switches, at_least
from l4lb.testing.services import Service

_JOIN_S = 10.0
_LOOK_S = 0.2  # how soon the thread sees that its socket was exchanged


class UdpBackend:
    """One backend: `address` is ``127.0.0.1:PORT``; `received` counts datagrams, dropped ones included."""

    def __init__(self, name: str, service: Service) -> None:
        self.name = name
        self.received = 0
        self._answer = service(name)
        self._stopping = False
        # Connected to nobody: it gets nothing, and holds the port while datagrams are refused.
        self._holder = _bound(0)
        self.port = int(self._holder.getsockname()[1])
        self._holder.connect(("127.0.0.1", 1))
        self.address = f"127.0.0.1:{self.port}"
        self._sock: socket.socket | None = _bound(self.port)
        self._switches = Switches(self._apply)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<UdpBackend {self.name} {self.address}>"

    # ---- faults ----

    def refuse(self) -> Fault:
        """Refuse datagrams (ICMP port unreachable), as when nothing is bound."""
        return self._switches.switch(refuse=True)

    def hang(self) -> Fault:
        """Take datagrams and say nothing. They are not answered later."""
        return self._switches.switch(hang=True)

    def drop(self, every: int = 1) -> Fault:
        """Lose each `every`-th datagram, from the next on; 1: all of them."""
        at_least("every", every, 1)
        return self._switches.switch(drop_every=every)

    def duplicate(self, copies: int = 2) -> Fault:
        """Send each answer that many times."""
        at_least("copies", copies, 1)
        return self._switches.switch(copies=copies)

    def heal(self) -> None:
        """End all faults."""
        self._switches.heal()

    # ---- life ----

    def stop(self) -> None:
        """Close everything. Idempotent."""
        with self._switches.changed:
            self._stopping = True
            self._switches.changed.notify_all()
        self._thread.join(_JOIN_S)
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        self._holder.close()

    def _apply(self, faults: Faults) -> None:
        """With the lock of the switches, which the thread has while it uses the socket."""
        if self._stopping or faults.refuse == (self._sock is None):
            return
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        else:
            self._sock = _bound(self.port)

    # ---- its thread ----

    def _run(self) -> None:
        seen, count = -1, 0
        while True:
            with self._switches.changed:
                while self._sock is None and not self._stopping:
                    self._switches.changed.wait()
                if self._stopping or self._sock is None:
                    return
                if seen != self._switches.version:
                    seen, count = self._switches.version, 0
                count += self._serve(self._sock, count)
            _wait_readable(self._sock)

    def _serve(self, sock: socket.socket, count: int) -> int:
        """Answer one datagram, if there is one. Returns how many there were."""
        try:
            data, peer = sock.recvfrom(65535)
        except OSError:  # none, or the report that an answer was refused
            return 0
        self.received += 1
        faults = self._switches.now
        dropped = faults.drop_every is not None and count % faults.drop_every == 0
        if not (faults.hang or dropped):
            for _ in range(faults.copies):
                with contextlib.suppress(OSError):  # no room, or the client is away: lost, as datagrams may be
                    sock.sendto(self._answer(data), peer)
        return 1


def _wait_readable(sock: socket.socket | None) -> None:
    if sock is None or (fd := sock.fileno()) < 0:
        return
    asked = select.poll()
    asked.register(fd, select.POLLIN)
    asked.poll(_LOOK_S * 1000)


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock
