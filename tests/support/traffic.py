"""Clients that count: what they sent, what came back, how long the slowest of them took."""

from __future__ import annotations

import random
import threading
import time
import urllib.request
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from tests.support.peers import connect

THREADS = 8


@dataclass
class Counted:
    """Sums over sessions that went as they should."""

    sessions: int = 0
    sent: int = 0
    received: int = 0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)


def one_session(address: str | tuple[str, int], counted: Counted, draw: random.Random) -> None:
    """Ask an echo for some bytes and count what it answered."""
    began = time.monotonic()
    question = bytes(draw.randrange(1, 2000))
    try:
        with connect(address) as sock:
            sock.sendall(question)
            received = 0
            while received < len(question):
                data = sock.recv(4096)
                if not data:
                    break
                received += len(data)
    except OSError as error:
        counted.failures.append(str(error))
        return
    counted.sessions += 1
    counted.sent += len(question)
    counted.received += received
    counted.slowest_s = max(counted.slowest_s, time.monotonic() - began)


def sessions(address: str | tuple[str, int], count: int) -> Counted:
    """`count` sessions, several at a time. None of them may fail."""
    parts = [Counted() for _ in range(THREADS)]

    def work(index: int) -> None:
        draw = random.Random(index)
        for _ in range(index, count, THREADS):
            one_session(address, parts[index], draw)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failures = [failure for part in parts for failure in part.failures]
    assert not failures, failures[:3]
    return Counted(
        sum(part.sessions for part in parts),
        sum(part.sent for part in parts),
        sum(part.received for part in parts),
        max(part.slowest_s for part in parts),
    )


class Scraped:
    """What ``/metrics`` at `address` says now."""

    def __init__(self, address: str) -> None:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        families = text_string_to_metric_families(text)
        self.samples = [sample for family in families for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all that have these labels."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )
