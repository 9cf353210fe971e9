"""A client as people write them: a request is a line, and so is its answer. It tries again when that may help."""

from __future__ import annotations

import socket


class QuoteError(Exception):
    """No answer could be had; the last reason is its cause."""


class QuoteClient:
    """Asks the service at `host` and `port`: up to `attempts` times, each for at most `timeout` seconds."""

    def __init__(self, host: str, port: int, *, attempts: int = 3, timeout: float = 1.0) -> None:
        self._address = (host, port)
        self._attempts = attempts
        self._timeout = timeout

    def ask(self, word: str) -> str:
        """The answer. Raises QuoteError."""
        for attempt in range(1, self._attempts + 1):
            try:
                return self._ask_once(word)
            except OSError as error:
                if attempt == self._attempts:
                    raise QuoteError(f"no answer after {attempt} attempts") from error
        raise AssertionError("attempts is at least 1")

    def _ask_once(self, word: str) -> str:
        with socket.create_connection(self._address, timeout=self._timeout) as sock:
            sock.sendall(word.encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                if not (data := sock.recv(4096)):
                    raise ConnectionError("the answer breaks off")
                answer += data
            return answer.decode().removesuffix("\n")
