"""What backends answer: of each new connection, a function from the bytes that came to the bytes to send."""

from __future__ import annotations

from collections.abc import Callable

Answer = Callable[[bytes], bytes]
Service = Callable[[str], Answer]  # of the backend's name
_HEAD_MAX = 64 * 1024


def echo(name: str) -> Answer:
    return lambda data: data


def http(name: str) -> Answer:
    """HTTP/1.1 with keep-alive: any request gets 200 and ``hello from NAME``."""
    body = f"hello from {name}\n".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return _Requests(head + body).answer


class _Requests:
    """Finds the ends of requests, which may come in pieces, or several in one."""

    def __init__(self, response: bytes) -> None:
        self._response = response
        self._data = b""
        self._body_left = 0

    def answer(self, data: bytes) -> bytes:
        self._data += data
        answers = b""
        while self._data:
            if self._body_left:
                skipped = min(self._body_left, len(self._data))
                self._data, self._body_left = self._data[skipped:], self._body_left - skipped
                if not self._body_left:
                    answers += self._response
                continue
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                break
            self._data, self._body_left = rest, _content_length(head)
            if not self._body_left:
                answers += self._response
        if len(self._data) > _HEAD_MAX:
            raise ConnectionError("no request of HTTP")
        return answers


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return 0
