"""Asks a running instance ``GET /readyz``, over a connection that is kept: its end is how a process that was killed is
noticed at once. Imports little, since `l4lb health` is started each second.

All time is bounded: an instance may hang, or send its answer byte by byte. `/readyz` needs no token.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlencode

from l4lb.errors import AdminError, L4lbError
from l4lb.net.address import Address, parse_address

ANSWER_BYTES_MAX = 1 << 20
_READ_BYTES = 1 << 16
_REASONS_SHOWN = 20


class Unanswered(L4lbError):
    """There is no answer. `gone`: nobody listens there any more, or whoever listens hung up."""

    def __init__(self, message: str, *, gone: bool) -> None:
        super().__init__(message)
        self.gone = gone


@dataclass(frozen=True, slots=True)
class Readiness:
    """See `l4lb.control.reporting.part_shapes.Readiness`."""

    ready: bool
    draining: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """What of the instance has to be ready: see `l4lb.control.process.readiness.Scope`."""

    listeners: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    min_backends: int = 1

    @property
    def path(self) -> str:
        names = [("listener", name) for name in self.listeners] + [("pool", name) for name in self.pools]
        query = urlencode([*names, ("min_backends", self.min_backends)], errors="surrogateescape")
        return f"/readyz?{query}"


def parse_instance(text: str) -> Address:
    """Where it listens. AdminError for a name: each look-up might take longer than all that is waited for."""
    try:
        address = parse_address(text)
    except ValueError as error:
        raise AdminError(f'"{text}": {error}', code="bad_address") from None
    numeric = ":" in address.host or address.host.replace(".", "").isdigit()
    if address.kind == "unix" or (address.kind == "ip" and not address.is_range and (numeric or _here(address.host))):
        return address
    raise AdminError(f'"{text}": expected "unix:/path", or an IP address or localhost with a port', code="bad_address")


def _here(host: str) -> bool:
    return host in ("", "localhost")


class Instance:
    """At `address`; `ask` opens the connection, and again when it has ended. Not for several threads."""

    def __init__(self, address: Address, scope: Scope) -> None:
        self._address = address
        self._request = f"GET {scope.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("ascii")
        self._sock: socket.socket | None = None
        self._latest: Readiness | None = None

    @property
    def connection(self) -> socket.socket | None:
        """Readable between questions: it has ended."""
        return self._sock

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def ask(self, within_s: float) -> Readiness:
        """Raises Unanswered.

        What is worse than before is asked for again on a new connection: after an upgrade the one that was kept may
        lead to the old process, which drains, while a new one serves.
        """
        deadline = time.monotonic() + within_s
        kept = self._sock is not None
        try:
            answer = self._ask(deadline)
        except Unanswered as error:
            if not kept or not error.gone:
                raise
            answer, kept = self._ask(deadline), False
        if kept and not answer.ready and answer != self._latest:
            self.close()
            answer = self._ask(deadline)
        self._latest = answer
        return answer

    def _ask(self, deadline: float) -> Readiness:
        try:
            if self._sock is None:
                self._sock = self._connected(deadline)
            return parse_answer(*self._exchanged(self._sock, deadline))
        except TimeoutError:
            self.close()
            raise Unanswered("it does not answer in time", gone=False) from None
        except BlockingIOError:  # connect(2), unix: EAGAIN, the queue of those that wait for accept(2) is full
            self.close()
            raise Unanswered("it accepts no connections", gone=False) from None
        except (ConnectionError, FileNotFoundError) as error:  # ECONNREFUSED, ECONNRESET, EPIPE; ENOENT, of its socket
            self.close()
            raise Unanswered(error.strerror or str(error), gone=True) from None
        except OSError as error:  # EMFILE, ENOBUFS, EACCES, ENETUNREACH, ...: says nothing of the instance
            self.close()
            raise Unanswered(error.strerror or str(error), gone=False) from None
        except ValueError as error:
            self.close()
            raise Unanswered(str(error), gone=False) from None

    def _connected(self, deadline: float) -> socket.socket:
        where = self._address
        if where.kind != "unix":
            return socket.create_connection((where.host or "localhost", where.ports[0]), _left(deadline))
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(_left(deadline))
            sock.connect("\0" + where.host[1:] if where.host.startswith("@") else where.host)
        except BaseException:
            sock.close()
            raise
        return sock

    def _exchanged(self, sock: socket.socket, deadline: float) -> tuple[int, bytes]:
        """The status and body of the answer. ConnectionResetError when the instance hangs up before its end."""
        sock.settimeout(_left(deadline))
        sock.sendall(self._request)
        data = b""
        while (answer := split_answer(data)) is None:
            sock.settimeout(_left(deadline))
            more = sock.recv(_READ_BYTES)
            if not more:
                raise ConnectionResetError("it hung up")
            data += more
        return answer


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def has_ended(sock: socket.socket) -> bool:
    """Whether anything has come on it without a question: its end, or nonsense."""
    with contextlib.suppress(OSError):
        return bool(select.select([sock], [], [], 0)[0])
    return True


def split_answer(data: bytes) -> tuple[int, bytes] | None:
    """Status and body of an HTTP answer (RFC 9112); None until all of it is there. ValueError for one that l4lb does
    not send: it always says how long the body is."""
    if len(data) > ANSWER_BYTES_MAX:
        raise ValueError(f"its answer has more than {ANSWER_BYTES_MAX >> 10} KiB")
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return None
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    headers = dict(line.lower().partition(":")[::2] for line in lines[1:])
    length = headers.get("content-length", "").strip()
    if not words[0].startswith("HTTP/1.") or len(words) < 2 or not _is_count(words[1]) or not _is_count(length):
        raise ValueError("it does not answer as l4lb does")
    return (int(words[1]), body[: int(length)]) if len(body) >= int(length) else None


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def parse_answer(status: int, body: bytes) -> Readiness:
    """ValueError for what is no answer of /readyz."""
    try:
        found = json.loads(body)
        reasons = found["reasons"]
        ready, draining = found["ready"], found["draining"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"it does not answer as l4lb does (HTTP {status})") from None
    if status not in (200, 503) or ready is not (status == 200) or not isinstance(draining, bool):
        raise ValueError(f"it does not answer as l4lb does (HTTP {status})")
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
        raise ValueError("it does not answer as l4lb does: reasons that are no texts")
    return Readiness(ready, draining, tuple(one_line(reason) for reason in reasons[:_REASONS_SHOWN]))


def one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def default_instance() -> str:
    """The address of the admin API by default."""
    from l4lb.net.listen.admin_socket import default_admin_address  # imports more than a check should need

    return default_admin_address()
