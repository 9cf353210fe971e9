"""``GET /v1/events`` of another process: a connection of its own, read on a thread of its own, that fills a `Feed`."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from l4lb.control.state.feed import Feed
from l4lb.errors import AdminError, L4lbError
from l4lb.net.threads import started
from l4lb.remote import answers

SILENT_MAX_S = 45.0  # the other side sends something every 15 s
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Peer:
    """The other process. `refusal` makes an error of an answer that is none of success, `unreachable` of the reason why
    there is no answer."""

    connect: Callable[[], http.client.HTTPConnection]
    headers: Mapping[str, str]
    refusal: Callable[[int, bytes], AdminError]
    unreachable: Callable[[str], AdminError]


class Following:
    """From `start` until `stop`, or until the other process ends the stream."""

    def __init__(self, peer: Peer, last: int, follow: bool, feed: Feed) -> None:
        self._peer = peer
        self._query = f"last={last}" if follow else f"last={last}&follow=false"
        self._feed = feed
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._begun = threading.Event()
        self._stopping = False
        self._error: L4lbError | None = None
        self._thread = threading.Thread(target=self._run, name="l4lb-events", daemon=True)

    def start(self) -> None:
        started(self._thread)

    def wait_begun(self) -> None:
        """Until the other process sends events from now on. AdminError when it does not."""
        self._begun.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the thread, which closes the connection. Idempotent."""
        self._stopping = True
        self._feed.drop()
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread and self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    # ---- its thread ----

    def _run(self) -> None:
        try:
            self._read()
        except (OSError, http.client.HTTPException) as error:
            self._error = None if self._stopping else self._failure(error)
        except L4lbError as error:
            self._error = error
        finally:
            if self._connection is not None:
                self._connection.close()
            self._feed.end(self._error)
            self._begun.set()

    def _failure(self, error: Exception) -> AdminError:
        reason = reason_of(error)
        if not self._begun.is_set():
            return self._peer.unreachable(reason)
        return AdminError(f"the stream of events has ended: {reason}")

    def _read(self) -> None:
        self._connection = self._peer.connect()
        self._connection.request("GET", f"/v1/events?{self._query}", headers=dict(self._peer.headers))
        self._socket = self._connection.sock
        if self._stopping:  # `stop` has found no socket to shut down
            return
        response = self._connection.getresponse()
        if response.status != 200:
            raise self._peer.refusal(response.status, response.read())
        self._socket.settimeout(SILENT_MAX_S)
        self._begun.set()
        for data in _events(response):
            self._feed.put(answers.event(data))


def reason_of(error: Exception) -> str:
    """Why a connection failed, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _events(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The data of each event (WHATWG HTML, section 9.2.6); comments keep the connection alive."""
    data: list[bytes] = []
    while line := response.readline():
        text = line.rstrip(b"\r\n")
        if text.startswith(b"data:"):
            data.append(text.removeprefix(b"data:").removeprefix(b" "))
        elif not text and data:
            yield b"\n".join(data)
            data = []
