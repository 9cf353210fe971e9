"""A client that retries nothing: short requests at a steady rate, or connections that stay and ask again and again.

python -m tests.lab.fleet.load short RATE URL-HOST      until stdin is closed; then one line of JSON: what came of it
python -m tests.lab.fleet.load long COUNT URL-HOST      the same; prints "ready" once all have had an answer
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import threading
import time
from collections import Counter

PORT = 80
_TIMEOUT_S = 10.0
_EVERY_S = 0.2  # each long connection asks so often
_THREADS = 16


class Connection:
    def __init__(self, host: str) -> None:
        self._socket = socket.create_connection((host, PORT), timeout=_TIMEOUT_S)

    def ask(self, connection: str) -> str:
        """Who answered. OSError when nobody did."""
        self._socket.sendall(f"GET / HTTP/1.1\r\nHost: lab\r\nConnection: {connection}\r\n\r\n".encode())
        said = b""
        while not re.search(rb"\r\n\r\n.*\n", said, re.DOTALL):
            piece = self._socket.recv(4096)
            if not piece:
                raise ConnectionResetError("closed before it had answered")
            said += piece
        return said.rpartition(b"\r\n\r\n")[2].decode().strip()

    def close(self) -> None:
        self._socket.close()


class Results:
    """By who answered, and by why nobody did. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def answer(self, by: str) -> None:
        with self._lock:
            self.answered[by] += 1

    def failure(self, error: OSError) -> None:
        with self._lock:
            self.failed[type(error).__name__] += 1

    def report(self) -> None:
        print(json.dumps({"answered": self.answered, "failed": self.failed}), flush=True)


def _request(host: str, results: Results) -> None:
    try:
        connection = Connection(host)
        try:
            results.answer(connection.ask("close"))
        finally:
            connection.close()
    except OSError as error:
        results.failure(error)


def short(rate: float, host: str) -> None:
    results, stop = Results(), threading.Event()

    def ask(first: int) -> None:
        began = time.monotonic()
        for number in range(first, sys.maxsize, _THREADS):
            if stop.wait(max(0.0, began + number / rate - time.monotonic())):
                return
            _request(host, results)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    select.select([sys.stdin], [], [])
    stop.set()
    for thread in threads:
        thread.join()
    results.report()


def long(count: int, host: str) -> None:
    """A connection that is lost is not made again."""
    results = Results()
    living = {Connection(host) for _ in range(count)}
    first = {connection: connection.ask("keep-alive") for connection in living}
    print("ready", flush=True)
    lost: Counter[str] = Counter()
    ending = False
    while not ending:  # and when it is to end, each asks once more
        ending = bool(select.select([sys.stdin], [], [], _EVERY_S)[0])
        for connection in list(living):
            try:
                results.answer(connection.ask("keep-alive"))
            except OSError as error:
                results.failure(error)
                lost[first[connection]] += 1
                living.discard(connection)
                connection.close()
    print(json.dumps({"living": len(living), "lost": lost, "failed": results.failed}), flush=True)


if __name__ == "__main__":
    {"short": short, "long": long}[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
