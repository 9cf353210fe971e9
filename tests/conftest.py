"""What holds after every test: nothing leaked, natively or in Python."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from collections.abc import Iterator
from weakref import WeakSet

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from l4lb.engine.native import NativeForwarder
from tests.support.waiting import wait_until

# Others run beside: an example may take long for want of a CPU.
settings.register_profile("l4lb", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("l4lb")

uvloop.new_event_loop().close()  # libuv opens one pipe for the process with its first loop, and keeps it
gc.disable()  # until all tests are known: see below


def pytest_collection_finish() -> None:
    """What is imported stays until the end. Looking for garbage in it took a fifth of the tests' CPU time."""
    gc.freeze()
    gc.enable()


def open_fds() -> Counter[str]:
    """What is open, by target; numbers within names (sockets, pipes) make each distinct."""
    targets: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            targets[os.readlink(f"/proc/self/fd/{fd}")] += 1
        except FileNotFoundError:
            continue
    return targets


def thread_names() -> Counter[str]:
    return Counter(thread.name for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_leaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sessions opened = closed, pipes and chunks out = 0, no new fd, no new thread."""
    leaks: list[dict[str, int]] = []
    closed_once: WeakSet[NativeForwarder] = WeakSet()
    close = NativeForwarder.close

    def closing(self: NativeForwarder) -> None:
        close(self)
        if self not in closed_once:
            closed_once.add(self)
            found = [self.leaks()]
            for name, listener in self.stats().listeners.items():
                ended = sum(listener.closed.values())
                found.append({f"{name}: sessions opened but not closed": listener.sessions_total - ended})
            leaks.extend(leak for leak in found if any(leak.values()))  # a test may close thousands

    monkeypatch.setattr(NativeForwarder, "close", closing)
    fds, threads = open_fds(), thread_names()
    yield
    assert leaks == []
    assert wait_until(lambda: not thread_names() - threads, 10), thread_names() - threads
    assert wait_until(lambda: not open_fds() - fds, 10), open_fds() - fds
