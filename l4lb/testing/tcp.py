"""A TCP backend on a free port of loopback, whose every connection has a thread of its own. Faults hold for connections
that are there, too, except `refuse`."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
import time
from collections.abc import Callable

from l4lb.testing.faults import Fault, Faults, Switches, at_least
from l4lb.testing.services import Answer, Service

_LINGER_NONE = struct.pack("ii", 1, 0)
_JOIN_S = 10.0
_SLICE_S = 0.02  # a slow backend sends so much at once
_CHUNK_BYTES = 64 * 1024
Stopping = Callable[[], bool]


class TcpBackend:
    """One backend: `address` is ``127.0.0.1:PORT``; `accepted` counts connections, health checks included."""

    def __init__(self, name: str, service: Service) -> None:
        self.name = name
        self.accepted = 0
        self._service = service
        self._stopping = False
        self._open: set[_Connection] = set()
        self._threads: list[threading.Thread] = []
        # Bound and not listening: holds the port while connections are refused.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.port = int(self._holder.getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"
        self._listening: socket.socket | None = None
        self._switches = Switches(self._apply)
        self._listen()

    def __repr__(self) -> str:
        return f"<TcpBackend {self.name} {self.address}>"

    # ---- faults ----

    def refuse(self) -> Fault:
        """Refuse new connections, as when nothing listens. Those that are there go on: see `disconnect`."""
        return self._switches.switch(refuse=True)

    def hang(self) -> Fault:
        """Accept connections, and take what comes, but say nothing. Afterwards it answers what came meanwhile."""
        return self._switches.switch(hang=True)

    def reset_after(self, sent_bytes: int) -> Fault:
        """Reset a connection (RST) once that many bytes were answered; 0: as soon as there is something to answer."""
        at_least("sent_bytes", sent_bytes, 0)
        return self._switches.switch(reset_after=sent_bytes)

    def cut_after(self, sent_bytes: int) -> Fault:
        """End a connection (FIN) once that many bytes were answered, in the middle of an answer if it is longer."""
        at_least("sent_bytes", sent_bytes, 0)
        return self._switches.switch(cut_after=sent_bytes)

    def slow(self, bytes_per_s: float) -> Fault:
        """Send at most that many bytes a second on each connection."""
        at_least("bytes_per_s", bytes_per_s, 1)
        return self._switches.switch(bytes_per_s=bytes_per_s)

    def disconnect(self) -> None:
        """Reset all connections that are there now."""
        for connection in list(self._open):
            connection.reset()

    def heal(self) -> None:
        """End all faults."""
        self._switches.heal()

    # ---- life ----

    def stop(self) -> None:
        """Close everything. Idempotent."""
        with self._switches.changed:
            self._stopping = True
            self._switches.changed.notify_all()
        self._close_listening()
        for connection in list(self._open):
            connection.shutdown()
        for thread in list(self._threads):
            thread.join(_JOIN_S)
        self._holder.close()

    def _apply(self, faults: Faults) -> None:
        if self._stopping:
            return
        if faults.refuse:
            self._close_listening()
        elif self._listening is None:
            self._listen()

    def _listen(self) -> None:
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", self.port))
            sock.listen(1024)
        except OSError:
            sock.close()
            raise
        self._listening = sock
        self._begin(threading.Thread(target=self._accept, args=(sock,), daemon=True))

    def _close_listening(self) -> None:
        sock, self._listening = self._listening, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes accept(2)
            sock.close()

    def _begin(self, thread: threading.Thread) -> None:
        self._threads = [one for one in self._threads if one.is_alive()]
        self._threads.append(thread)
        thread.start()

    # ---- their threads ----

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EBADF):  # shut down or closed, by `refuse` or `stop`
                    return
                time.sleep(_SLICE_S)  # ECONNABORTED, the client has gone; EMFILE and its like pass: others close some
                continue
            self.accepted += 1
            connection = _Connection(sock, self._switches, self._service(self.name))
            self._open.add(connection)
            self._begin(threading.Thread(target=self._serve, args=(connection,), daemon=True))

    def _serve(self, connection: _Connection) -> None:
        try:
            connection.run(lambda: self._stopping)
        finally:
            self._open.discard(connection)


class _Connection:
    def __init__(self, sock: socket.socket, switches: Switches, answer: Answer) -> None:
        self._sock = sock
        self._switches = switches
        self._answer = answer
        self._resetting = False
        self._sent = 0
        self._version = switches.version  # of the faults from which on `_sent` counts

    def run(self, stopping: Stopping) -> None:
        """Until the client ends, a fault does, or the backend stops."""
        try:
            with contextlib.suppress(OSError):
                while data := self._sock.recv(_CHUNK_BYTES):
                    if not self._send(self._answer(data), stopping):
                        return
                if not self._resetting:
                    self._sock.shutdown(socket.SHUT_WR)
        finally:
            self._sock.close()

    def _send(self, data: bytes, stopping: Stopping) -> bool:
        """False when a fault has ended the connection."""
        while data:
            faults = self._current(stopping)
            if faults is None:
                return False
            allowed = _smallest(faults.reset_after, faults.cut_after)
            if allowed is not None and self._sent >= allowed:
                if faults.reset_after is not None and self._sent >= faults.reset_after:
                    self.reset()
                return False
            size = len(data) if allowed is None else min(len(data), allowed - self._sent)
            if faults.bytes_per_s is not None:
                size = min(size, max(1, int(faults.bytes_per_s * _SLICE_S)))
            self._sock.sendall(data[:size])
            self._sent += size
            data = data[size:]
            if faults.bytes_per_s is not None:
                time.sleep(size / faults.bytes_per_s)
        return self._may_go_on(stopping)

    def _may_go_on(self, stopping: Stopping) -> bool:
        """After an answer: a fault that was to end it just there does so at once, and not with the next one."""
        faults = self._current(stopping)
        if faults is None:
            return False
        if faults.reset_after is not None and 0 < faults.reset_after <= self._sent:
            self.reset()
            return False
        return not (faults.cut_after is not None and 0 < faults.cut_after <= self._sent)

    def _current(self, stopping: Stopping) -> Faults | None:
        """The faults, once they are not to hang any more; None: the backend stops."""
        with self._switches.changed:
            while self._switches.now.hang and not stopping():
                self._switches.changed.wait()
            if self._switches.version != self._version:
                self._version, self._sent = self._switches.version, 0
            return None if stopping() else self._switches.now

    def reset(self) -> None:
        """Its thread closes it, which sends the RST: nothing is sent by shutdown(2) for reading, which wakes it."""
        self._resetting = True
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            self._sock.shutdown(socket.SHUT_RD)

    def shutdown(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def _smallest(*values: int | None) -> int | None:
    given = [value for value in values if value is not None]
    return min(given) if given else None
